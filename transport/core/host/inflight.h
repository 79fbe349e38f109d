/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A table, in a file that outlives this process, of the chains that a device has in hand (vhost-user, "Inflight I/O tracking", the split
 * layout). Whoever serves the queue after a crash finds in it what was taken and not given back: the rings alone do not tell, since chains
 * may be given back in any order.
 *
 * At any moment, so also if the process is killed between any two stores:
 *
 *     the chains with `inflight` set, less the last (used index of the ring - used_idx) of the list that starts at last_batch_head,
 *     and the chains given back
 *
 * are together the first so many entries that the driver offered. For that every chain is marked in the order of the available ring, a bad
 * one that goes back unserved too, before anything else is done with it; and a batch given back is listed before the used index moves, and
 * its marks are cleared after. Nobody else looks while we live, so it is enough that the compiler keeps the order of the stores.
 *
 * The table belongs to the frontend: nothing in it is ever read back here, and its memory may vanish.
 */
#ifndef PV_HOST_INFLIGHT_H
#define PV_HOST_INFLIGHT_H

#include "ring.h"

#define PV_INFLIGHT_VERSION 1u
#define PV_INFLIGHT_ALIGNMENT 64u /* of each queue's part of the file */

struct pv_inflight_desc {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;    /* the list of the last batch */
    uint64_t counter; /* the order in which chains were taken */
};

/* In the machine's byte order, as all of vhost-user. */
struct pv_inflight_queue {
    uint64_t features; /* 0 */
    uint16_t version;  /* 0 while the table was not used */
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct pv_inflight_desc desc[];
};

/* The private side of one queue's table; its ring points to it. The caller brings the arrays. */
struct pv_inflight {
    struct pv_inflight_queue *table; /* shared, with an entry for each descriptor of the ring at least */
    const struct pv_memory *memory;  /* which it lies in */
    uint16_t *batch;                 /* size entries: the heads of a batch on its way */
    uint16_t *again;                 /* 3 + size entries, laid out as an available ring: the heads to take once more */
    uint64_t counter;
    uint16_t last_batch_head;
    uint16_t left; /* of `again` */
};

/*
 * Keep the table of a ring that was started at the same available and used index: the used index of the ring. The `count` heads, which
 * are marked, are taken once more before all others.
 */
void pv_inflight_start(struct pv_inflight *f, struct pv_device_ring *r, const uint16_t *heads, uint16_t count);

/* In place of pv_device_pop and pv_device_publish, for a ring with a table. */
int pv_inflight_pop(struct pv_device_ring *r, struct pv_popped *popped, uint32_t max);
int pv_inflight_publish(struct pv_device_ring *r);

#endif
