/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every ordered access of the ring, and the only file with barriers. Each use names its pair by letter:
 *
 *     A   driver: release store of the available index          device: acquire load of it
 *     B   device: release store of the used index               driver: acquire load of it
 *     C   driver: full barrier between its available index and reading what the device asked for (avail_event, used flags)
 *     D   device: full barrier between asking (avail_event, used flags) and looking at the available index again
 *     E   device: full barrier between its used index and reading what the driver asked for (used_event, available flags)
 *     F   driver: full barrier between asking (used_event, available flags) and looking at the used index again
 *     G   device: release or into the log of dirty pages       whoever migrates the guest: acquire exchange of it, before it copies pages
 *
 * C pairs with D and E with F (2.7.13.4.1): of the two sides at least one sees the other's store, so that either the
 * notification is sent or the sleeper finds the work itself. tests/model holds the proof and the counterexamples.
 */
#ifndef PV_BARRIER_H
#define PV_BARRIER_H

#include "wire.h"

static inline uint16_t pv_load_acquire(const uint16_t *p)
{
    return pv_le16(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

static inline void pv_store_release(uint16_t *p, uint16_t value)
{
    __atomic_store_n(p, pv_le16(value), __ATOMIC_RELEASE);
}

/* A store whose order the release store of an index after it gives; atomic so that it is never torn or repeated. */
static inline void pv_store_plain(uint16_t *p, uint16_t value)
{
    __atomic_store_n(p, pv_le16(value), __ATOMIC_RELAXED);
}

/* A load whose order an acquire load before it gives; atomic so that it is done exactly once. */
static inline uint16_t pv_load_once(const uint16_t *p)
{
    return pv_le16(__atomic_load_n(p, __ATOMIC_RELAXED));
}

static inline uint32_t pv_load_once32(const uint32_t *p)
{
    return pv_le32(__atomic_load_n(p, __ATOMIC_RELAXED));
}

static inline uint32_t pv_load_acquire32(const uint32_t *p)
{
    return pv_le32(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

/* A count or a flag that another thread, or an interrupt, changes at any time; what was written before it is seen too. */
static inline uint64_t pv_load_acquire64(const uint64_t *p)
{
    return pv_le64(__atomic_load_n(p, __ATOMIC_ACQUIRE));
}

static inline void pv_store_release32(uint32_t *p, uint32_t value)
{
    __atomic_store_n(p, pv_le32(value), __ATOMIC_RELEASE);
}

static inline void pv_store_release64(uint64_t *p, uint64_t value)
{
    __atomic_store_n(p, pv_le64(value), __ATOMIC_RELEASE);
}

/* Set bits in a byte that others clear at the same time. */
static inline void pv_or_release8(uint8_t *p, uint8_t bits)
{
    __atomic_fetch_or(p, bits, __ATOMIC_RELEASE);
}

/* Store before, load after: neither acquire nor release orders these two. */
static inline void pv_full_barrier(void)
{
#ifdef __SANITIZE_THREAD__
    /* ThreadSanitizer knows no fences; an atomic read-modify-write of a private word is one on every machine it runs on. */
    uint32_t word = 0;
    __atomic_fetch_add(&word, 1, __ATOMIC_SEQ_CST);
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

/* In a spin: let the other hyperthread run and spare the bus. */
static inline void pv_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* Have a cache line on its way; nothing is read in the sense of the memory model, and no address is wrong. */
static inline void pv_prefetch(const void *line)
{
    __builtin_prefetch(line);
}

typedef uint64_t __attribute__((may_alias)) pv_word; /* guest memory has no type of its own */

/*
 * Copy a descriptor out of shared memory, reading each byte once: a plain struct copy would allow the compiler to read a field again
 * after it was checked. An indirect table may lie at any address (2.7.5.3), hence the second way.
 */
static inline struct pv_desc pv_desc_fetch(const void *shared)
{
    union {
        struct pv_desc desc;
        uint64_t word[2];
        uint8_t byte[16];
    } copy;

    if (((uintptr_t)shared & 7u) == 0) {
        const pv_word *word = shared;
        copy.word[0] = __atomic_load_n(&word[0], __ATOMIC_RELAXED);
        copy.word[1] = __atomic_load_n(&word[1], __ATOMIC_RELAXED);
    } else {
        const volatile uint8_t *byte = shared;
        for (unsigned i = 0; i < sizeof copy.byte; i++)
            copy.byte[i] = byte[i];
    }
    copy.desc.addr = pv_le64(copy.desc.addr);
    copy.desc.len = pv_le32(copy.desc.len);
    copy.desc.flags = pv_le16(copy.desc.flags);
    copy.desc.next = pv_le16(copy.desc.next);
    return copy.desc;
}

#endif
