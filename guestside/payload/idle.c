/* SPDX-License-Identifier: Apache-2.0 */
/* A guest that does nothing but sleep until it has been interrupted a number of times, with its queues ready. */
#include "payload.h"

enum pv_result pv_idle(struct pv_guest *g)
{
    uint64_t count = g->arguments[PV_ARG_COUNT];
    uint64_t queues = g->arguments[PV_ARG_QUEUES] ? g->arguments[PV_ARG_QUEUES] : 1;
    enum pv_result result = pv_negotiate(g, 0, 0);

    for (uint32_t i = 0; result == PV_OK && i < queues; i++)
        result = pv_start_queue(g, i);
    if (result != PV_OK)
        return result;
    pv_drive(g);
    uint64_t woken = 0;
    uint64_t first = pv_load_acquire64(&g->boot->interrupts), seen = first;
    pv_put(g, "asleep\n");
    for (; count ? seen - first < count : !pv_stopped(g); woken++) { /* two interrupts may be one wake */
        pv_follow(g);
        if (g->arguments[PV_ARG_INTERRUPT]) {
            pv_sleep(g->boot, seen);
        } else {
            while (pv_load_acquire64(&g->boot->interrupts) == seen && !pv_stopped(g))
                pv_pause();
        }
        seen = pv_load_acquire64(&g->boot->interrupts);
    }
    pv_put_number(g, "woken", woken);
    pv_reset(g);
    return PV_OK;
}
