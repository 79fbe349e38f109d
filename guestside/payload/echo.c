/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The echo load: a device that sends everything back, as many requests in flight as asked for, and each answer looked at. And the plain
 * load: requests that the device only has to return, so that what is measured is the ring and the server, not the bytes.
 */
#include "payload.h"

#define BATCH 64u
#define SIZE 64u /* bytes of a request, if none is asked for */
#define SIZE_MAX_ECHO 65536u

struct echo {
    uint64_t count;
    uint64_t sent, answered;
    uint32_t size;
    bool plain; /* no bytes written, and none come back */
    struct pv_flight flights[PV_QUEUES_MAX];
};

static enum pv_result start(struct pv_guest *g, struct echo *e, bool plain)
{
    uint64_t depth = g->arguments[PV_ARG_DEPTH] ? g->arguments[PV_ARG_DEPTH] : 1;
    uint64_t queues = g->arguments[PV_ARG_QUEUES] ? g->arguments[PV_ARG_QUEUES] : 1;
    uint64_t size = g->arguments[PV_ARG_SIZE] ? g->arguments[PV_ARG_SIZE] : SIZE;

    *e = (struct echo){.count = g->arguments[PV_ARG_COUNT], .plain = plain};
    if (depth > PV_QUEUE_ENTRIES)
        return pv_fail(g, PV_BAD_ARGUMENT, "depth", depth);
    if (size < 8 || size > SIZE_MAX_ECHO) /* the number has to fit */
        return pv_fail(g, PV_BAD_ARGUMENT, "size", size);
    e->size = (uint32_t)size;
    enum pv_result result = pv_negotiate(g, 0, 0);
    if (result == PV_OK)
        result = pv_samples_start(g, e->count);
    for (uint32_t i = 0; result == PV_OK && i < queues; i++) {
        result = pv_start_queue(g, i);
        g->queues[i].depth = (uint32_t)depth;
        if (result == PV_OK)
            result = pv_flight_start(g, &e->flights[i], &g->queues[i], e->size, e->size);
    }
    if (result == PV_OK)
        pv_drive(g);
    return result;
}

static bool more(const struct pv_guest *g, const struct echo *e)
{
    return e->count ? e->sent < e->count : !pv_stopped(g);
}

static void fill(struct pv_guest *g, struct echo *e, struct pv_queue *q)
{
    struct pv_flight *f = &e->flights[q->index];
    int buffer;

    while (more(g, e) && (buffer = pv_flight_take(f)) >= 0) {
        uint8_t *out = f->out + (uint64_t)buffer * e->size;
        const struct pv_segment segments[2] = {
            {(uintptr_t)out, e->size, 0},
            {(uintptr_t)(f->in + (uint64_t)buffer * e->size), e->size, 1},
        };

        if (!e->plain)
            pv_pattern_write(out, e->size, g->arguments[PV_ARG_SEED], e->sent);
        if (!pv_flight_send(f, q, e->sent, segments, e->plain ? 1 : 2))
            break;
        e->sent++;
    }
    pv_publish(g, q);
}

static enum pv_result drain(struct pv_guest *g, struct echo *e, struct pv_queue *q)
{
    struct pv_flight *f = &e->flights[q->index];
    struct pv_used_elem done[BATCH];
    int taken = pv_reap(g, q, done, BATCH);

    if (taken < 0)
        return (enum pv_result)-taken;
    for (int i = 0; i < taken; i++) {
        uint32_t buffer = pv_flight_back(g, f, done[i].id);

        if (e->plain)
            continue;
        if (done[i].len != e->size)
            return pv_fail(g, PV_WRONG, "wrong-length", done[i].len);
        if (!pv_pattern_same(f->in + (uint64_t)buffer * e->size, e->size, g->arguments[PV_ARG_SEED], f->numbers[buffer]))
            return pv_fail(g, PV_WRONG, "wrong-data", f->numbers[buffer]);
    }
    e->answered += (uint32_t)taken;
    return PV_OK;
}

static enum pv_result run(struct pv_guest *g, struct echo *e)
{
    enum pv_result result = PV_OK;

    g->answered = pv_cycles();
    while (result == PV_OK) {
        for (uint32_t i = 0; i < g->queue_count; i++)
            fill(g, e, &g->queues[i]);
        if (e->answered == e->sent && !more(g, e))
            break;
        result = pv_wait(g);
        for (uint32_t i = 0; result == PV_OK && i < g->queue_count; i++)
            result = drain(g, e, &g->queues[i]);
    }
    return result;
}

static enum pv_result measure(struct pv_guest *g, bool plain)
{
    static struct echo echo;
    enum pv_result result = start(g, &echo, plain);

    if (result != PV_OK)
        return result;
    uint64_t began = pv_cycles();
    result = run(g, &echo);
    uint64_t ended = pv_cycles();
    pv_put_number(g, "requests", echo.answered);
    pv_put_number(g, "bytes", echo.answered * echo.size);
    pv_put_number(g, "cycles", ended - began);
    pv_put_samples(g);
    pv_reset(g);
    return result;
}

enum pv_result pv_echo(struct pv_guest *g)
{
    return measure(g, false);
}

enum pv_result pv_load(struct pv_guest *g)
{
    return measure(g, true);
}
