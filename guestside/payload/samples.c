/* SPDX-License-Identifier: Apache-2.0 */
/* How long single events took, kept one by one: the last SAMPLES of them. */
#include "payload.h"

#define SAMPLES 16384u /* p99 of the last ones rests on 163 values; sorting them takes some milliseconds */

enum pv_result pv_samples_start(struct pv_guest *g, uint64_t count)
{
    g->sample_max = count && count < SAMPLES ? (uint32_t)count : SAMPLES;
    g->sample_count = 0;
    g->samples = pv_take(g, g->sample_max * sizeof *g->samples, sizeof *g->samples);
    return g->samples ? PV_OK : pv_fail(g, PV_NO_MEMORY, "pool", g->sample_max * sizeof *g->samples);
}

void pv_sample(struct pv_guest *g, uint64_t cycles)
{
    g->samples[g->sample_count++ % g->sample_max] = cycles < UINT32_MAX ? (uint32_t)cycles : UINT32_MAX;
}

/* Let the value at `root` sink to its place in a heap of `count`. */
static void sink(uint32_t *heap, uint32_t root, uint32_t count)
{
    uint32_t value = heap[root];

    for (uint32_t child = 2 * root + 1; child < count; child = 2 * root + 1) {
        if (child + 1 < count && heap[child + 1] > heap[child])
            child++;
        if (heap[child] <= value)
            break;
        heap[root] = heap[child];
        root = child;
    }
    heap[root] = value;
}

/* Heapsort: no memory, and no order of values that makes it slow. */
static void sort(uint32_t *values, uint32_t count)
{
    for (uint32_t root = count / 2; root--;)
        sink(values, root, count);
    for (uint32_t end = count; end-- > 1;) {
        uint32_t largest = values[0];

        values[0] = values[end];
        values[end] = largest;
        sink(values, 0, end);
    }
}

void pv_put_samples(struct pv_guest *g)
{
    uint32_t count = g->sample_count < g->sample_max ? g->sample_count : g->sample_max;

    if (!count)
        return;
    sort(g->samples, count);
    pv_put_number(g, "least", g->samples[0]);
    pv_put_number(g, "p50", g->samples[count / 2]);
    pv_put_number(g, "p99", g->samples[(uint32_t)((uint64_t)count * 99 / 100)]);
    pv_put_number(g, "most", g->samples[count - 1]);
}
