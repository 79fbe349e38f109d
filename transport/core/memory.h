/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Guest-physical memory: a table of regions, and the only way from a guest-physical address to a local one.
 *
 * A table never changes once it is in use: whoever adds or removes a region makes a new one. Every check holds for any 64-bit address and
 * length: sums that could wrap are never formed. A range may run on from one region into the next where the two adjoin in guest-physical
 * memory; where they lie locally does not matter. `hint` is the caller's own memory of the region it found last, any value will do and it
 * is never NULL: nearby accesses mostly hit the same region again.
 */
#ifndef PV_MEMORY_H
#define PV_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pv_region_flags {
    PV_REGION_GUARDED = 1, /* the peer can make it vanish: to be touched inside pv_guarded only */
    PV_REGION_READONLY = 2 /* mapped without the right to write */
};

enum pv_memory_flags { PV_MEMORY_GUARDED = 1 }; /* some region is PV_REGION_GUARDED */

/* size is not 0, and addr + size - 1 is a 64-bit number. */
struct pv_region {
    uint64_t addr;
    uint64_t size;
    uint8_t *host;
    uint64_t flags;
};

/* Sorted by addr, without overlap; count is below 2^31. */
struct pv_memory {
    const struct pv_region *regions;
    uint32_t count;
    uint32_t flags;
};

/* The index of the region that holds addr, `hint` tried first; -1 if none does. */
int32_t pv_memory_find(const struct pv_memory *m, uint64_t addr, uint32_t hint);

/* The local address of [addr, addr + len) if one region holds all of it, else NULL. len may be 0, addr is in the region even then. */
uint8_t *pv_memory_host(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint);

/* How many bytes follow in one piece from addr on, and in *host where; 0, and *host as it was, if addr is not mapped. */
uint64_t pv_memory_span(const struct pv_memory *m, uint64_t addr, uint32_t *hint, uint8_t **host);

/* 0 if every byte of [addr, addr + len) is in some region, else -PV_E_ADDRESS. A range of no bytes is always inside. */
int pv_memory_check(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint);

/* Copy all of it, or nothing and -PV_E_ADDRESS. A read-only region counts as a hole for writing. */
int pv_memory_read(const struct pv_memory *m, void *to, uint64_t addr, uint64_t len, uint32_t *hint);
int pv_memory_write(const struct pv_memory *m, uint64_t addr, const void *from, uint64_t len, uint32_t *hint);

/* memcpy, or its like where there is no libc; a plain loop would not do there, as compilers turn it into a call of memcpy. */
static inline void pv_copy(void *to, const void *from, size_t len)
{
#if __STDC_HOSTED__
    __builtin_memcpy(to, from, len);
#elif defined(__x86_64__)
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(len) : : "memory");
#else
    uint8_t *t = to;
    const volatile uint8_t *f = from;

    while (len--)
        *t++ = *f++;
#endif
}

#endif
