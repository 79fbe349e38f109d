/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two threads on one ring, driver and device, for ThreadSanitizer. Run by test_tsan.py; says what it did.
 *
 * Every request carries bytes that depend on its number; the device checks them and answers with others, which the driver checks. The
 * payload is plain memory that both threads use again and again, so nothing but the ring's own release and acquire keeps them apart.
 * Each side looks for a random while, then arms, looks again and sleeps on an eventfd; now and then the device keeps a request back
 * and finishes it while it is armed. Whoever sleeps for SLEEP_SECONDS with work outstanding has lost a wakeup.
 *
 * Ring and doorbell go through syscall(), since ThreadSanitizer takes read(2) and write(2) on a descriptor for synchronization, and a
 * missing barrier would hide behind that.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "ring.h"

#define SIZE 16u
#define COUNT 70000u /* more than 65536: every index wraps around */
#define BYTES 48u
#define BATCH_MAX 8u
#define HELD_MAX 4u
#define LOOKS_MAX 64u
#define SLEEP_SECONDS 20

#define BASE 0x10000u /* guest-physical */
#define DESC BASE
#define AVAIL (DESC + 16 * SIZE)
#define USED (AVAIL + 1024)
#define TABLES (USED + 1024)
#define OUT (TABLES + 2 * 16 * SIZE)
#define IN (OUT + SIZE * BYTES)
#define END (IN + SIZE * BYTES)

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition); \
            _Exit(1); \
        } \
    } while (0)

/* What both sides know of a run. */
struct run {
    struct pv_memory memory;
    struct pv_geometry geometry;
    uint32_t batch; /* requests added, or completed, before each publish */
    int kick;
    int call;
};

/* One side; nothing in it is seen by the other thread while that runs. */
struct side {
    const struct run *run;
    void *ring;
    bool (*pending)(void *ring);
    bool (*arm)(void *ring);
    void (*disarm)(void *ring);
    int mine;   /* the doorbell that wakes this side */
    int theirs;
    uint32_t random;
    uint32_t rings;
    uint32_t sleeps;
};

static uint32_t pick(struct side *s, uint32_t below)
{
    s->random = s->random * 1664525u + 1013904223u;
    return (s->random >> 16) % below;
}

static uint8_t request_byte(uint32_t number, uint32_t i)
{
    return (uint8_t)(number * 31 + i);
}

static uint8_t reply_byte(uint32_t number, uint32_t i)
{
    return (uint8_t)~(number * 17 + i);
}

/* --- doorbells -------------------------------------------------------------------------------------------------------------------- */

static void ring_bell(struct side *s)
{
    const uint64_t one = 1;

    s->rings++;
    CHECK(syscall(SYS_write, s->theirs, &one, sizeof one) == sizeof one);
}

static void sleep_on_bell(struct side *s)
{
    struct pollfd wanted = {.fd = s->mine, .events = POLLIN};
    const struct timespec limit = {.tv_sec = SLEEP_SECONDS};
    uint64_t rings;

    s->sleeps++;
    long ready = syscall(SYS_ppoll, &wanted, 1, &limit, NULL, 0);
    if (ready != 1) {
        fprintf(stderr, "lost wakeup\n");
        _Exit(1);
    }
    CHECK(syscall(SYS_read, s->mine, &rings, sizeof rings) == sizeof rings);
}

/* Look for a while without being notified. */
static bool spin(struct side *s)
{
    s->disarm(s->ring);
    for (uint32_t looks = pick(s, LOOKS_MAX); looks; looks--) {
        if (s->pending(s->ring))
            return true;
        pv_relax();
    }
    return false;
}

/* --- the device ------------------------------------------------------------------------------------------------------------------- */

static bool device_pending(void *ring) { return pv_device_pending(ring); }
static bool device_arm(void *ring) { return pv_device_arm(ring); }
static void device_disarm(void *ring) { pv_device_disarm(ring); }

