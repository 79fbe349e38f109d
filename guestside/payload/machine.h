/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the payload asks of the machine under it, and no more: registers of a device, time, and a way to wait. The tests compile the
 * payload for their own process with another version of this file.
 */
#ifndef PV_MACHINE_H
#define PV_MACHINE_H

#include <stdint.h>

#include "barrier.h"
#include "doorbell.h"

/* Guest-physical memory is identity mapped. */
static inline void *pv_pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

/* Plain moves: whoever has to decode them outside the CPU knows these best. */
static inline uint32_t pv_mmio_read32(uint64_t address)
{
    uint32_t value;

    __asm__ volatile("movl (%1), %0" : "=r"(value) : "r"(address) : "memory");
    return value;
}

static inline void pv_mmio_write32(uint64_t address, uint32_t value)
{
    __asm__ volatile("movl %1, (%0)" : : "r"(address), "r"(value) : "memory");
}

static inline void pv_mmio_write8(uint64_t address, uint8_t value)
{
    __asm__ volatile("movb %1, (%0)" : : "r"(address), "q"(value) : "memory");
}

/* Cycles of the time stamp counter. No fence: the one that would do is unknown to KVM's emulator, and what is timed leaves the guest. */
static inline uint64_t pv_cycles(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

/*
 * Sleep until the count of interrupts is another than `seen`. In ring 0 interrupts are off for the look at the count and let in by the HLT
 * only, since STI holds them back for one instruction more. In ring 3 HLT faults, and the machine's handler does the same there.
 */
static inline void pv_sleep(const struct pv_boot_page *boot, uint64_t seen)
{
    if (boot->cpl)
        __asm__ volatile("hlt" : "+D"(seen) : : "memory", "cc");
    else
        __asm__ volatile("1: cli\n"
                         "cmpq %1, %0\n"
                         "jne 2f\n"
                         "sti\n"
                         "hlt\n"
                         "jmp 1b\n"
                         "2: sti" : : "m"(boot->interrupts), "r"(seen) : "memory", "cc");
}

/* Between two looks at a ring. */
static inline void pv_pause(void)
{
    pv_relax();
}

#endif
