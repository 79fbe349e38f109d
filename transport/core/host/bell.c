/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "bell.h"

#include <errno.h>
#include <unistd.h>

void pv_host_bell_put(struct pv_host_bell *bell, uint32_t fd)
{
    uint32_t generation = pv_load_once32(&bell->generation);

    pv_store_release32(&bell->generation, generation + 1);
    pv_full_barrier(); /* the odd generation before the descriptor: on x86 it would not be needed */
    pv_store_release32(&bell->fd, fd);
    pv_store_release32(&bell->generation, generation + 2);
}

int pv_host_bell_taken(const struct pv_host_bell *bell)
{
    return pv_load_acquire32(&bell->taken) == pv_load_once32(&bell->generation);
}

void pv_host_bell_ring(struct pv_host_bell *bell)
{
    uint32_t generation, fd;
    uint64_t one = 1;

    do {
        generation = pv_load_acquire32(&bell->generation);
        fd = pv_load_acquire32(&bell->fd);
    } while (generation & 1 || pv_load_acquire32(&bell->generation) != generation);
    while (fd != PV_NO_BELL && write((int)fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
    pv_store_release32(&bell->taken, generation);
}

void pv_host_bell_note(struct pv_host_bell *bell)
{
    uint32_t generation = pv_load_acquire32(&bell->generation);

    if (!(generation & 1) && generation != pv_load_once32(&bell->taken))
        pv_store_release32(&bell->taken, generation);
}