struct device {
    struct side side;
    struct pv_device_ring ring;
    struct pv_slot slots[SIZE];
    struct pv_node nodes[PV_NODES_PER_DESC * SIZE];
    uint64_t held[HELD_MAX];
    uint32_t held_count;
    uint32_t finished;
};

static void publish_completed(struct device *d)
{
    if (pv_device_publish(&d->ring))
        ring_bell(&d->side);
}

/* Check the request and answer it. Its number is its first word. */
static void finish(struct device *d, uint64_t token)
{
    uint8_t bytes[BYTES];
    uint32_t number;

    CHECK(pv_device_read(&d->ring, token, 0, bytes, BYTES) == BYTES);
    memcpy(&number, bytes, sizeof number);
    for (uint32_t i = sizeof number; i < BYTES; i++)
        CHECK(bytes[i] == request_byte(number, i));
    for (uint32_t i = 0; i < BYTES; i++)
        bytes[i] = reply_byte(number, i);
    CHECK(pv_device_write(&d->ring, token, 0, bytes, BYTES) == BYTES);
    CHECK(pv_device_complete(&d->ring, token, BYTES) == 0);
    d->finished++;
    if (d->side.run->batch == 1)
        publish_completed(d);
}

static void serve(struct device *d, const struct pv_popped *popped, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        CHECK(popped[i].sizes == ((uint64_t)BYTES << 32 | BYTES));
        if (d->held_count < HELD_MAX && pick(&d->side, 4) == 0)
            d->held[d->held_count++] = popped[i].token;
        else
            finish(d, popped[i].token);
    }
    publish_completed(d);
}

/* What was kept back is finished between arming and sleeping, as by a handler that ends while its queue is parked. */
static void park_device(struct device *d)
{
    struct side *s = &d->side;

    if (spin(s) || s->arm(s->ring))
        return;
    while (d->held_count)
        finish(d, d->held[--d->held_count]);
    publish_completed(d);
    if (d->finished < COUNT)
        sleep_on_bell(s);
}

static void *run_device(void *argument)
{
    struct device *d = argument;
    struct pv_popped popped[BATCH_MAX];

    while (d->finished < COUNT) {
        int count = pv_device_pop(&d->ring, popped, d->side.run->batch);

        CHECK(count >= 0);
        if (count)
            serve(d, popped, (uint32_t)count);
        else
            park_device(d);
    }
    return NULL;
}

/* --- the driver ------------------------------------------------------------------------------------------------------------------- */

static bool driver_pending(void *ring) { return pv_driver_pending(ring); }
static bool driver_arm(void *ring) { return pv_driver_arm(ring); }
static void driver_disarm(void *ring) { pv_driver_disarm(ring); }

struct driver {
    struct side side;
    struct pv_driver_ring ring;
    struct pv_driver_slot slots[SIZE];
    uint32_t free[SIZE]; /* buffers, each a place in OUT and in IN */
    uint32_t free_count;
    uint32_t buffer_of[SIZE]; /* by head */
    uint32_t number_of[SIZE]; /* by buffer */
    uint32_t sent;
    uint32_t reaped;
};

static uint8_t *local(const struct side *s, uint64_t addr)
{
    uint32_t hint = 0;

    return pv_memory_host(&s->run->memory, addr, BYTES, &hint);
}

static bool send_one(struct driver *d)
{
    if (d->sent == COUNT || d->free_count == 0)
        return false;
    uint32_t buffer = d->free[d->free_count - 1];
    uint8_t *out = local(&d->side, OUT + buffer * BYTES);
    const struct pv_segment segments[] = {{OUT + buffer * BYTES, BYTES, 0}, {IN + buffer * BYTES, BYTES, 1}};

    for (uint32_t i = 0; i < BYTES; i++)
        out[i] = request_byte(d->sent, i);
    memcpy(out, &d->sent, sizeof d->sent);
    int head = pv_driver_add(&d->ring, segments, 2);
    if (head == -PV_E_FULL)
        return false;
    CHECK(head >= 0);
    d->free_count--;
    d->buffer_of[head] = buffer;
    d->number_of[buffer] = d->sent++;
    return true;
}

