/* SPDX-License-Identifier: Apache-2.0 */
/* The device's end of a split virtqueue: take chains, hand them back. */
#include "ring.h"

uint32_t pv_node_count(uint32_t size)
{
    uint32_t longest = 2 * size;
    uint32_t count = PV_NODES_PER_DESC * size;

    if (count > PV_NODES_MIN_LARGE)
        count = PV_NODES_MIN_LARGE;
    return count > longest ? count : longest;
}

int pv_split_start(struct pv_split *ring, const struct pv_memory *memory, const struct pv_geometry *geometry)
{
    uint64_t size = geometry->size;
    uint32_t hint = 0;

    if (size == 0 || size > PV_QUEUE_SIZE_MAX || (size & (size - 1)))
        return -PV_E_ARGUMENT;
    uint8_t *desc = pv_memory_host(memory, geometry->desc, 16 * size, &hint);
    uint8_t *avail = pv_memory_host(memory, geometry->driver, 6 + 2 * size, &hint);
    uint8_t *used = pv_memory_host(memory, geometry->device, 6 + 8 * size, &hint);
    if (!desc || !avail || !used || (memory->regions[hint].flags & PV_REGION_READONLY)) /* the hint tells where the last one lies */
        return -PV_E_ADDRESS;
    /* 2.7.1: 16, 2 and 4, of the guest-physical address; a region mapped askew must not spoil it here. */
    if (((geometry->desc | (uintptr_t)desc) & 15) || ((geometry->driver | (uintptr_t)avail) & 1) ||
        ((geometry->device | (uintptr_t)used) & 3))
        return -PV_E_ARGUMENT;
    ring->desc = (void *)desc;
    ring->avail = (void *)avail;
    ring->used = (void *)used;
    ring->size = geometry->size;
    ring->mask = geometry->size - 1;
    ring->features = geometry->features;
    return 0;
}

int pv_device_start(struct pv_device_ring *r, const struct pv_memory *memory, const struct pv_geometry *geometry, struct pv_slot *slots,
                    struct pv_node *nodes, uint32_t node_count, uint32_t table_max, uint16_t generation, uint16_t avail, uint16_t used)
{
    *r = (struct pv_device_ring){
        .memory = memory, .slots = slots, .nodes = nodes, .node_count = node_count, .nodes_free = node_count, .generation = generation,
        .last_avail = avail, .seen_avail = avail, .used = used, .published = used,
    };
    int rc = pv_split_start(&r->ring, memory, geometry);
    if (rc)
        return rc;
    r->table_max = table_max ? table_max : r->ring.size;
    if (!(r->ring.features & PV_RING_INDIRECT))
        r->table_max = 0;
    /* A node is named by 16 bits, and the longest chain must fit. */
    if (node_count > 65536 || node_count < r->ring.size + r->table_max)
        return -PV_E_ARGUMENT;
    for (uint32_t i = 0; i < node_count; i++)
        nodes[i].next = (uint16_t)(i + 1);
    return 0;
}

static void push_used(struct pv_device_ring *r, uint16_t head, uint32_t len)
{
    struct pv_used_elem *entry = (struct pv_used_elem *)(void *)(r->ring.used + PV_RING_ENTRIES) + (r->used & r->ring.mask);

    entry->id = pv_le32(head);
    entry->len = pv_le32(len);
    r->used++;
}

static int break_ring(struct pv_device_ring *r, int error)
{
    r->broken = (uint16_t)-error;
    r->rejected[-error]++;
    return error;
}

/* How many chains the driver says are there: 0, a number up to the queue size, or -error. */
static int offered(struct pv_device_ring *r)
{
    if (r->seen_avail == r->last_avail)
        r->seen_avail = pv_load_acquire(&r->ring.avail[PV_RING_IDX]); /* A */
    uint16_t count = (uint16_t)(r->seen_avail - r->last_avail);
    if (count > r->ring.size)
        return break_ring(r, -PV_E_AVAIL_INDEX); /* jumped ahead, or went back (2.7.6.1) */
    return count;
}

/* Do not try again before there are twice as many, or the walks in vain would cost a hostile driver nothing and us much. */
static void await_nodes(struct pv_device_ring *r)
{
    uint32_t longest = r->ring.size + r->table_max;

    r->nodes_needed = 2 * r->nodes_free + 1 < longest ? 2 * r->nodes_free + 1 : longest;
}

/* Take the next chain. 1, 0 if it was bad and went back, -PV_E_FULL if it has to wait, another -error if its head cannot be believed. */
static int pop_one(struct pv_device_ring *r, uint16_t head, struct pv_popped *popped)
{
    if (head >= r->ring.size)
        return break_ring(r, -PV_E_HEAD_RANGE);
    struct pv_slot *slot = &r->slots[head];
    if (slot->in_flight)
        return break_ring(r, -PV_E_HEAD_IN_FLIGHT);
    int rc = pv_walk(r, head, slot);
    if (rc == -PV_E_FULL) {
        await_nodes(r);
        return rc;
    }
    r->last_avail++;
    if (rc) {
        r->rejected[-rc]++;
        r->bad = (uint16_t)-rc;
        push_used(r, head, 0);
        return 0;
    }
    slot->use++;
    slot->in_flight = 1;
    r->in_flight++;
    r->popped++;
    r->bytes_in += slot->readable;
    popped->token = pv_token(r->generation, slot->use, head);
    popped->sizes = (uint64_t)slot->readable << 32 | slot->writable;
    return 1;
}

