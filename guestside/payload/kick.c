/* SPDX-License-Identifier: Apache-2.0 */
/* What one kick costs the guest, with no buffer behind it (a driver may kick for nothing: 2.7.13.4). */
#include "payload.h"

/* What the two looks at the counter cost by themselves: the least of some. */
static uint64_t overhead(void)
{
    uint64_t least = UINT64_MAX;

    for (int i = 0; i < 32; i++) {
        uint64_t before = pv_cycles();
        uint64_t spent = pv_cycles() - before;

        if (spent < least)
            least = spent;
    }
    return least;
}

enum pv_result pv_kick(struct pv_guest *g)
{
    uint64_t count = g->arguments[PV_ARG_COUNT];
    enum pv_result result = pv_negotiate(g, 0, 0);

    if (result == PV_OK)
        result = pv_start_queue(g, 0);
    if (result == PV_OK)
        result = pv_samples_start(g, count);
    if (result != PV_OK)
        return result;
    pv_drive(g);
    uint64_t done = 0, began = pv_cycles();
    for (; count ? done < count : !pv_stopped(g); done++) {
        uint64_t before = pv_cycles();

        pv_bell_ring(g->boot, 0);
        g->queues[0].kicks++;
        pv_sample(g, pv_cycles() - before);
    }
    uint64_t ended = pv_cycles();
    pv_put_number(g, "rung", done);
    pv_put_number(g, "cycles", ended - began);
    pv_put_number(g, "overhead", overhead());
    pv_put_samples(g);
    pv_reset(g);
    return PV_OK;
}
