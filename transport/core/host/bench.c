/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "bench.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#define BATCH 64
#define DEPTH_MAX 1024
/* Looks in vain before one yields the CPU, which the other side may need: a few times as long as that one usually takes. */
#define LOOKS 256 /* at a ring: 5 us, or 20 us with a pause each */
#define LINE_LOOKS (1 << 12) /* at one cache line: 2 us */
#define SLEEP_MS 100 /* how long a sleeping load may be deaf to `stop` */

/* Count a look in vain; the last of `most` yields. */
static inline void looked(uint32_t *looks, uint32_t most)
{
    if (++*looks % most == 0)
        sched_yield();
}

uint64_t pv_bench_ping_pong(uint32_t *line, uint32_t rounds, int side)
{
    uint64_t start = pv_host_now_ns();

    for (uint32_t i = 0; i < rounds; i++) {
        uint32_t mine = 2 * i + (uint32_t)side;
        for (uint32_t looks = 0; pv_load_once32(line) != mine;)
            looked(&looks, LINE_LOOKS);
        pv_store_release32(line, mine + 1);
    }
    return pv_host_now_ns() - start;
}

static uint64_t spsc_fill(struct pv_bench_spsc *ring, uint64_t count, uint32_t batch)
{
    uint64_t start = pv_host_now_ns();
    uint32_t head = 0, tail = 0;

    for (uint64_t done = 0; done < count; done += batch) {
        for (uint32_t looks = 0; head - tail > 256 - batch; looked(&looks, LINE_LOOKS))
            tail = pv_load_acquire32(&ring->tail);
        for (uint32_t i = 0; i < batch; i++, head++) {
            ring->entries[head % 256][0] = done + i;
            ring->entries[head % 256][1] = done;
        }
        pv_store_release32(&ring->head, head);
    }
    for (uint32_t looks = 0; pv_load_acquire32(&ring->tail) != head;)
        looked(&looks, LINE_LOOKS);
    return pv_host_now_ns() - start;
}

static uint64_t spsc_empty(struct pv_bench_spsc *ring, uint64_t count, uint32_t batch)
{
    uint64_t start = pv_host_now_ns();
    uint64_t sum = 0;
    uint32_t tail = 0;

    for (uint64_t done = 0; done < count; done += batch) {
        for (uint32_t looks = 0; pv_load_acquire32(&ring->head) - tail < batch;)
            looked(&looks, LINE_LOOKS);
        for (uint32_t i = 0; i < batch; i++, tail++)
            sum += ring->entries[tail % 256][0];
        pv_store_release32(&ring->tail, tail);
    }
    ring->sum = sum; /* or the compiler would not read the entries */
    return pv_host_now_ns() - start;
}

uint64_t pv_bench_spsc(struct pv_bench_spsc *ring, uint64_t count, uint32_t batch, int side)
{
    return side ? spsc_empty(ring, count, batch) : spsc_fill(ring, count, batch);
}

uint64_t pv_bench_driver(struct pv_driver_ring *r, uint64_t address, uint64_t count, uint32_t depth, uint32_t batch)
{
    struct pv_segment buffer = {address, 64, 1};
    struct pv_used_elem done[BATCH];
    uint64_t offered = 0, returned = 0;
    uint32_t looks = 0;
    uint64_t start = pv_host_now_ns();

    pv_driver_disarm(r);
    while (returned < count) {
        for (uint32_t added = 0; added < batch && offered - returned < depth && offered < count; added++) {
            pv_driver_add(r, &buffer, 1);
            offered++;
        }
        pv_driver_publish(r);
        int taken = pv_driver_reap(r, done, batch);
        if (taken < 0)
            return 0;
        if (taken == 0)
            looked(&looks, LOOKS);
        returned += (uint64_t)taken;
    }
    return pv_host_now_ns() - start;
}

uint64_t pv_bench_device(struct pv_device_ring *r, uint64_t count, uint32_t batch)
{
    struct pv_popped popped[BATCH];
    uint64_t served = 0;
    uint32_t looks = 0;
    uint64_t start = pv_host_now_ns();

    pv_device_disarm(r);
    while (served < count) {
        int taken = pv_device_pop(r, popped, batch);
        if (taken < 0)
            return 0;
        if (taken == 0)
            looked(&looks, LOOKS);
        for (int i = 0; i < taken; i++)
            pv_device_complete(r, popped[i].token, 64);
        pv_device_publish(r);
        served += (uint64_t)taken;
    }
    return pv_host_now_ns() - start;
}

