/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Loops for measuring, each for one thread and without the interpreter lock: a ring against its own other end, the two floors below it (one
 * cache line, and the least ring there can be), and a load that drives any device server as a guest would.
 */
#ifndef PV_HOST_BENCH_H
#define PV_HOST_BENCH_H

#include "bell.h"

/* A cache line bounced `rounds` times: side 0 sends, side 1 answers. Nanoseconds for all rounds. */
uint64_t pv_bench_ping_pong(uint32_t *line, uint32_t rounds, int side);

/* 16-byte entries through a ring of 256, `count` of them, each `batch` published together; side 0 fills, side 1 empties. Nanoseconds. */
struct pv_bench_spsc {
    _Alignas(64) uint32_t head;
    _Alignas(64) uint32_t tail;
    uint64_t sum;
    _Alignas(64) uint64_t entries[256][2];
};
uint64_t pv_bench_spsc(struct pv_bench_spsc *ring, uint64_t count, uint32_t batch, int side);

/* `count` one-buffer requests through a virtqueue with `depth` outstanding, both ends polling, each `batch` published together. */
uint64_t pv_bench_driver(struct pv_driver_ring *r, uint64_t address, uint64_t count, uint32_t depth, uint32_t batch);
uint64_t pv_bench_device(struct pv_device_ring *r, uint64_t count, uint32_t batch);

/*
 * A guest's load on a device server: keeps `depth` requests of the given buffers outstanding until `count` are done. Before a request is
 * offered, the next of `stamp_count` values is stored at `stamp_offset` of its readable buffer (the sector of a block request).
 */
struct pv_bench_load {
    const struct pv_buffer *buffers; /* one for each of depth */
    uint8_t **out;                   /* the readable buffers, by local address */
    const uint64_t *stamps;
    uint32_t stamp_count;
    uint32_t stamp_offset;
    uint32_t depth;
    struct pv_host_bell *kick; /* NULL: the device polls */
    int call_fd;         /* -1: poll; else arm, and sleep on it */
    uint64_t count;
    uint32_t *latencies; /* ns of each request, count of them; NULL for none */
    uint64_t done;       /* out: requests answered */
    uint64_t kicks;      /* out */
    uint64_t calls;      /* out: times woken */
    uint64_t bytes;      /* out: written by the device */
    uint64_t elapsed_ns; /* out */
};
/* 0, or -error of the ring; stops within 100 ms after *stop becomes non-zero. */
int pv_bench_load_run(struct pv_driver_ring *r, struct pv_bench_load *asked, volatile int *stop);

#endif
