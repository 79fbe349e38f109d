/* SPDX-License-Identifier: Apache-2.0 */
/* Bytes that only one request can have written: a mix of the seed, the request's number and the place. */
#include "payload.h"

typedef uint64_t __attribute__((may_alias, aligned(1))) pv_any64;

/* splitmix64 (Steele, Lea, Flood 2014): any change of the number changes half of the bits. */
static uint64_t mix(uint64_t z)
{
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

/* The first word is the number itself, so that a dump can be read; the others differ from word to word by an odd step. */
static uint64_t word(uint64_t base, uint64_t number, uint32_t index)
{
    return index ? base + index * 0x9e3779b97f4a7c15ull : number;
}

void pv_pattern_write(void *at, uint32_t size, uint64_t seed, uint64_t number)
{
    uint64_t base = mix(seed ^ mix(number));
    pv_any64 *to = at;
    uint32_t i = 0;

    for (; i < size / 8; i++)
        to[i] = word(base, number, i);
    for (uint32_t rest = i * 8; rest < size; rest++)
        ((uint8_t *)at)[rest] = (uint8_t)(word(base, number, i) >> 8 * (rest % 8));
}

bool pv_pattern_same(const void *at, uint32_t size, uint64_t seed, uint64_t number)
{
    uint64_t base = mix(seed ^ mix(number));
    const pv_any64 *from = at;
    uint32_t i = 0;

    for (; i < size / 8; i++)
        if (from[i] != word(base, number, i))
            return false;
    for (uint32_t rest = i * 8; rest < size; rest++)
        if (((const uint8_t *)at)[rest] != (uint8_t)(word(base, number, i) >> 8 * (rest % 8)))
            return false;
    return true;
}
