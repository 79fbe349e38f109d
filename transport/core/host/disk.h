/* SPDX-License-Identifier: Apache-2.0 */
/* Plain reads and writes of a disk over a file, many in one call: requests as virtio 1.4, 5.2.6 lays them out. */
#ifndef PV_HOST_DISK_H
#define PV_HOST_DISK_H

#include "cycle.h"

/* Beside the flags of a turn: there is more to do, of what is in hand or of what the driver has. */
enum { PV_DISK_MORE = 1 << 19 };

struct pv_disk {
    uint64_t size; /* of the file, in bytes */
    int fd;
    int read_flags; /* of preadv2, negative to leave all reads alone */
    int write_flags;
    int wrote; /* set once the file may have been written to */
};

/*
 * Carry out what was taken last and is not over, and what the driver has behind it, in order: take, move the data, say that all went well,
 * complete, publish. Looks for more for up to spin_ns in all. Needs a turn whose heads are the whole headers of 16 bytes.
 *
 * Returns the number of chains in hand that are not over, plus the flags of a turn, or -error. Without PV_DISK_MORE the first of these is
 * none that can be done here: it is anything else, refused, failed or moved in part, and is the caller's from its beginning. It comes back
 * with PV_DISK_MORE when a call is due, when bad chains were met, and after some 50 us of work.
 */
int pv_host_disk_run(struct pv_turn *turn, struct pv_disk *disk, uint64_t spin_ns);

#endif
