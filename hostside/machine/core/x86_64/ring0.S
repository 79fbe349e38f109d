/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ring-0 part of every guest: what interrupts, faults and a HLT in ring 3 end in. Copied to PV_STUBS, so nothing here may depend on where
 * it was linked: jumps are relative, and what lies in guest memory is named by its absolute address.
 *
 * The payload is compiled without a red zone, so a stub may use its stack when it runs in ring 0 itself.
 */
#include "layout.h"

    .section .note.GNU-stack, "", @progbits
    .section .rodata
    .globl pv_stubs, pv_stubs_end, pv_stub_interrupt, pv_stub_faults
    .hidden pv_stubs, pv_stubs_end, pv_stub_interrupt, pv_stub_faults
    .balign 16
pv_stubs:

/* An interrupt of a device: count it and say that it was taken. */
pv_stub_interrupt:
    lock incq PV_BOOT + PV_BOOT_INTERRUPTS
    push %rax
    mov $(PV_LOCAL_APIC + PV_APIC_EOI), %eax
    movl $0, (%rax)
    pop %rax
    iretq

/* The faults: all entries have the same length, so the machine finds each by its vector. */
    .macro fault vector
    .balign 16
    .if !((0x60227d00 >> \vector) & 1) /* those that come with an error code: 8, 10-14, 17, 21, 29, 30 */
    push $0
    .endif
    push $\vector
    jmp pv_stub_fault
    .endm

    .balign 16
pv_stub_faults:
    .set number, 0
    .rept 32
    fault number
    .set number, number + 1
    .endr

/* The stack holds vector, error code, RIP, CS, RFLAGS, RSP, SS. Tell the machine where, which then ends the run. */
    .balign 16
pv_stub_fault:
    push %rax
    cmpl $6, 8(%rsp) /* #UD, which the payload may want to mend */
    je 2f
    cmpl $13, 8(%rsp) /* #GP, which is how ring 3 asks for a HLT */
    je 3f
1:  mov $PV_FAULT, %eax
    mov %rsp, (%rax)
    cli
    hlt
    jmp 1b
2:  cmpq $0, PV_BOOT + PV_BOOT_UNDEFINED
    je 1b
    testb $3, 32(%rsp) /* it is a ring-0 address: not for a payload in ring 3 */
    jnz 1b
    pop %rax
    add $16, %rsp
    jmp *PV_BOOT + PV_BOOT_UNDEFINED

/*
 * A HLT in ring 3: sleep for it until the count of interrupts is not %rdi any more. STI lets none in before the HLT behind it, so none is
 * missed. (An INT n would be the usual way in, but there are KVMs in which a guest has none.)
 */
3:  testb $3, 32(%rsp)
    jz 1b
    mov 24(%rsp), %rax
    cmpb $0xf4, (%rax)
    jne 1b
    incq 24(%rsp)
4:  cli
    mov PV_BOOT + PV_BOOT_INTERRUPTS, %rax
    cmp %rdi, %rax
    jne 5f
    sti
    hlt
    jmp 4b
5:  pop %rax
    add $16, %rsp
    iretq

pv_stubs_end:
