/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "cycle.h"

#include <time.h>

#include "guard.h"
#include "inflight.h"
#include "log.h"

/* A look costs a few ns, the clock about 30: read it once in so many looks. */
#define LOOKS_PER_CLOCK 16

uint64_t pv_host_now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Run fn with the guard where the memory may vanish; a hit breaks the ring for good. */
static long guarded_by(const struct pv_memory *memory, struct pv_device_ring *r, long (*fn)(void *), void *arg)
{
    if (!(memory->flags & PV_MEMORY_GUARDED))
        return fn(arg);
    long rc = pv_guarded(memory, fn, arg);
    if (rc == -PV_E_GONE && r->broken != PV_E_GONE) {
        r->broken = PV_E_GONE;
        r->rejected[PV_E_GONE]++;
    }
    return rc;
}

static long guarded(struct pv_device_ring *r, long (*fn)(void *), void *arg)
{
    return guarded_by(r->memory, r, fn, arg);
}

/* Look until *end; if that is 0, it is set to spin_ns from when the first few looks have found nothing. */
static int spin_until(const uint16_t *index, uint16_t seen, uint64_t spin_ns, uint64_t *end)
{
    for (;;) {
        for (int look = 0; look < LOOKS_PER_CLOCK; look++) {
            if (pv_load_acquire(index) != seen) /* A or B */
                return 1;
            if (spin_ns == 0)
                return 0;
            pv_relax();
        }
        uint64_t now = pv_host_now_ns();
        if (*end == 0)
            *end = now + spin_ns;
        else if (now >= *end)
            return 0;
    }
}

static int spin(const uint16_t *index, uint16_t seen, uint64_t spin_ns)
{
    uint64_t end = 0;

    return spin_until(index, seen, spin_ns, &end);
}

struct cycle {
    struct pv_turn *turn;
    const uint64_t *done;
    const uint32_t *lengths;
    uint32_t count;
    uint32_t ended;
    uint64_t spin_ns;
};

/* What a turn does to the ring, and to the table of what is in hand if there is one. */
static inline int pop(struct pv_device_ring *r, struct pv_popped *popped, uint32_t max)
{
    return r->inflight ? pv_inflight_pop(r, popped, max) : pv_device_pop(r, popped, max);
}

static inline int publish(struct pv_device_ring *r)
{
    return r->inflight ? pv_inflight_publish(r) : pv_device_publish(r);
}

static long complete(void *arg)
{
    struct cycle *c = arg;
    struct pv_turn *turn = c->turn;
    uint32_t left = turn->taken - turn->ended;
    uint32_t ended = c->ended < left ? c->ended : left;

    if (turn->ring->broken == PV_E_GONE)
        return -PV_E_GONE;
    for (uint32_t i = 0; i < c->count; i++) {
        if (c->lengths)
            pv_device_complete(turn->ring, c->done[i], c->lengths[i]);
        else
            pv_device_end(turn->ring, c->done[i]);
    }
    pv_device_end_taken(turn->ring, turn->popped + turn->ended, ended);
    turn->ended += ended;
    return publish(turn->ring) ? PV_CYCLE_CALL : 0;
}

static int take(struct pv_turn *turn)
{
    int taken = pop(turn->ring, turn->popped, turn->room < turn->limit ? turn->room : turn->limit);

    turn->taken = taken > 0 ? (uint32_t)taken : 0;
    turn->ended = 0;
    if (turn->limit != PV_NO_LIMIT)
        turn->limit -= turn->taken;
    for (uint32_t i = 0; turn->head_size && i < turn->taken; i++)
        pv_device_read(turn->ring, turn->popped[i].token, 0, turn->heads + (size_t)i * turn->head_size, turn->head_size);
    return taken;
}

static long cycle(void *arg)
{
    struct cycle *c = arg;
    struct pv_device_ring *r = c->turn->ring;
    long call = complete(c);

    if (call < 0)
        return call;
    int taken = take(c->turn);
    if (publish(r)) /* bad chains went back */
        call = PV_CYCLE_CALL;
    if (taken == 0 && !call && c->turn->limit && c->spin_ns && spin(&r->ring.avail[PV_RING_IDX], r->last_avail, c->spin_ns)) {
        taken = take(c->turn);
        call = publish(r) ? PV_CYCLE_CALL : 0;
    }
    if (taken < 0 && !call)
        return taken;
    call |= pv_device_stalled(r) ? PV_CYCLE_STALLED : 0;
    return (taken < 0 ? 0 : taken) | call | (r->bad ? PV_CYCLE_BAD : 0);
}

