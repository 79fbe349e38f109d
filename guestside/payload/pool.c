/* SPDX-License-Identifier: Apache-2.0 */
/* Memory out of the machine's pool, and the two functions that a compiler may call by itself (C11 freestanding, gcc and clang). */
#include "payload.h"

void *pv_take(struct pv_guest *g, uint64_t size, uint64_t align)
{
    uint64_t at = (g->pool + align - 1) & ~(align - 1);

    if (at < g->pool || at > g->pool_end || size > g->pool_end - at)
        return NULL;
    g->pool = at + size;
    void *taken = pv_pointer(at);
    pv_fill(taken, size);
    return taken;
}

/* Zero it; an instruction, since a loop would be made a call of memset. */
void pv_fill(void *at, uint64_t size)
{
    uint64_t words = size / 8, bytes = size % 8;

    __asm__ volatile("rep stosq" : "+D"(at), "+c"(words) : "a"(0ull) : "memory");
    __asm__ volatile("rep stosb" : "+D"(at), "+c"(bytes) : "a"(0) : "memory");
}

#if !__STDC_HOSTED__
void *memset(void *at, int value, size_t size);
void *memcpy(void *to, const void *from, size_t size);

void *memset(void *at, int value, size_t size)
{
    void *end = at;

    __asm__ volatile("rep stosb" : "+D"(end), "+c"(size) : "a"(value) : "memory");
    return at;
}

void *memcpy(void *to, const void *from, size_t size)
{
    pv_copy(to, from, size);
    return to;
}
#endif