static bool send_batch(struct driver *d)
{
    uint32_t count = 0;

    while (count < d->side.run->batch && send_one(d))
        count++;
    if (pv_driver_publish(&d->ring))
        ring_bell(&d->side);
    return count > 0;
}

static void take_reply(struct driver *d, const struct pv_used_elem *done)
{
    uint32_t buffer = d->buffer_of[done->id];
    uint8_t *in = local(&d->side, IN + buffer * BYTES);

    CHECK(done->len == BYTES);
    for (uint32_t i = 0; i < BYTES; i++)
        CHECK(in[i] == reply_byte(d->number_of[buffer], i));
    memset(in, 0, BYTES);
    d->free[d->free_count++] = buffer;
    d->reaped++;
}

static void *run_driver(void *argument)
{
    struct driver *d = argument;
    struct side *s = &d->side;
    struct pv_used_elem done[BATCH_MAX];

    while (d->reaped < COUNT) {
        bool sent = send_batch(d);
        int count = pv_driver_reap(&d->ring, done, s->run->batch);

        CHECK(count >= 0);
        for (int i = 0; i < count; i++)
            take_reply(d, &done[i]);
        if (!sent && count == 0 && !spin(s) && !s->arm(s->ring))
            sleep_on_bell(s);
    }
    return NULL;
}

/* --- one run ---------------------------------------------------------------------------------------------------------------------- */

static void start(struct device *device, struct driver *driver, const struct run *run)
{
    device->side = (struct side){run, &device->ring, device_pending, device_arm, device_disarm, run->kick, run->call, 1, 0, 0};
    driver->side = (struct side){run, &driver->ring, driver_pending, driver_arm, driver_disarm, run->call, run->kick, 2, 0, 0};
    while (driver->free_count < SIZE) {
        driver->free[driver->free_count] = driver->free_count;
        driver->free_count++;
    }
    CHECK(pv_driver_start(&driver->ring, &run->memory, &run->geometry, driver->slots, TABLES, 2) == 0);
    CHECK(pv_device_start(&device->ring, &run->memory, &run->geometry, device->slots, device->nodes, PV_NODES_PER_DESC * SIZE, 0, 1, 0,
                          0) == 0);
}

static void run_both(uint32_t features, uint32_t batch)
{
    struct pv_region region = {.addr = BASE, .size = END - BASE, .host = aligned_alloc(4096, 8192)};
    struct run run = {
        .memory = {.regions = &region, .count = 1},
        .geometry = {.desc = DESC, .driver = AVAIL, .device = USED, .size = SIZE, .features = features},
        .batch = batch, .kick = eventfd(0, 0), .call = eventfd(0, 0),
    };
    struct device *device = calloc(1, sizeof *device);
    struct driver *driver = calloc(1, sizeof *driver);
    pthread_t threads[2];

    CHECK(region.host && region.size <= 8192 && device && driver && run.kick >= 0 && run.call >= 0);
    start(device, driver, &run);
    CHECK(pthread_create(&threads[0], NULL, run_device, device) == 0);
    CHECK(pthread_create(&threads[1], NULL, run_driver, driver) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0 && pthread_join(threads[1], NULL) == 0);
    CHECK(device->side.sleeps && driver->side.sleeps && device->ring.stale == 0);
    printf("event_idx %u indirect %u batch %u: %u requests, %u kicks, %u calls, %u and %u sleeps\n", !!(features & PV_RING_EVENT_IDX),
           !!(features & PV_RING_INDIRECT), batch, COUNT, driver->side.rings, device->side.rings, device->side.sleeps, driver->side.sleeps);
    close(run.kick);
    close(run.call);
    free(region.host);
    free(device);
    free(driver);
}

int main(void)
{
    for (uint32_t batch = 1; batch <= BATCH_MAX; batch *= BATCH_MAX) {
        run_both(0, batch);
        run_both(PV_RING_EVENT_IDX, batch);
        run_both(PV_RING_EVENT_IDX | PV_RING_INDIRECT, batch);
    }
    return 0;
}
