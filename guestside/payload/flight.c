/* SPDX-License-Identifier: Apache-2.0 */
/* Which buffer belongs to which chain, and when it left. */
#include "payload.h"

enum pv_result pv_flight_start(struct pv_guest *g, struct pv_flight *f, const struct pv_queue *q, uint32_t out_size, uint32_t in_size)
{
    uint32_t depth = q->depth;

    *f = (struct pv_flight){.out_size = out_size, .in_size = in_size};
    f->out = pv_take(g, (uint64_t)depth * out_size, 4096);
    f->in = pv_take(g, (uint64_t)depth * in_size, 4096);
    f->numbers = pv_take(g, depth * sizeof *f->numbers, 8);
    f->stamps = pv_take(g, depth * sizeof *f->stamps, 8);
    f->free = pv_take(g, depth * sizeof *f->free, 8);
    f->of_head = pv_take(g, q->ring.ring.size * sizeof *f->of_head, 8);
    if (!f->out || !f->in || !f->numbers || !f->stamps || !f->free || !f->of_head)
        return pv_fail(g, PV_NO_MEMORY, "pool", g->pool_end - g->pool);
    for (uint32_t i = 0; i < depth; i++)
        f->free[f->free_count++] = (uint16_t)(depth - 1 - i);
    return PV_OK;
}

int pv_flight_take(const struct pv_flight *f)
{
    return f->free_count ? f->free[f->free_count - 1] : -1;
}

bool pv_flight_send(struct pv_flight *f, struct pv_queue *q, uint64_t number, const struct pv_segment *segments, uint32_t count)
{
    int head = pv_driver_add(&q->ring, segments, count);

    if (head < 0)
        return false;
    uint16_t buffer = f->free[--f->free_count];
    f->of_head[head] = buffer;
    f->numbers[buffer] = number;
    f->stamps[buffer] = pv_cycles();
    return true;
}

uint32_t pv_flight_back(struct pv_guest *g, struct pv_flight *f, uint32_t head)
{
    uint16_t buffer = f->of_head[head];

    pv_sample(g, g->answered - f->stamps[buffer]);
    f->free[f->free_count++] = buffer;
    return buffer;
}
