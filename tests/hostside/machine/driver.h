/* SPDX-License-Identifier: Apache-2.0 */
/* The least that a driver has to say before queue 0 of a virtio-mmio device runs (virtio 1.4, 3.1.1 and 4.2.3.2). */
#ifndef DRIVER_H
#define DRIVER_H

#include <stdint.h>

#define SIZE 16u
#define AVAIL 0x200u /* of the ring's place */
#define USED 0x400u

static inline volatile uint32_t *reg(uint64_t device, uint32_t offset)
{
    return (volatile uint32_t *)(device + offset);
}

static inline void set_up(uint64_t device, uint32_t ring)
{
    *reg(device, 0x70) = 0;
    while (*reg(device, 0x70))
        ;
    *reg(device, 0x70) = 1;
    *reg(device, 0x70) = 3;
    for (uint32_t half = 0; half < 2; half++) {
        *reg(device, 0x14) = *reg(device, 0x24) = half;
        *reg(device, 0x20) = *reg(device, 0x10);
    }
    *reg(device, 0x70) = 11;
    *reg(device, 0x30) = 0;
    *reg(device, 0x38) = SIZE;
    *reg(device, 0x80) = ring;
    *reg(device, 0x90) = ring + AVAIL;
    *reg(device, 0xa0) = ring + USED;
    *reg(device, 0x84) = *reg(device, 0x94) = *reg(device, 0xa4) = 0;
    *reg(device, 0x44) = 1;
    *reg(device, 0x70) = 15;
}

#endif
