/* SPDX-License-Identifier: Apache-2.0 */
/* What a kick costs with nothing around it: the measure for the machine's own kicks. */
#ifndef PV_BARE_H
#define PV_BARE_H

#define PV_BARE_END 0x80 /* the port by which its guest ends: a PC's diagnostic display */
#define PV_BARE_MOST 262144 /* kicks in one go: a sample each, in the upper half of its memory */

#ifndef __ASSEMBLER__
#include <stdint.h>

enum pv_bare { PV_BARE_PIO, PV_BARE_PIO_EXIT, PV_BARE_MMIO, PV_BARE_MMIO_EXIT };

/* Make a VM of one vCPU, kick `count` times and store the cycles of each; 0 or -errno. */
int pv_bare_kicks(int kvm, enum pv_bare kind, uint32_t *cycles, uint32_t count);
#endif

#endif
