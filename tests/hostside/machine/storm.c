/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A program for a vCPU of its own, beside the payload on another: it drives the second device of the machine, and kicks its queue 0 with
 * nothing in the ring (virtio 1.4, 2.7.13.4 allows that) as fast as it can. It prints a line before and one behind.
 */
#include "doorbell.h"

#include "driver.h"

#define BELL 10 /* arguments that the payload has no use for: which bell, and how often */
#define COUNT 11

static void print(const struct pv_boot_page *boot, char letter)
{
    *(volatile uint8_t *)boot->console = (uint8_t)letter;
    *(volatile uint8_t *)boot->console = '\n';
}

void play(struct pv_boot_page *boot)
{
    set_up(boot->device + 0x1000, 0x3100000);
    print(boot, 'b');
    for (uint64_t i = 0; i < boot->arguments[COUNT]; i++)
        pv_bell_ring(boot, (uint32_t)boot->arguments[BELL]);
    print(boot, 'e');
    for (;;)
        __builtin_ia32_pause();
}

__asm__(".pushsection .text.start\n.globl _start\n_start: jmp play\n.popsection");
