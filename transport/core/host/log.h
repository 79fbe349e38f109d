/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The log of dirty pages: which pages of guest memory a device wrote, for whoever migrates the guest while it runs.
 *
 * A bit a page of 4 KiB, in a file of the peer's that is mapped here. A page is marked after the write to it: whoever takes the bits and
 * then copies the pages either sees the write, or finds the page marked the next time. A mark that cannot be made is an error and breaks
 * the ring, since a page that was written and not marked would be lost without a word.
 */
#ifndef PV_HOST_LOG_H
#define PV_HOST_LOG_H

#include "ring.h"

struct pv_log {
    const struct pv_memory *bitmap; /* one region, from address 0 on: page 8i + j is bit j of byte i */
    int bell;                       /* an eventfd to ring after each mark, or -1 */
};

#define PV_LOG_NO_ADDRESS UINT64_MAX

/*
 * From now on log what the device writes to buffers and, with another `used` than PV_LOG_NO_ADDRESS, to the used ring, which the log has at
 * that address. NULL ends it. Not while another thread uses the ring.
 */
void pv_log_start(struct pv_device_ring *r, const struct pv_log *log, uint64_t used);

/* Mark the pages of [addr, addr + len). -PV_E_ADDRESS if the log has no bit for one of them, -PV_E_GONE if the peer truncated it. */
int pv_log_mark(const struct pv_log *log, uint64_t addr, uint64_t len);

/* What a ring calls when it has a log, after a write; 0 or -error. */
int pv_log_chain(struct pv_device_ring *r, const struct pv_slot *slot, uint32_t offset, uint32_t len); /* bytes of the writable part of a chain */
int pv_log_used(struct pv_device_ring *r, uint16_t from); /* the used entries `from` to the latest, and the index */
int pv_log_event(struct pv_device_ring *r);               /* what asks for a kick: avail_event, or the used flags */

#endif
