/* SPDX-License-Identifier: Apache-2.0 */
#define _POSIX_C_SOURCE 200809L
#include "log.h"

#include <fcntl.h>
#include <unistd.h>

#include "guard.h"

#define PAGE_SHIFT 12 /* whatever the size of pages here */

void pv_log_start(struct pv_device_ring *r, const struct pv_log *log, uint64_t used)
{
    r->log = log;
    r->log_used = used;
}

struct pages {
    uint8_t *bits;
    uint64_t first;
    uint64_t last;
};

static long mark(void *arg)
{
    const struct pages *pages = arg;
    uint64_t page = pages->first;

    while (page <= pages->last) {
        uint64_t end = (page | 7) < pages->last ? (page | 7) : pages->last; /* in the same byte */
        pv_or_release8(&pages->bits[page / 8], (uint8_t)(0xFFu << (page & 7) & 0xFFu >> (7 - (end & 7)))); /* G */
        page = end + 1;
    }
    return 0;
}

/* The peer can clear O_NONBLOCK, and fill the counter: setting it first leaves it hardly a moment to have us wait. */
static void ring_bell(int bell)
{
    const uint64_t one = 1;

    if (fcntl(bell, F_SETFL, O_NONBLOCK) == 0 && write(bell, &one, sizeof one) < 0)
        return; /* the counter is full: it has been rung */
}

int pv_log_mark(const struct pv_log *log, uint64_t addr, uint64_t len)
{
    const struct pv_region *map = &log->bitmap->regions[0];

    if (len == 0)
        return 0;
    if (len - 1 > UINT64_MAX - addr)
        return -PV_E_ADDRESS;
    struct pages pages = {map->host, addr >> PAGE_SHIFT, (addr + (len - 1)) >> PAGE_SHIFT};
    if (pages.last / 8 >= map->size)
        return -PV_E_ADDRESS;
    int rc = (int)pv_guarded(log->bitmap, mark, &pages);
    if (rc == 0 && log->bell >= 0)
        ring_bell(log->bell);
    return rc;
}

/* Remember a mark that could not be made. */
static int told(struct pv_device_ring *r, int rc)
{
    if (rc < 0 && !r->broken) {
        r->broken = (uint16_t)-rc;
        r->rejected[-rc]++;
    }
    return rc;
}

int pv_log_chain(struct pv_device_ring *r, const struct pv_slot *slot, uint32_t offset, uint32_t len)
{
    const struct pv_node *n = &r->nodes[slot->first];
    int rc = 0;

    for (uint32_t skip = slot->readable_nodes; skip; skip--)
        n = &r->nodes[n->next];
    for (uint32_t count = slot->writable_nodes; count && len && rc == 0; count--, n = &r->nodes[n->next]) {
        if (offset >= n->len) {
            offset -= n->len;
            continue;
        }
        uint32_t part = n->len - offset < len ? n->len - offset : len;
        rc = pv_log_mark(r->log, n->addr + offset, part);
        len -= part;
        offset = 0;
    }
    return rc;
}

static uint64_t used_address(const struct pv_device_ring *r, const void *word)
{
    return r->log_used + (uint64_t)((const uint8_t *)word - (const uint8_t *)r->ring.used);
}

static uint64_t used_entry(const struct pv_device_ring *r, uint32_t index)
{
    return used_address(r, r->ring.used + PV_RING_ENTRIES) + sizeof(struct pv_used_elem) * index;
}

int pv_log_used(struct pv_device_ring *r, uint16_t from)
{
    uint32_t first = from & r->ring.mask;
    uint32_t count = (uint16_t)(r->used - from);

    if (count == 0 || r->log_used == PV_LOG_NO_ADDRESS)
        return 0;
    if (count > r->ring.size)
        count = r->ring.size;
    uint32_t behind = first + count > r->ring.size ? first + count - r->ring.size : 0; /* entries at the ring's beginning again */
    int rc = pv_log_mark(r->log, used_entry(r, first), sizeof(struct pv_used_elem) * (count - behind));
    if (rc == 0)
        rc = pv_log_mark(r->log, used_entry(r, 0), sizeof(struct pv_used_elem) * behind);
    if (rc == 0)
        rc = pv_log_mark(r->log, used_address(r, &r->ring.used[PV_RING_IDX]), sizeof(uint16_t));
    return told(r, rc);
}

int pv_log_event(struct pv_device_ring *r)
{
    const uint16_t *word = r->ring.features & PV_RING_EVENT_IDX ? pv_avail_event(&r->ring) : &r->ring.used[PV_RING_FLAGS];

    if (r->log_used == PV_LOG_NO_ADDRESS)
        return 0;
    return told(r, pv_log_mark(r->log, used_address(r, word), sizeof *word));
}
