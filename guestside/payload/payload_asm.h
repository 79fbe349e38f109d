/* SPDX-License-Identifier: Apache-2.0 */
/* Where start.S finds the fields of the boot page; main.c asserts each against doorbell.h. */
#ifndef PV_PAYLOAD_ASM_H
#define PV_PAYLOAD_ASM_H

#define PV_BOOT_GENERATION 8
#define PV_BOOT_VENDOR 12
#define PV_BOOT_CPL 16
#define PV_BOOT_CONSOLE 24
#define PV_BOOT_INTERRUPTS 56
#define PV_BOOT_PICKED 2248
#define PV_BOOT_UNDEFINED 2256
#define PV_CONSOLE_EXIT 8
#define PV_INTEL 0
#define PV_AMD 1

#endif