/* The same with a second guard: the table lies in memory of its own. */
static long cycle_with_table(void *arg)
{
    struct pv_device_ring *r = ((struct cycle *)arg)->turn->ring;

    return guarded_by(r->inflight->memory, r, cycle, arg);
}

static long complete_with_table(void *arg)
{
    struct pv_device_ring *r = ((struct cycle *)arg)->turn->ring;

    return guarded_by(r->inflight->memory, r, complete, arg);
}

/* In its guards, with what it wrote to the used ring logged. */
static int run(struct cycle *c, long (*plain)(void *), long (*with_table)(void *))
{
    struct pv_device_ring *r = c->turn->ring;
    uint16_t used = r->used;
    int rc = (int)guarded(r, r->inflight ? with_table : plain, c);
    int logged = r->log ? pv_log_used(r, used) : 0;

    return logged < 0 ? logged : rc;
}

int pv_host_turn(struct pv_turn *turn, uint32_t ended, uint64_t spin_ns)
{
    return pv_host_cycle(turn, NULL, NULL, 0, ended, spin_ns);
}

int pv_host_cycle(struct pv_turn *turn, const uint64_t *done, const uint32_t *lengths, uint32_t count, uint32_t ended, uint64_t spin_ns)
{
    struct cycle c = {turn, done, lengths, count, ended, spin_ns};

    return run(&c, cycle, cycle_with_table);
}

int pv_host_complete(struct pv_turn *turn, const uint64_t *done, const uint32_t *lengths, uint32_t count, uint32_t ended)
{
    struct cycle c = {turn, done, lengths, count, ended, 0};

    return run(&c, complete, complete_with_table);
}

struct look {
    struct pv_device_ring *r;
    uint64_t spin_ns;
    uint64_t end;
};

static long device_spin(void *arg)
{
    struct look *look = arg;

    if (look->r->broken)
        return 1;
    return spin_until(&look->r->ring.avail[PV_RING_IDX], look->r->last_avail, look->spin_ns, &look->end);
}

static long device_arm(void *arg)
{
    return pv_device_arm(((struct look *)arg)->r);
}

static long device_disarm(void *arg)
{
    pv_device_disarm(((struct look *)arg)->r);
    return 0;
}

int pv_host_device_spin(struct pv_device_ring *r, uint64_t spin_ns)
{
    uint64_t end = 0;

    return pv_host_device_spin_until(r, spin_ns, &end);
}

int pv_host_device_spin_until(struct pv_device_ring *r, uint64_t spin_ns, uint64_t *end)
{
    struct look look = {r, spin_ns, *end};
    int rc = (int)guarded(r, device_spin, &look);

    *end = look.end;
    return rc;
}

int pv_host_device_arm(struct pv_device_ring *r)
{
    struct look look = {r, 0, 0};
    int rc = (int)guarded(r, device_arm, &look);
    int logged = r->log ? pv_log_event(r) : 0;

    return logged < 0 ? logged : rc;
}

int pv_host_device_disarm(struct pv_device_ring *r)
{
    struct look look = {r, 0, 0};
    int rc = (int)guarded(r, device_disarm, &look);
    int logged = r->log ? pv_log_event(r) : 0;

    return logged < 0 ? logged : rc;
}

int pv_host_driver_spin(struct pv_driver_ring *r, uint64_t spin_ns)
{
    return r->broken ? 1 : spin(&r->ring.used[PV_RING_IDX], r->last_used, spin_ns);
}

int pv_host_driver_arm(struct pv_driver_ring *r)
{
    return pv_driver_arm(r);
}

void pv_host_driver_disarm(struct pv_driver_ring *r)
{
    pv_driver_disarm(r);
}

struct copy {
    struct pv_device_ring *r;
    uint64_t token;
    void *bytes;
    uint32_t offset;
    uint32_t len;
};

static long read_out(void *arg)
{
    struct copy *c = arg;

    return pv_device_read(c->r, c->token, c->offset, c->bytes, c->len);
}

static long write_in(void *arg)
{
    struct copy *c = arg;

    return pv_device_write(c->r, c->token, c->offset, c->bytes, c->len);
}

int64_t pv_host_read(struct pv_device_ring *r, uint64_t token, uint32_t offset, void *to, uint32_t len)
{
    struct copy c = {r, token, to, offset, len};

    return guarded(r, read_out, &c);
}

int64_t pv_host_write(struct pv_device_ring *r, uint64_t token, uint32_t offset, const void *from, uint32_t len)
{
    struct copy c = {r, token, (void *)from, offset, len};
    int64_t count = guarded(r, write_in, &c);
    int logged = r->log && count > 0 ? pv_log_chain(r, pv_device_slot(r, token), offset, (uint32_t)count) : 0;

    return logged < 0 ? logged : count;
}
