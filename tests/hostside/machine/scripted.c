/* SPDX-License-Identifier: Apache-2.0 */
/* A driver that does what it is told: loads and stores of device windows, row by row, and what the loads gave is left in the rows. */
#include <stdint.h>

#define EXIT 0xd0200008ul

struct row {
    uint32_t address;
    uint16_t width; /* 0: the end */
    uint16_t store;
    uint64_t value;
};

static void store(uint64_t at, uint32_t width, uint64_t value)
{
    switch (width) {
    case 1: *(volatile uint8_t *)at = (uint8_t)value; break;
    case 2: *(volatile uint16_t *)at = (uint16_t)value; break;
    case 4: *(volatile uint32_t *)at = (uint32_t)value; break;
    default: *(volatile uint64_t *)at = value; break;
    }
}

static uint64_t load(uint64_t at, uint32_t width)
{
    switch (width) {
    case 1: return *(volatile uint8_t *)at;
    case 2: return *(volatile uint16_t *)at;
    case 4: return *(volatile uint32_t *)at;
    default: return *(volatile uint64_t *)at;
    }
}

void play(const volatile uint64_t *boot)
{
    volatile struct row *row = (volatile struct row *)boot[9]; /* the first argument */

    for (; row->width; row++) {
        if (row->store)
            store(row->address, row->width, row->value);
        else
            row->value = load(row->address, row->width);
    }
    *(volatile uint32_t *)EXIT = 0;
}

__asm__(".pushsection .text.start\n.globl _start\n_start: jmp play\n.popsection");
