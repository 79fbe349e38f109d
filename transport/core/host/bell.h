/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A doorbell as a loop in C rings it while another may take its place (transport/_lent.py). The shape is that of `struct pv_bell` in
 * doorbells/guest/doorbell.h: read generation, bell and generation again, kick, and only then store the generation that was used.
 */
#ifndef PV_HOST_BELL_H
#define PV_HOST_BELL_H

#include "cycle.h"

#define PV_NO_BELL UINT32_MAX

struct pv_host_bell {
    uint32_t generation; /* even: valid; odd: being written */
    uint32_t fd;         /* PV_NO_BELL: nothing to ring, the device looks by itself */
    uint32_t taken;      /* the loop's: the generation after which no kick by an earlier bell is on its way */
};

/* For whoever changes the bell, one thread at a time. */
void pv_host_bell_put(struct pv_host_bell *bell, uint32_t fd);
int pv_host_bell_taken(const struct pv_host_bell *bell);

/* For the loop: kick, or say between two kicks that the bell of now was seen. */
void pv_host_bell_ring(struct pv_host_bell *bell);
void pv_host_bell_note(struct pv_host_bell *bell);

#endif
