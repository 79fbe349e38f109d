/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where everything is in the guest-physical address space; all of it is mapped at the same virtual address. Constants only: C, assembly
 * and Python (by cdef.h) read this file.
 *
 *     0x1000..0x100000      the machine's own pages, listed below
 *     0x100000..0x200000    stacks of the payload, one a vCPU
 *     0x200000..            the payload, and behind it what it may use as it likes
 *     0xd0000000..          devices: no memory, so that each access leaves the guest
 */
#ifndef PV_LAYOUT_H
#define PV_LAYOUT_H

#define PV_GDT 0x1000
#define PV_PAGE_TABLES 0x2000 /* PML4, PDPT and four page directories, for 4 GiB in pages of 2 MiB */
#define PV_BOOT 0x8000        /* struct pv_boot_page of doorbells/guest/doorbell.h */
#define PV_IDT 0x9000
#define PV_STUBS 0xa000
#define PV_STUBS_SIZE 0x1000
#define PV_TSS 0x10000      /* one a vCPU, each with an I/O bitmap that permits every port */
#define PV_TSS_STRIDE 0x3000 /* 104 bytes, 8 KiB of bitmap, one byte of ones behind it */
#define PV_KERNEL_STACK 0x80000 /* one a vCPU: the lower half for double faults */
#define PV_KERNEL_STACK_SIZE 0x2000
#define PV_STACK 0x100000
#define PV_STACK_SIZE 0x10000
#define PV_PAYLOAD 0x200000
#define PV_VCPUS 16 /* as many as there are stacks for */

#define PV_BLOCK 0xd0000000 /* the register block of device i at 0x1000 * i */
#define PV_BELL_PAGE 0xd0100000 /* doorbells by a store, for device i at 0x1000 * i: that of all its queues, then those of each */
#define PV_BELL_OWN 0x400
#define PV_WINDOW 0x1000
#define PV_DEVICES 32 /* more than the 64 bells of a boot page are good for */
#define PV_CONSOLE 0xd0200000
#define PV_EXIT 0xd0200008
#define PV_FAULT 0xd0200010
#define PV_DEVICES_END 0xd0400000
#define PV_LOCAL_APIC 0xfee00000
#define PV_APIC_EOI 0xb0

#define PV_CONSOLE_PORT 0x3f8 /* the first serial port of a PC */
#define PV_BELL_PORT 0xc000 /* doorbells by OUT, for device i at 0x100 * i */
#define PV_SHARED_PORT 0xb000 /* one port for all queues of device i, at 4 * i */

#define PV_VECTOR 0x30 /* of the first device's interrupts; those of the next follow */

#define PV_CODE_0 0x08 /* selectors */
#define PV_DATA_0 0x10
#define PV_CODE_3 0x1b
#define PV_DATA_3 0x23
#define PV_TASK 0x28 /* one a vCPU, 16 bytes each */

/* In the boot page; doorbells/guest/doorbell.h is the authority, and a test compares. */
#define PV_BOOT_INTERRUPTS 56
#define PV_BOOT_UNDEFINED 2256

#endif