/* Copy up to `count` heads, and have their descriptors, which the driver's CPU wrote last, on their way while others are walked. */
static uint32_t fetch_heads(struct pv_device_ring *r, uint16_t *heads, uint32_t count)
{
    if (count > PV_POP_HEADS)
        count = PV_POP_HEADS;
    for (uint32_t i = 0; i < count; i++) {
        heads[i] = pv_load_once(&r->ring.avail[PV_RING_ENTRIES + ((r->last_avail + i) & r->ring.mask)]);
        pv_prefetch(&r->ring.desc[heads[i] & r->ring.mask]);
    }
    return count;
}

int pv_device_pop(struct pv_device_ring *r, struct pv_popped *popped, uint32_t max)
{
    uint16_t heads[PV_POP_HEADS] = {0};
    uint32_t next = 0, fetched = 0;
    uint32_t taken = 0;

    if (r->broken)
        return -r->broken;
    if (pv_device_stalled(r))
        return 0;
    r->nodes_needed = r->looked = 0;
    int left = offered(r);
    /* Bad chains count against the queue size too, so that a driver which sends nothing else cannot keep us here. */
    for (; left > 0 && taken < max && r->looked < PV_POP_DESCS; left--) {
        if (next == fetched) {
            fetched = fetch_heads(r, heads, (uint32_t)left < max - taken ? (uint32_t)left : max - taken);
            next = 0;
        }
        int rc = pop_one(r, heads[next++], &popped[taken]);
        if (rc == -PV_E_FULL)
            break;
        if (rc < 0)
            return taken ? (int)taken : rc; /* what was taken is served; the next call tells */
        taken += (uint32_t)rc;
    }
    return left < 0 ? left : (int)taken;
}

struct pv_slot *pv_device_slot(const struct pv_device_ring *r, uint64_t token)
{
    uint32_t head = (uint16_t)token;

    if (head >= r->ring.size)
        return NULL;
    struct pv_slot *slot = &r->slots[head];
    return slot->in_flight && pv_token(r->generation, slot->use, (uint16_t)head) == token ? slot : NULL;
}

static void finish(struct pv_device_ring *r, struct pv_slot *slot, uint16_t head, uint32_t len)
{
    if (len > slot->writable)
        len = slot->writable; /* 2.7.8.2 */
    pv_nodes_release(r, slot);
    slot->in_flight = 0;
    r->in_flight--;
    r->completed++;
    r->bytes_out += len;
    push_used(r, head, len);
}

int pv_device_complete(struct pv_device_ring *r, uint64_t token, uint32_t len)
{
    struct pv_slot *slot = pv_device_slot(r, token);

    if (!slot) {
        r->stale++;
        return -PV_E_STALE;
    }
    finish(r, slot, (uint16_t)token, len);
    return 0;
}

int pv_device_end(struct pv_device_ring *r, uint64_t token)
{
    struct pv_slot *slot = pv_device_slot(r, token);

    if (!slot) {
        r->stale++;
        return -PV_E_STALE;
    }
    finish(r, slot, (uint16_t)token, slot->written);
    return 0;
}

void pv_device_end_taken(struct pv_device_ring *r, const struct pv_popped *popped, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct pv_slot *slot = pv_device_slot(r, popped[i].token);
        if (slot)
            finish(r, slot, (uint16_t)popped[i].token, slot->written);
    }
}

int pv_device_publish(struct pv_device_ring *r)
{
    uint16_t old = r->published;
    uint16_t now = r->used;

    if (now == old)
        return 0;
    pv_store_release(&r->ring.used[PV_RING_IDX], now); /* B */
    r->published = now;
    pv_full_barrier(); /* E */
    if (r->ring.features & PV_RING_EVENT_IDX)
        return pv_need_event(pv_load_once(pv_used_event(&r->ring)), now, old);
    return !(pv_load_once(&r->ring.avail[PV_RING_FLAGS]) & PV_AVAIL_NO_INTERRUPT);
}

/* Copy between `bytes` and the nodes from `node` on, `count` of them, from `offset` of their bytes on. Returns bytes copied. */
static int64_t copy_nodes(struct pv_device_ring *r, uint16_t node, uint32_t count, uint32_t offset, uint8_t *bytes, uint32_t len, bool in)
{
    uint32_t copied = 0;

    for (; count && copied < len; count--) {
        const struct pv_node *n = &r->nodes[node];
        uint32_t hint = n->region;

        node = n->next;
        if (offset >= n->len) {
            offset -= n->len;
            continue;
        }
        uint32_t part = n->len - offset < len - copied ? n->len - offset : len - copied;
        int rc = in ? pv_memory_write(r->memory, n->addr + offset, bytes + copied, part, &hint)
                    : pv_memory_read(r->memory, bytes + copied, n->addr + offset, part, &hint);
        if (rc)
            return rc;
        copied += part;
        offset = 0;
    }
    return copied;
}

int64_t pv_device_read(struct pv_device_ring *r, uint64_t token, uint32_t offset, void *to, uint32_t len)
{
    struct pv_slot *slot = pv_device_slot(r, token);

    if (!slot)
        return -PV_E_STALE;
    return copy_nodes(r, slot->first, slot->readable_nodes, offset, to, len, false);
}

int64_t pv_device_write(struct pv_device_ring *r, uint64_t token, uint32_t offset, const void *from, uint32_t len)
{
    struct pv_slot *slot = pv_device_slot(r, token);
    uint16_t node;

    if (!slot)
        return -PV_E_STALE;
    node = slot->first;
    for (uint32_t skip = slot->readable_nodes; skip; skip--)
        node = r->nodes[node].next;
    int64_t count = copy_nodes(r, node, slot->writable_nodes, offset, (uint8_t *)from, len, true);
    if (count > 0)
        pv_slot_wrote(slot, offset, (uint32_t)count);
    return count;
}
