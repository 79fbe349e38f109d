/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where the machine enters (RDI: the boot page, RSI: the number of the CPU, RSP: the top of a stack), in ring 0 or ring 3, and what
 * happens when a CPU does not know the hypercall instruction that it was given.
 */
#include "payload_asm.h"

        .section .text.start, "ax"
        .globl  pv_start
pv_start:
        xorl    %ebp, %ebp
        testq   %rsi, %rsi
        jnz     pv_park                         /* one CPU drives, the others sleep */
        movq    %rdi, pv_boot_address(%rip)
        cmpl    $0, PV_BOOT_CPL(%rdi)
        jne     1f
        leaq    pv_undefined(%rip), %rax        /* in ring 0 only: elsewhere the machine itself tells the vendor */
        movq    %rax, PV_BOOT_UNDEFINED(%rdi)
1:      andq    $-16, %rsp
        movq    %rdi, %rbx
        call    pv_main
        movq    PV_BOOT_CONSOLE(%rbx), %rdx
        movl    %eax, PV_CONSOLE_EXIT(%rdx)     /* the end; should the machine come back, do it again */
2:      pause
        movl    %eax, PV_CONSOLE_EXIT(%rdx)
        jmp     2b

pv_park:
        movq    %rdi, %rbx
3:      movq    PV_BOOT_INTERRUPTS(%rbx), %rdi
        hlt                                     /* in ring 3 by the machine, which RDI tells what to wait for */
        jmp     3b

/*
 * An undefined instruction, with the CPU's frame on the stack: if it was VMCALL or VMMCALL, the guest has moved to a CPU of the other
 * vendor since it picked one. Run the other's with the registers of the caller, remember it, and go on behind. If that one is undefined as
 * well, there is no hypercall here: leave the fault to the machine.
 */
        .text
pv_undefined:
        pushq   %rax
        pushq   %rcx
        movq    16(%rsp), %rax                  /* the address of the instruction */
        leaq    pv_undefined(%rip), %rcx
        cmpq    %rcx, %rax
        jb      3f
        leaq    pv_undefined_end(%rip), %rcx
        cmpq    %rcx, %rax
        jb      8f                              /* it is one of our own below */
3:      cmpw    $0x010f, (%rax)
        jne     8f
        movb    2(%rax), %cl
        addq    $3, 16(%rsp)
        movq    pv_boot_address(%rip), %rax
        cmpb    $0xc1, %cl
        je      4f
        cmpb    $0xd9, %cl
        jne     7f
        movl    $PV_INTEL, PV_BOOT_VENDOR(%rax)
        call    pv_picked
        popq    %rcx
        popq    %rax
        vmcall
        iretq
4:      movl    $PV_AMD, PV_BOOT_VENDOR(%rax)
        call    pv_picked
        popq    %rcx
        popq    %rax
        vmmcall
        iretq
7:      subq    $3, 16(%rsp)
8:      movq    pv_boot_address(%rip), %rax
        movq    $0, PV_BOOT_UNDEFINED(%rax)
        popq    %rcx
        popq    %rax
        iretq                                   /* to the same instruction, and from there to the machine */

/* Picked for this generation of the boot page (RAX). */
pv_picked:
        movl    PV_BOOT_GENERATION(%rax), %ecx
        incl    %ecx
        movl    %ecx, PV_BOOT_PICKED(%rax)
        ret
pv_undefined_end:

        .bss
        .balign 8
pv_boot_address:
        .skip   8

        .section .note.GNU-stack, "", @progbits
