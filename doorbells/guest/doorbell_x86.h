/* SPDX-License-Identifier: Apache-2.0 */
/* The instructions of doorbell.h on x86-64; included from there only. */
#ifndef PV_DOORBELL_X86_H
#define PV_DOORBELL_X86_H

#define PV_HV_SIGNAL_EVENT 0x1005du /* call 0x5d, fast: its input is in registers (Hyper-V TLFS 3.8 and 11.11.2) */
#define PV_HV_BESIDE_XEN 0x80000000u /* in EAX: where KVM serves both, Hyper-V's call and not Xen's (arch/x86/kvm/xen.c) */
#define PV_XEN_EVENT_CHANNEL_OP 32u /* xen/include/public/xen.h */
#define PV_XEN_EVTCHNOP_SEND 4u     /* xen/include/public/event_channel.h */
#define PV_KVM_HC_MAP_GPA_RANGE 12u /* linux/kvm_para.h */
#define PV_VMPORT 0x5658u           /* VMware's backdoor: its low-bandwidth port and its magic */
#define PV_VMPORT_MAGIC 0x564d5868u

/* The vendor of this CPU by CPUID leaf 0; Hygon's CPUs are AMD's by design. Ring 0 only: elsewhere CPUID may show the host's. */
static inline uint32_t pv_vendor_by_cpuid(void)
{
    uint32_t leaf = 0, b, c = 0, d;

    __asm__ volatile("cpuid" : "+a"(leaf), "=b"(b), "+c"(c), "=d"(d));
    return c == 0x444d4163u /* "cAMD" */ || c == 0x656e6975u /* "uine" of HygonGenuine */ ? PV_VENDOR_AMD : PV_VENDOR_INTEL;
}

/* Pick the hypercall instruction for the machine that we are on now. */
static inline void pv_bell_pick(struct pv_boot_page *boot)
{
    uint32_t generation = __atomic_load_n(&boot->generation, __ATOMIC_ACQUIRE);

    if (boot->cpl == 0)
        boot->vendor = pv_vendor_by_cpuid();
    boot->picked = generation + 1;
}

/* Hyper-V's convention lets a call change all of these (TLFS 3.7); KVM's and Xen's change fewer. */
#define PV_REGISTERS "+a"(rax), "+b"(rbx), "+c"(rcx), "+d"(rdx), "+S"(rsi), "+D"(rdi), "+r"(r8)
#define PV_CLOBBERED "r9", "r10", "r11", "memory", "cc"

/* RAX in and out, the others in and lost; which register means what is the hypercall's business. */
static inline uint64_t pv_hypercall(struct pv_boot_page *boot, uint64_t rax, uint64_t rbx, uint64_t rcx, uint64_t rdx, uint64_t rsi,
                                    uint64_t rdi)
{
    register uint64_t r8 __asm__("r8") = 0;

    if (boot->picked != __atomic_load_n(&boot->generation, __ATOMIC_ACQUIRE) + 1)
        pv_bell_pick(boot);
    if (__atomic_load_n(&boot->vendor, __ATOMIC_RELAXED) == PV_VENDOR_AMD)
        __asm__ volatile("vmmcall" : PV_REGISTERS : : PV_CLOBBERED);
    else
        __asm__ volatile("vmcall" : PV_REGISTERS : : PV_CLOBBERED);
    return rax;
}

static inline void pv_kick_pio(uint64_t address, uint32_t width, uint64_t value)
{
    uint16_t port = (uint16_t)address;

    switch (width) {
    case 1: __asm__ volatile("outb %b0, %1" : : "a"((uint32_t)value), "d"(port) : "memory"); break;
    case 2: __asm__ volatile("outw %w0, %1" : : "a"((uint32_t)value), "d"(port) : "memory"); break;
    default: __asm__ volatile("outl %0, %1" : : "a"((uint32_t)value), "d"(port) : "memory"); break;
    }
}

/* What data in a notification looks like: beside `value` the queue and the bell's generation ride in ESI and EDI. */
static inline void pv_kick_vmport(const struct pv_kick *kick)
{
    uint32_t magic = PV_VMPORT_MAGIC, b = (uint32_t)kick->value, c = (uint32_t)kick->address, d = PV_VMPORT;
    uint32_t si = kick->queue, di = kick->generation;

    __asm__ volatile("inl %%dx, %%eax" : "+a"(magic), "+b"(b), "+c"(c), "+d"(d), "+S"(si), "+D"(di)::"memory");
}

static inline void pv_kick_ring(struct pv_boot_page *boot, const struct pv_kick *kick)
{
    uint32_t port = (uint32_t)kick->address;

    switch (kick->kind) {
    case PV_BELL_PIO: pv_kick_pio(kick->address, kick->width, kick->value); break;
    case PV_BELL_MMIO: pv_kick_mmio(kick->address, kick->width, kick->value); break;
    case PV_BELL_HYPERV: pv_hypercall(boot, PV_HV_BESIDE_XEN, 0, PV_HV_SIGNAL_EVENT, kick->address, 0, 0); break;
    case PV_BELL_XEN: pv_hypercall(boot, PV_XEN_EVENT_CHANNEL_OP, 0, 0, 0, (uintptr_t)&port, PV_XEN_EVTCHNOP_SEND); break;
    case PV_BELL_MAP_GPA: pv_hypercall(boot, PV_KVM_HC_MAP_GPA_RANGE, kick->address, kick->value, 0, 0, 0); break;
    case PV_BELL_VMPORT: pv_kick_vmport(kick); break;
    default: break;
    }
}

#endif
