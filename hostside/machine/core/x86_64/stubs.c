/* SPDX-License-Identifier: Apache-2.0 */
#include "stubs.h"

#include "layout.h"

extern const char pv_stubs[], pv_stubs_end[], pv_stub_interrupt[], pv_stub_faults[];

#define ENTRY_SIZE 16 /* as ring0.S aligns them */

const char *pv_stub_code(void)
{
    return pv_stubs;
}

uint32_t pv_stub_size(void)
{
    return (uint32_t)(pv_stubs_end - pv_stubs);
}

uint64_t pv_stub_interrupt_address(void)
{
    return PV_STUBS + (uint64_t)(pv_stub_interrupt - pv_stubs);
}

uint64_t pv_stub_fault_address(uint32_t vector)
{
    return PV_STUBS + (uint64_t)(pv_stub_faults - pv_stubs) + ENTRY_SIZE * vector;
}
