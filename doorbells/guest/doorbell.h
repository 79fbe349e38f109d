/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest's end of every doorbell, and the page by which the host says which one each queue has.
 *
 * Freestanding: a bare-metal guest needs nothing but this file. Its twin on the host is doorbells/kvm/_boot_page.py; a test
 * compares the two. The host writes the page, except for the fields marked "guest's".
 *
 * Live swap: a bell is valid while its generation is even. The guest reads the generation, the bell and the generation again, counts
 * itself in `kicking`, and begins anew if the generation is another by then. It kicks, stores the generation that it used in `taken`,
 * and counts itself out. Odd and even turns are counted apart. Whoever sees the new generation in `taken`, and then nobody in the turn
 * before it, knows that no kick by the old bell is on its way or can follow, from however many vCPUs, and busy ones are no hindrance.
 *
 * A hypercall's instruction differs between vendors, and a guest may be moved from one to the other. So the guest picks it by
 * CPUID, once at start and again whenever the page's generation has changed: the host patches no text of ours (KVM would, if the
 * instruction were the other vendor's) and there is no hypercall page.
 */
#ifndef PV_DOORBELL_H
#define PV_DOORBELL_H

#include <stdint.h>

#define PV_BOOT_MAGIC 0x62767670u /* "pvvb" */
#define PV_BOOT_VERSION 1u
#define PV_BELLS 64u

enum pv_bell_kind {
    PV_BELL_NONE = 0,    /* nothing: the host looks by itself */
    PV_BELL_PIO = 1,     /* x86: OUT of `value`, `width` bytes, to port `address` */
    PV_BELL_MMIO = 2,    /* a store of `value`, `width` bytes, to guest-physical `address` */
    PV_BELL_HYPERV = 3,  /* HvSignalEvent of the connection `address` */
    PV_BELL_XEN = 4,     /* EVTCHNOP_send to the event channel `address` */
    PV_BELL_MAP_GPA = 5, /* KVM_HC_MAP_GPA_RANGE, page `address`, `value` pages: a hypercall that ends in user space */
    PV_BELL_VMPORT = 6,  /* VMware's backdoor: `address` in ECX, `value` in EBX */
};

enum pv_vendor { PV_VENDOR_INTEL = 0 /* vmcall */, PV_VENDOR_AMD = 1 /* vmmcall */ };

struct pv_bell {
    uint32_t generation; /* even: valid; odd: the host is writing */
    uint8_t kind, width;
    uint16_t reserved;
    uint64_t address, value;
    uint32_t taken;      /* guest's: the generation of its last kick, stored after it */
    uint16_t kicking[2]; /* guest's: how many of its vCPUs kick now, by the turn of their bell */
};

struct pv_boot_page {
    uint32_t magic, version;
    uint32_t generation;    /* changes when the machine was restored: pick the hypercall instruction again */
    uint32_t vendor;        /* of the CPU (pv_vendor), by the host; in ring 0 overwritten by what CPUID says */
    uint32_t cpl;           /* the ring that the guest runs in */
    uint32_t kinds;         /* which kinds the host can hear: bit 1 << pv_bell_kind */
    uint64_t console;       /* guest-physical: a byte stored here is printed, a u32 stored at +8 ends the guest */
    uint64_t device;        /* guest-physical: the virtio-mmio register block of the first device */
    uint64_t pool;          /* guest-physical: memory for rings and buffers */
    uint64_t pool_size;     /* bytes */
    uint64_t interrupts;    /* counted by the interrupt handler */
    uint32_t vector;        /* of that interrupt */
    uint32_t queues;        /* how many bells are in use */
    uint64_t arguments[16]; /* what to run; the payload's business */
    struct pv_bell bells[PV_BELLS];
    uint32_t picked;            /* guest's: the generation for which it picked its instruction, plus 1; 0: not yet */
    uint32_t pad;
    uint64_t undefined_handler; /* guest's: where an invalid opcode goes in ring 0; 0: it is a fault */
};

/* What one kick needs, read from the page in one go. */
struct pv_kick {
    uint32_t queue, generation, kind, width;
    uint64_t address, value;
};

