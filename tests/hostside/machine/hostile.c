/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A driver that sets up queue 0 as it should be and then writes nonsense over the ring, from every vCPU, while the device reads it. Its
 * last word is an available index that no driver may have (virtio 1.4, 2.7.6.1), so that whatever came before, the queue ends broken.
 */
#include <stdint.h>

#define SIZE 16u
#define RING 0x300000ul
#define AVAIL (RING + 0x200)
#define USED (RING + 0x400)
#define BLOCK 0xd0000000ul
#define EXIT 0xd0200008ul
#define COUNT 72u /* of the boot page: the first argument */

static volatile uint32_t *reg(uint32_t offset)
{
    return (volatile uint32_t *)(BLOCK + offset);
}

static void set_up(void)
{
    *reg(0x70) = 0;
    while (*reg(0x70))
        ;
    *reg(0x70) = 1;
    *reg(0x70) = 3;
    for (uint32_t half = 0; half < 2; half++) {
        *reg(0x14) = *reg(0x24) = half;
        *reg(0x20) = *reg(0x10);
    }
    *reg(0x70) = 11;
    *reg(0x30) = 0;
    *reg(0x38) = SIZE;
    *reg(0x80) = RING;
    *reg(0x90) = AVAIL;
    *reg(0xa0) = USED;
    *reg(0x84) = *reg(0x94) = *reg(0xa4) = 0;
    *reg(0x44) = 1;
    *reg(0x70) = 15;
}

static uint32_t next(uint32_t *seed)
{
    return *seed = *seed * 1664525u + 1013904223u;
}

void play(volatile uint64_t *boot, uint64_t vcpu)
{
    uint32_t seed = (uint32_t)boot[COUNT / 8 + 1] + (uint32_t)vcpu;
    uint64_t count = boot[COUNT / 8];

    if (vcpu == 0)
        set_up();
    for (uint64_t i = 0; vcpu != 0 || i < count; i++) {
        uint32_t value = next(&seed);

        *(volatile uint16_t *)(RING + (value >> 8) % 0x300 / 2 * 2) = (uint16_t)next(&seed);
        if (vcpu == 0 && i % 16 == 0)
            *reg(0x50) = i % 64 == 0 ? next(&seed) : 0;
    }
    *(volatile uint16_t *)(AVAIL + 2) = (uint16_t)(*(volatile uint16_t *)(AVAIL + 2) + 0x4000);
    *reg(0x50) = 0;
    *(volatile uint32_t *)EXIT = 0;
}

__asm__(".section .text.start\n.globl _start\n_start: jmp play");