struct load {
    struct pv_driver_ring *r;
    struct pv_bench_load *asked;
    uint64_t offered;
    uint64_t returned;
    uint64_t sent[DEPTH_MAX]; /* when, by buffer */
    uint16_t buffer[PV_QUEUE_SIZE_MAX]; /* which, by head */
    uint16_t free[DEPTH_MAX];
    uint32_t free_count;
};

static int offer(struct load *l)
{
    struct pv_bench_load *asked = l->asked;
    int added = 0;

    for (; l->free_count && l->offered < asked->count; added++) {
        uint16_t index = l->free[l->free_count - 1], head;
        if (asked->stamp_count)
            __builtin_memcpy(asked->out[index] + asked->stamp_offset, &asked->stamps[l->offered % asked->stamp_count], 8);
        int rc = pv_driver_add_many(l->r, &asked->buffers[index], 1, &head);
        if (rc <= 0)
            return rc ? rc : added;
        l->free_count--;
        l->buffer[head] = index;
        l->offered++;
        if (asked->latencies)
            l->sent[index] = pv_host_now_ns();
    }
    return added;
}

static int take(struct load *l)
{
    struct pv_used_elem done[BATCH];
    struct pv_bench_load *asked = l->asked;
    int taken = pv_driver_reap(l->r, done, BATCH);
    uint64_t now = taken > 0 && asked->latencies ? pv_host_now_ns() : 0;

    for (int i = 0; i < taken; i++) {
        uint16_t index = l->buffer[done[i].id];
        asked->bytes += done[i].len;
        l->free[l->free_count++] = index;
        if (asked->latencies)
            asked->latencies[l->returned] = (uint32_t)(now - l->sent[index]);
        l->returned++;
    }
    return taken;
}

/* Ask for a call and sleep until it comes. */
static void sleep_on(struct load *l)
{
    struct pollfd wait = {.fd = l->asked->call_fd, .events = POLLIN};
    uint64_t count;

    if (!pv_driver_arm(l->r) && poll(&wait, 1, SLEEP_MS) > 0) {
        l->asked->calls++;
        while (read(wait.fd, &count, sizeof count) < 0 && errno == EINTR)
            ;
    }
    pv_driver_disarm(l->r);
}

static void kick(struct load *l)
{
    l->asked->kicks++;
    if (l->asked->kick)
        pv_host_bell_ring(l->asked->kick);
}

static int run(struct load *l, volatile int *stop)
{
    uint32_t looks = 0;

    while (l->returned < l->asked->count && !*stop) {
        if (l->asked->kick)
            pv_host_bell_note(l->asked->kick); /* there may be nothing to kick for a long time */
        int rc = offer(l);
        if (rc < 0)
            return rc;
        if (pv_driver_publish(l->r))
            kick(l);
        rc = take(l);
        if (rc < 0)
            return rc;
        if (rc == 0 && l->asked->call_fd >= 0)
            sleep_on(l);
        else if (rc == 0) {
            pv_relax();
            looked(&looks, LOOKS);
        } else
            looks = 0;
    }
    return 0;
}

int pv_bench_load_run(struct pv_driver_ring *r, struct pv_bench_load *asked, volatile int *stop)
{
    struct load *l;

    if (asked->depth == 0 || asked->depth > DEPTH_MAX)
        return -PV_E_ARGUMENT;
    l = calloc(1, sizeof *l);
    if (!l)
        return -PV_E_COUNT - ENOMEM;
    l->r = r;
    l->asked = asked;
    l->free_count = asked->depth;
    for (uint32_t i = 0; i < asked->depth; i++)
        l->free[i] = (uint16_t)i;
    asked->kicks = asked->calls = asked->bytes = 0;
    uint64_t start = pv_host_now_ns();
    int rc = run(l, stop);
    asked->done = l->returned;
    asked->elapsed_ns = pv_host_now_ns() - start;
    free(l);
    return rc;
}
