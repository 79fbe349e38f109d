/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest of bare.c, ring 3: RDI samples (u32 cycles), RCX how many, RSI the port or the address. It ends with an OUT to
 * PV_BARE_END. The counter is read as the payload reads it, with no fence.
 */
#include "bare.h"

.macro before
1:  rdtsc
    mov %eax, %r8d
    mov %esi, %edx
    xor %eax, %eax
.endm

.macro after
    rdtsc
    sub %r8d, %eax
    mov %eax, (%rdi)
    add $4, %rdi
    dec %rcx
    jnz 1b
    out %al, $PV_BARE_END
.endm

.section .rodata
.globl pv_bare_pio, pv_bare_mmio, pv_bare_end
.hidden pv_bare_pio, pv_bare_mmio, pv_bare_end
pv_bare_pio:
    before
    out %ax, %dx
    after
pv_bare_mmio:
    before
    mov %eax, (%rsi)
    after
pv_bare_end:

.section .note.GNU-stack, "", @progbits
