/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that sets up queue 0 as it should be and then writes nonsense over the ring, from every vCPU, while the device reads it. Its
 * last word is an available index that no driver may have (virtio 1.4, 2.7.6.1), so that whatever came before, the queue ends broken.
 */
#include "driver.h"

#define RING 0x300000ul
#define BLOCK 0xd0000000ul
#define EXIT 0xd0200008ul
#define COUNT 72u /* of the boot page: the first argument */

static uint32_t next(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u;
}

void play(volatile uint64_t *boot, uint64_t vcpu)
{
    uint32_t seed = (uint32_t)boot[COUNT / 8 + 1] + (uint32_t)vcpu;
    uint64_t count = boot[COUNT / 8];

    if (vcpu == 0)
        set_up(BLOCK, RING);
    for (uint64_t i = 0; vcpu != 0 || i < count; i++) {
        uint32_t value = next(&seed);

        *(volatile uint16_t *)(RING + (value >> 8) % 0x300 / 2 * 2) = (uint16_t)next(&seed);
        if (vcpu == 0 && i % 16 == 0)
            *reg(BLOCK, 0x50) = i % 64 == 0 ? next(&seed) : 0;
    }
    *(volatile uint16_t *)(RING + AVAIL + 2) = (uint16_t)(*(volatile uint16_t *)(RING + AVAIL + 2) + 0x4000);
    *reg(BLOCK, 0x50) = 0;
    *(volatile uint32_t *)EXIT = 0;
}

__asm__(".pushsection .text.start\n.globl _start\n_start: jmp play\n.popsection");
