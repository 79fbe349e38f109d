/* SPDX-License-Identifier: Apache-2.0 */
/* Stands in for guestside/payload/machine.h where the payload runs inside a test program: the harness plays the machine. */
#ifndef PV_MACHINE_H
#define PV_MACHINE_H

#include <stdint.h>

#include "doorbell.h"

uint32_t pv_mmio_read32(uint64_t address);
void pv_mmio_write32(uint64_t address, uint32_t value);
void pv_mmio_write8(uint64_t address, uint8_t value);
uint64_t pv_cycles(void);
void pv_sleep(const struct pv_boot_page *page, uint64_t seen);
void pv_pause(void);

static inline void *pv_pointer(uint64_t address)
{
    return (void *)(uintptr_t)address;
}

#endif
