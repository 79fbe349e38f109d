/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's end of a split virtqueue: offer chains, take them back. The device is not trusted either: what the driver must remember is
 * in its own slots, and the shared descriptor table is written, never read.
 */
#include "ring.h"

int pv_driver_start(struct pv_driver_ring *r, const struct pv_memory *memory, const struct pv_geometry *geometry,
                    struct pv_driver_slot *slots, uint64_t tables_addr, uint32_t table_max)
{
    uint64_t entries = (uint64_t)table_max * geometry->size;
    uint32_t hint = 0;

    *r = (struct pv_driver_ring){.slots = slots};
    int rc = pv_split_start(&r->ring, memory, geometry);
    if (rc)
        return rc;
    if (tables_addr && table_max && (geometry->features & PV_RING_INDIRECT)) {
        r->tables = pv_memory_host(memory, tables_addr, entries * sizeof(struct pv_desc), &hint);
        if (!r->tables)
            return -PV_E_ADDRESS;
        if ((uintptr_t)r->tables % _Alignof(struct pv_desc))
            return -PV_E_ARGUMENT; /* the device must take any address (2.7.5.3), but our own stores are aligned ones */
        r->tables_addr = tables_addr;
        r->table_max = table_max;
    }
    r->free_count = r->ring.size;
    for (uint32_t i = 0; i < r->ring.size; i++)
        slots[i].next = (uint16_t)(i + 1);
    for (uint32_t i = 0; i < PV_RING_ENTRIES + r->ring.size + 1; i++)
        pv_store_plain(&r->ring.avail[i], 0);
    for (uint32_t i = 0; i < PV_RING_ENTRIES + 4 * r->ring.size + 1; i++)
        pv_store_plain(&r->ring.used[i], 0);
    return 0;
}

static void put_desc(struct pv_desc *d, uint64_t addr, uint32_t len, unsigned flags, uint16_t next)
{
    d->addr = pv_le64(addr);
    d->len = pv_le32(len);
    d->flags = pv_le16(flags);
    d->next = pv_le16(next);
}

static uint16_t take_slot(struct pv_driver_ring *r)
{
    uint16_t index = r->free_head;

    r->free_head = r->slots[index].next;
    r->free_count--;
    return index;
}

/* Write the chain into a run of free descriptors. */
static uint16_t put_direct(struct pv_driver_ring *r, const struct pv_segment *segments, uint32_t count)
{
    uint16_t head = take_slot(r);
    uint16_t index = head;

    for (uint32_t i = 0; i < count; i++) {
        const struct pv_segment *s = &segments[i];
        bool more = i + 1 < count;
        uint16_t next = more ? take_slot(r) : 0;

        put_desc(&r->ring.desc[index], s->addr, s->len, (s->writable ? PV_DESC_WRITE : 0u) | (more ? PV_DESC_NEXT : 0u), next);
        if (more)
            r->slots[index].next = next;
        index = next;
    }
    r->slots[head].count = (uint16_t)count;
    return head;
}

/* Write the chain into the table of one free descriptor. */
static uint16_t put_indirect(struct pv_driver_ring *r, const struct pv_segment *segments, uint32_t count)
{
    uint16_t head = take_slot(r);
    uint64_t offset = (uint64_t)head * r->table_max * sizeof(struct pv_desc);
    struct pv_desc *table = (void *)(r->tables + offset);

    for (uint32_t i = 0; i < count; i++) {
        const struct pv_segment *s = &segments[i];
        bool more = i + 1 < count;

        put_desc(&table[i], s->addr, s->len, (s->writable ? PV_DESC_WRITE : 0u) | (more ? PV_DESC_NEXT : 0u), (uint16_t)(more ? i + 1 : 0));
    }
    put_desc(&r->ring.desc[head], r->tables_addr + offset, count * (uint32_t)sizeof(struct pv_desc), PV_DESC_INDIRECT, 0);
    r->slots[head].count = 1;
    return head;
}

static int check_segments(const struct pv_segment *segments, uint32_t count, uint32_t *writable)
{
    uint64_t total = 0, capacity = 0;

    for (uint32_t i = 0; i < count; i++) {
        if (segments[i].writable)
            capacity += segments[i].len;
        else if (i && segments[i - 1].writable)
            return -PV_E_ORDER; /* 2.7.4.2 */
        total += segments[i].len;
    }
    *writable = (uint32_t)capacity;
    return total > UINT32_MAX ? -PV_E_ARGUMENT : 0; /* 2.7.5.2 */
}

