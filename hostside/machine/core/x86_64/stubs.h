/* SPDX-License-Identifier: Apache-2.0 */
/* The guest's ring-0 code (ring0.S), and where its parts lie in guest memory. */
#ifndef PV_STUBS_H
#define PV_STUBS_H

#include <stdint.h>

const char *pv_stub_code(void);
uint32_t pv_stub_size(void);
uint64_t pv_stub_interrupt_address(void);
uint64_t pv_stub_fault_address(uint32_t vector);
#endif
