/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue in use: publish and kick, wait by looking or by sleeping, reap.
 *
 * Sleeping is the shape of every safe sleep (2.7.7, 2.7.10): take the count of interrupts, ask for a call, full barrier, look once more,
 * and only then sleep until the count is another, so that an interrupt in between ends the sleep at once. At all other times calls are
 * turned off.
 */
#include "payload.h"

#define REDISARM 0x4000u /* answers after which "no call" is said again: with EVENT_IDX it holds for 32768 */
#define NEEDS_RESET 64u  /* device status, 2.1 */

const char *pv_cause(int error)
{
    switch (-error) {
    case PV_E_USED_INDEX: return "used-index";
    case PV_E_USED_ID: return "used-id";
    case PV_E_ADDRESS: return "address";
    case PV_E_FULL: return "ring-full";
    default: return "ring-argument";
    }
}

static void disarm(struct pv_queue *q)
{
    pv_driver_disarm(&q->ring);
    q->disarmed_at = q->ring.last_used;
}

static bool interrupts(const struct pv_guest *g)
{
    return g->arguments[PV_ARG_INTERRUPT] != 0;
}

void pv_publish(struct pv_guest *g, struct pv_queue *q)
{
    if ((uint16_t)(q->ring.last_used - q->disarmed_at) >= REDISARM)
        disarm(q);
    pv_store_release64(&g->boot->arguments[PV_ARG_STAMP], pv_cycles());
    if (pv_driver_publish(&q->ring)) {
        pv_bell_ring(g->boot, q->index);
        q->kicks++;
    }
}

int pv_reap(struct pv_guest *g, struct pv_queue *q, struct pv_used_elem *done, uint32_t max)
{
    int taken = pv_driver_reap(&q->ring, done, max);

    if (taken > 0)
        g->answered = pv_cycles();
    return taken < 0 ? -(int)pv_fail(g, PV_BROKEN, pv_cause(taken), q->index) : taken;
}

static bool pending(const struct pv_guest *g)
{
    for (uint32_t i = 0; i < g->queue_count; i++)
        if (pv_driver_pending(&g->queues[i].ring))
            return true;
    return false;
}

static bool arm(struct pv_guest *g)
{
    bool found = false;

    for (uint32_t i = 0; i < g->queue_count; i++)
        found |= pv_driver_arm(&g->queues[i].ring);
    return found;
}

void pv_follow(struct pv_guest *g)
{
    for (uint32_t i = 0; i < g->queue_count; i++)
        pv_bell_follow(g->boot, g->queues[i].index);
}

static enum pv_result look(struct pv_guest *g)
{
    uint64_t patience = g->arguments[PV_ARG_PATIENCE];

    while (!pending(g)) {
        if (patience && pv_cycles() - g->answered > patience)
            return pv_fail(g, PV_SILENT, pv_device_status(g) & NEEDS_RESET ? "needs-reset" : "silent", g->queue_count);
        pv_follow(g);
        pv_pause();
    }
    return PV_OK;
}

/*
 * An interrupt that no answer explains may be a change of the device's status, which is an exit to read: it is read before the next sleep,
 * and one interrupt goes on the account of the answer that is there after a sleep.
 */
static enum pv_result sleep_until_pending(struct pv_guest *g)
{
    for (;;) {
        uint64_t seen = pv_load_acquire64(&g->boot->interrupts);

        pv_follow(g);
        if (arm(g))
            return PV_OK;
        if (seen == g->explained) {
            pv_sleep(g->boot, seen);
            g->explained += pending(g);
        } else if (pv_device_status(g) & NEEDS_RESET) {
            return pv_fail(g, PV_SILENT, "needs-reset", g->queue_count);
        } else {
            g->explained = seen;
        }
    }
}

enum pv_result pv_wait(struct pv_guest *g)
{
    if (!interrupts(g))
        return look(g);
    enum pv_result result = sleep_until_pending(g);
    for (uint32_t i = 0; i < g->queue_count; i++)
        disarm(&g->queues[i]);
    return result;
}

uint64_t pv_kicks(const struct pv_guest *g)
{
    uint64_t kicks = 0;

    for (uint32_t i = 0; i < g->queue_count; i++)
        kicks += g->queues[i].kicks;
    return kicks;
}