int pv_driver_add(struct pv_driver_ring *r, const struct pv_segment *segments, uint32_t count)
{
    bool indirect = r->tables && count > 1 && count <= r->table_max;
    uint32_t writable = 0;

    if (r->broken)
        return -r->broken;
    if (count == 0 || count > r->ring.size) /* 2.7.5.3.1 */
        return -PV_E_ARGUMENT;
    int rc = check_segments(segments, count, &writable);
    if (rc)
        return rc;
    if (r->free_count < (indirect ? 1 : count))
        return -PV_E_FULL;
    uint16_t head = indirect ? put_indirect(r, segments, count) : put_direct(r, segments, count);
    r->slots[head].writable = writable;
    pv_store_plain(&r->ring.avail[PV_RING_ENTRIES + (r->avail & r->ring.mask)], head);
    r->avail++;
    r->in_flight++;
    return head;
}

int pv_driver_add_many(struct pv_driver_ring *r, const struct pv_buffer *buffers, uint32_t count, uint16_t *heads)
{
    for (uint32_t i = 0; i < count; i++) {
        const struct pv_buffer *b = &buffers[i];
        struct pv_segment segments[2];
        uint32_t used = 0;

        if (b->out_len)
            segments[used++] = (struct pv_segment){b->out_addr, b->out_len, 0};
        if (b->in_len || !used)
            segments[used++] = (struct pv_segment){b->in_addr, b->in_len, 1};
        int rc = pv_driver_add(r, segments, used);
        if (rc < 0)
            return i || rc == -PV_E_FULL ? (int)i : rc; /* what was added stays; the next call tells */
        heads[i] = (uint16_t)rc;
    }
    return (int)count;
}

int pv_driver_publish(struct pv_driver_ring *r)
{
    uint16_t old = r->published;
    uint16_t now = r->avail;

    if (now == old)
        return 0;
    pv_store_release(&r->ring.avail[PV_RING_IDX], now); /* A */
    r->published = now;
    pv_full_barrier(); /* C */
    if (r->ring.features & PV_RING_EVENT_IDX)
        return pv_need_event(pv_load_once(pv_avail_event(&r->ring)), now, old);
    return !(pv_load_once(&r->ring.used[PV_RING_FLAGS]) & PV_USED_NO_NOTIFY);
}

static void release_chain(struct pv_driver_ring *r, uint16_t head)
{
    uint16_t last = head;

    for (uint32_t more = r->slots[head].count - 1u; more; more--)
        last = r->slots[last].next;
    r->slots[last].next = r->free_head;
    r->free_head = head;
    r->free_count += r->slots[head].count;
    r->slots[head].count = 0;
    r->in_flight--;
}

int pv_driver_reap(struct pv_driver_ring *r, struct pv_used_elem *done, uint32_t max)
{
    const struct pv_used_elem *ring = (const void *)(r->ring.used + PV_RING_ENTRIES);
    uint32_t taken = 0;

    if (r->broken)
        return -r->broken;
    uint16_t offered = (uint16_t)(pv_load_acquire(&r->ring.used[PV_RING_IDX]) - r->last_used); /* B */
    if (offered > (uint16_t)(r->published - r->last_used)) { /* more than the device was shown */
        r->broken = PV_E_USED_INDEX;
        return -PV_E_USED_INDEX;
    }
    for (; taken < offered && taken < max; taken++) {
        const struct pv_used_elem *entry = &ring[r->last_used & r->ring.mask];
        uint32_t id = pv_load_once32(&entry->id);
        uint32_t len = pv_load_once32(&entry->len);

        if (id >= r->ring.size || r->slots[id].count == 0) {
            r->broken = PV_E_USED_ID;
            return taken ? (int)taken : -PV_E_USED_ID;
        }
        r->last_used++;
        done[taken].id = id;
        done[taken].len = len < r->slots[id].writable ? len : r->slots[id].writable; /* 2.7.8.3 */
        release_chain(r, (uint16_t)id);
    }
    return (int)taken;
}
