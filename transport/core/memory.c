/* SPDX-License-Identifier: Apache-2.0 */
/* From guest-physical to local addresses, and copies over the borders of regions. */
#include "memory.h"

#include "wire.h"

static bool holds(const struct pv_region *region, uint64_t addr)
{
    return addr >= region->addr && addr - region->addr < region->size;
}

int32_t pv_memory_find(const struct pv_memory *m, uint64_t addr, uint32_t hint)
{
    uint32_t low = 0;
    uint32_t high = m->count;

    if (hint < m->count && holds(&m->regions[hint], addr))
        return (int32_t)hint;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;

        if (addr < m->regions[middle].addr)
            high = middle;
        else if (holds(&m->regions[middle], addr))
            return (int32_t)middle;
        else
            low = middle + 1;
    }
    return -1;
}

/* The region that holds addr, remembered in *hint; NULL if there is none or it has a flag of `without`. */
static const struct pv_region *locate(const struct pv_memory *m, uint64_t addr, uint32_t *hint, uint64_t without)
{
    int32_t index = pv_memory_find(m, addr, *hint);

    if (index < 0 || (m->regions[index].flags & without))
        return NULL;
    *hint = (uint32_t)index;
    return &m->regions[index];
}

static uint8_t *within(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint, uint64_t without)
{
    const struct pv_region *region = locate(m, addr, hint, without);

    if (!region || len > region->size - (addr - region->addr))
        return NULL;
    return region->host + (addr - region->addr);
}

uint8_t *pv_memory_host(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint)
{
    return within(m, addr, len, hint, 0);
}

uint64_t pv_memory_span(const struct pv_memory *m, uint64_t addr, uint32_t *hint, uint8_t **host)
{
    const struct pv_region *region = locate(m, addr, hint, 0);

    if (!region)
        return 0;
    *host = region->host + (addr - region->addr);
    return region->size - (addr - region->addr);
}

static int check(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint, uint64_t without)
{
    if (len && len - 1 > UINT64_MAX - addr)
        return -PV_E_ADDRESS; /* or what is behind the last address would be looked for at address 0 */
    while (len) {
        const struct pv_region *region = locate(m, addr, hint, without);
        if (!region)
            return -PV_E_ADDRESS;
        uint64_t span = region->size - (addr - region->addr);
        if (span >= len)
            break;
        addr += span;
        len -= span;
    }
    return 0;
}

int pv_memory_check(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint)
{
    return check(m, addr, len, hint, 0);
}

/* The next piece of a range that was checked before. */
static uint8_t *piece(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint, size_t *size)
{
    uint8_t *at = NULL;
    uint64_t span = pv_memory_span(m, addr, hint, &at);

    *size = (size_t)(span < len ? span : len);
    return at;
}

int pv_memory_read(const struct pv_memory *m, void *to, uint64_t addr, uint64_t len, uint32_t *hint)
{
    const uint8_t *whole = within(m, addr, len, hint, 0);
    uint8_t *out = to;
    size_t size;

    if (len && whole) {
        pv_copy(to, whole, (size_t)len);
        return 0;
    }
    int rc = check(m, addr, len, hint, 0);
    if (rc)
        return rc;
    for (; len; addr += size, len -= size, out += size) {
        const uint8_t *at = piece(m, addr, len, hint, &size);
        pv_copy(out, at, size);
    }
    return 0;
}

int pv_memory_write(const struct pv_memory *m, uint64_t addr, const void *from, uint64_t len, uint32_t *hint)
{
    uint8_t *whole = within(m, addr, len, hint, PV_REGION_READONLY);
    const uint8_t *in = from;
    size_t size;

    if (len && whole) {
        pv_copy(whole, from, (size_t)len);
        return 0;
    }
    int rc = check(m, addr, len, hint, PV_REGION_READONLY);
    if (rc)
        return rc;
    for (; len; addr += size, len -= size, in += size) {
        uint8_t *at = piece(m, addr, len, hint, &size);
        pv_copy(at, in, size);
    }
    return 0;
}
