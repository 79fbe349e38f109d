/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a host does with a ring in one call without the interpreter lock. Host only: a clock, and the guard of memory that may vanish. Every
 * function here that touches shared memory returns -PV_E_GONE, and marks the device's end broken, if the peer truncated it.
 */
#ifndef PV_HOST_CYCLE_H
#define PV_HOST_CYCLE_H

#include "ring.h"

/* Beside the number of chains taken, which is below 2^16. */
enum pv_cycle_flags {
    PV_CYCLE_CALL = 1 << 16,    /* the driver wants a call */
    PV_CYCLE_STALLED = 1 << 17, /* no room to take more until chains are completed */
    PV_CYCLE_BAD = 1 << 18,     /* chains went back unserved: `bad` says why, and is the caller's to clear */
};

/* What stays from turn to turn: the ring, and the chains taken last, of which the first `ended` are over. */
struct pv_turn {
    struct pv_device_ring *ring;
    struct pv_popped *popped;
    uint32_t room;  /* entries of `popped` */
    uint32_t limit; /* how many more may be taken, PV_NO_LIMIT for any number */
    uint32_t taken;
    uint32_t ended;
    uint32_t head_size; /* bytes of each chain taken that are copied to `heads` at once, 0 for none */
    uint8_t *heads;     /* room for `room` of them; what a chain is short of stays as it was */
    uint64_t ahead;     /* chains taken and given back by a loop in C */
    uint64_t silent;    /* its publications for which the driver wanted no call */
};

#define PV_NO_LIMIT UINT32_MAX

/*
 * One turn of a device server: complete the next `ended` of the chains taken last, as far as they were written, publish them, take new
 * ones; if there are none and no call is due, look for up to spin_ns. Returns the number taken plus flags, or -error; an error waits for
 * the next turn if a call is due.
 */
int pv_host_turn(struct pv_turn *turn, uint32_t ended, uint64_t spin_ns);

/* The same after `count` other chains: `lengths` used by each, or NULL for as far as they were written. */
int pv_host_cycle(struct pv_turn *turn, const uint64_t *done, const uint32_t *lengths, uint32_t count, uint32_t ended, uint64_t spin_ns);

/* Complete and publish as pv_host_cycle does, and take none. Returns PV_CYCLE_CALL or 0, or -PV_E_GONE. */
int pv_host_complete(struct pv_turn *turn, const uint64_t *done, const uint32_t *lengths, uint32_t count, uint32_t ended);

/* 1 if there is something to take or to be told (the ring is broken), 0 if not; `spin_ns` 0 looks once. */
int pv_host_device_spin(struct pv_device_ring *r, uint64_t spin_ns);
/* The same for several looks that end together: spin_ns after the first of them that lasted, which sets *end from 0. */
int pv_host_device_spin_until(struct pv_device_ring *r, uint64_t spin_ns, uint64_t *end);
int pv_host_device_arm(struct pv_device_ring *r);
int pv_host_device_disarm(struct pv_device_ring *r);
int64_t pv_host_read(struct pv_device_ring *r, uint64_t token, uint32_t offset, void *to, uint32_t len);
int64_t pv_host_write(struct pv_device_ring *r, uint64_t token, uint32_t offset, const void *from, uint32_t len);

/*
 * Between a file and the guest's buffers with no copy in between: preadv2 into the writable part of a chain, pwritev2 from the readable
 * part, at `offset` of it and `position` of the file. Returns bytes moved (short at the end of file or of the part), -error, or
 * -PV_E_COUNT - errno. The kernel answers EFAULT where the guest's memory has vanished, so no guard is needed.
 */
int64_t pv_host_read_file(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags);
int64_t pv_host_write_file(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags);

/* The same, and if all `len` bytes moved, the `size` bytes at `last` become the end of the reply. */
int64_t pv_host_read_whole(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags,
                           const void *last, uint32_t size);
int64_t pv_host_write_whole(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags,
                            const void *last, uint32_t size);

/* The driver's end: its memory is its own, so there is no guard. */
int pv_host_driver_spin(struct pv_driver_ring *r, uint64_t spin_ns);
int pv_host_driver_arm(struct pv_driver_ring *r);
void pv_host_driver_disarm(struct pv_driver_ring *r);

uint64_t pv_host_now_ns(void);

#endif
