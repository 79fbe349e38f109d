/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a head to a private, checked copy of its chain (2.7.5).
 *
 * Each descriptor is fetched once and only the copy is looked at. The walk ends after as many descriptors as the table has, so a loop ends
 * too. An indirect table may follow any number of direct descriptors and closes the chain (2.7.5.3.2).
 */
#include "ring.h"

static bool take_node(struct pv_device_ring *r, struct pv_slot *slot, const struct pv_desc *d, uint32_t region)
{
    if (r->nodes_free == 0)
        return false;
    uint16_t index = r->node_head;
    struct pv_node *node = &r->nodes[index];

    r->node_head = node->next;
    r->nodes_free--;
    node->addr = d->addr;
    node->len = d->len;
    node->region = (uint16_t)region;
    if (slot->readable_nodes + slot->writable_nodes == 0)
        slot->first = index;
    else
        r->nodes[slot->last].next = index;
    slot->last = index;
    return true;
}

void pv_nodes_release(struct pv_device_ring *r, struct pv_slot *slot)
{
    uint32_t count = (uint32_t)slot->readable_nodes + slot->writable_nodes;

    if (count) {
        r->nodes[slot->last].next = r->node_head;
        r->node_head = slot->first;
        r->nodes_free += count;
    }
    slot->readable_nodes = slot->writable_nodes = 0;
}

struct walk {
    uint64_t total;
    uint32_t looked; /* descriptors with a buffer */
    uint32_t region; /* where the last buffer was found: the next is likely there too */
    bool writable;   /* a writable descriptor was seen, so no readable one may follow (2.7.4.2) */
};

static int take_buffer(struct pv_device_ring *r, struct pv_slot *slot, struct walk *walk, const struct pv_desc *d)
{
    bool writable = d->flags & PV_DESC_WRITE;

    walk->looked++;
    if (walk->writable && !writable)
        return -PV_E_ORDER;
    walk->writable = writable;
    walk->total += d->len;
    if (walk->total > UINT32_MAX)
        return -PV_E_TOTAL_LENGTH;
    if (d->len == 0)
        return 0;
    if (pv_memory_check(r->memory, d->addr, d->len, &walk->region))
        return -PV_E_ADDRESS;
    if (!take_node(r, slot, d, walk->region))
        return -PV_E_FULL; /* for now: with nothing in flight the longest chain fits */
    if (writable) {
        slot->writable += d->len;
        slot->writable_nodes++;
    } else {
        slot->readable += d->len;
        slot->readable_nodes++;
    }
    return 0;
}

static int walk_table(struct pv_device_ring *r, struct pv_slot *slot, struct walk *walk, const struct pv_desc *table)
{
    uint32_t count = table->len / sizeof(struct pv_desc);
    uint32_t region = walk->region;
    uint32_t index = 0;

    if (table->len == 0 || table->len % sizeof(struct pv_desc))
        return -PV_E_INDIRECT_LENGTH;
    if (count > r->table_max)
        return -PV_E_INDIRECT_SIZE;
    if (table->len - 1 > UINT64_MAX - table->addr)
        return -PV_E_ADDRESS; /* or its end would be found at address 0 */
    for (uint32_t budget = count; budget; budget--) {
        const uint8_t *entry = pv_memory_host(r->memory, table->addr + index * sizeof(struct pv_desc), sizeof(struct pv_desc), &region);
        struct pv_desc d;

        if (entry) {
            d = pv_desc_fetch(entry);
        } else { /* outside memory, or over the border of two regions */
            uint8_t split[sizeof d];
            if (pv_memory_read(r->memory, split, table->addr + index * sizeof d, sizeof d, &region))
                return -PV_E_ADDRESS;
            d = pv_desc_fetch(split);
        }
        if (d.flags & PV_DESC_INDIRECT)
            return -PV_E_INDIRECT_NESTED;
        int rc = take_buffer(r, slot, walk, &d);
        if (rc || !(d.flags & PV_DESC_NEXT))
            return rc;
        if (d.next >= count)
            return -PV_E_NEXT_RANGE;
        index = d.next;
    }
    return -PV_E_CHAIN_LENGTH;
}

static int walk_ring(struct pv_device_ring *r, struct pv_slot *slot, struct walk *walk, uint16_t head)
{
    uint32_t index = head;

    for (uint32_t budget = r->ring.size; budget; budget--) {
        struct pv_desc d = pv_desc_fetch(&r->ring.desc[index]);

        if (d.flags & PV_DESC_INDIRECT) {
            if (!(r->ring.features & PV_RING_INDIRECT))
                return -PV_E_INDIRECT_UNNEGOTIATED;
            if (d.flags & PV_DESC_NEXT)
                return -PV_E_INDIRECT_NEXT;
            return walk_table(r, slot, walk, &d);
        }
        int rc = take_buffer(r, slot, walk, &d);
        if (rc || !(d.flags & PV_DESC_NEXT))
            return rc;
        if (d.next >= r->ring.size)
            return -PV_E_NEXT_RANGE;
        index = d.next;
    }
    return -PV_E_CHAIN_LENGTH;
}

int pv_walk(struct pv_device_ring *r, uint16_t head, struct pv_slot *slot)
{
    struct walk walk = {0};

    slot->readable = slot->writable = slot->written = 0;
    slot->readable_nodes = slot->writable_nodes = 0;
    int rc = walk_ring(r, slot, &walk, head);
    r->looked += walk.looked;
    if (rc)
        pv_nodes_release(r, slot);
    return rc;
}