static inline struct pv_kick pv_bell_read(const struct pv_boot_page *boot, uint32_t queue)
{
    const struct pv_bell *bell = &boot->bells[queue % PV_BELLS];
    struct pv_kick kick = {.queue = queue};

    do {
        kick.generation = __atomic_load_n(&bell->generation, __ATOMIC_ACQUIRE);
        kick.kind = __atomic_load_n(&bell->kind, __ATOMIC_ACQUIRE);
        kick.width = __atomic_load_n(&bell->width, __ATOMIC_ACQUIRE);
        kick.address = __atomic_load_n(&bell->address, __ATOMIC_ACQUIRE);
        kick.value = __atomic_load_n(&bell->value, __ATOMIC_ACQUIRE);
    } while ((kick.generation & 1u) != 0 || __atomic_load_n(&bell->generation, __ATOMIC_ACQUIRE) != kick.generation);
    return kick;
}

static inline uint16_t *pv_bell_turn(struct pv_bell *bell, uint32_t generation)
{
    return &bell->kicking[generation / 2 % 2];
}

/* Read the bell and be counted as one that kicks by it: either the host sees the count, or we see its new generation. */
static inline struct pv_kick pv_bell_begin(struct pv_boot_page *boot, uint32_t queue)
{
    struct pv_bell *bell = &boot->bells[queue % PV_BELLS];

    for (;;) {
        struct pv_kick kick = pv_bell_read(boot, queue);
        uint16_t *turn = pv_bell_turn(bell, kick.generation);

        __atomic_fetch_add(turn, 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&bell->generation, __ATOMIC_SEQ_CST) == kick.generation)
            return kick;
        __atomic_fetch_sub(turn, 1, __ATOMIC_RELEASE);
    }
}

static inline void pv_kick_mmio(uint64_t address, uint32_t width, uint64_t value)
{
    uintptr_t at = (uintptr_t)address;

    switch (width) {
    case 1: *(volatile uint8_t *)at = (uint8_t)value; break;
    case 2: *(volatile uint16_t *)at = (uint16_t)value; break;
    case 4: *(volatile uint32_t *)at = (uint32_t)value; break;
    default: *(volatile uint64_t *)at = value; break;
    }
}

#if defined(__x86_64__)
#include "doorbell_x86.h"
#else
/* Only a store exists everywhere. */
static inline void pv_kick_ring(struct pv_boot_page *boot, const struct pv_kick *kick)
{
    (void)boot;
    if (kick->kind == PV_BELL_MMIO)
        pv_kick_mmio(kick->address, kick->width, kick->value);
}
#endif

/*
 * Kick a queue: with whatever doorbell it has now. What the driver published before is visible to the host by then: the ring passed
 * a full barrier between publishing and asking whether a kick is needed, and the compiler keeps to it here.
 */
static inline void pv_bell_ring(struct pv_boot_page *boot, uint32_t queue)
{
    struct pv_bell *bell = &boot->bells[queue % PV_BELLS];
    struct pv_kick kick = pv_bell_begin(boot, queue);

    __asm__ volatile("" ::: "memory");
    pv_kick_ring(boot, &kick);
    __atomic_store_n(&bell->taken, kick.generation, __ATOMIC_RELEASE);
    __atomic_fetch_sub(pv_bell_turn(bell, kick.generation), 1, __ATOMIC_RELEASE);
}

/*
 * Acknowledge a new bell without a kick: for a driver that waits. Before a sleep it comes after the count of interrupts was read,
 * since the host interrupts once it has changed the bell.
 */
static inline void pv_bell_follow(struct pv_boot_page *boot, uint32_t queue)
{
    struct pv_bell *bell = &boot->bells[queue % PV_BELLS];
    uint32_t generation = __atomic_load_n(&bell->generation, __ATOMIC_ACQUIRE);

    if ((generation & 1u) == 0 && generation != bell->taken)
        __atomic_store_n(&bell->taken, generation, __ATOMIC_RELEASE);
}

#endif
