/* SPDX-License-Identifier: Apache-2.0 */
#include "inflight.h"

#include <stdatomic.h>

_Static_assert(sizeof(struct pv_inflight_desc) == 16 && sizeof(struct pv_inflight_queue) == 16, "as the protocol has it");

/* Between stores that have to happen in this order for whoever comes after us. */
static inline void in_order(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

void pv_inflight_start(struct pv_inflight *f, struct pv_device_ring *r, const uint16_t *heads, uint16_t count)
{
    f->again[PV_RING_FLAGS] = 0;
    f->again[PV_RING_IDX] = pv_le16((uint16_t)(r->last_avail + count));
    for (uint16_t i = 0; i < count; i++)
        f->again[PV_RING_ENTRIES + ((r->last_avail + i) & r->ring.mask)] = pv_le16(heads[i]);
    f->left = count;
    r->inflight = f;
}

static void mark(struct pv_inflight *f, uint16_t head)
{
    struct pv_inflight_desc *desc = &f->table->desc[head];

    desc->counter = f->counter++;
    in_order();
    desc->inflight = 1;
    in_order();
}

/* A head that went into the used ring. It can be read back there: a driver that changes it deceives itself only, within the ring's size. */
static uint16_t returned(const struct pv_device_ring *r, uint16_t index)
{
    const struct pv_used_elem *entry = (const struct pv_used_elem *)(void *)(r->ring.used + PV_RING_ENTRIES) + (index & r->ring.mask);

    return (uint16_t)(pv_load_once32(&entry->id) & r->ring.mask);
}

/* The next chain to take once more. The ring is shown a list of our own in place of the driver's, which offered them before. */
static int pop_again(struct pv_device_ring *r, struct pv_popped *popped)
{
    struct pv_inflight *f = r->inflight;
    uint16_t *avail = r->ring.avail;

    r->ring.avail = f->again;
    int rc = pv_device_pop(r, popped, 1);
    r->ring.avail = avail;
    f->left = (uint16_t)(pv_le16(f->again[PV_RING_IDX]) - r->last_avail);
    return rc;
}

/* One chain at a time: those that went back unserved come before the one that was taken, so that the order is known. */
int pv_inflight_pop(struct pv_device_ring *r, struct pv_popped *popped, uint32_t max)
{
    struct pv_inflight *f = r->inflight;
    uint32_t taken = 0;

    for (uint32_t looked = 0; taken < max && looked < PV_POP_DESCS; looked += r->looked) {
        bool marked = f->left > 0;
        uint16_t used = r->used;
        int rc = marked ? pop_again(r, &popped[taken]) : pv_device_pop(r, &popped[taken], 1);
        for (; !marked && used != r->used; used++)
            mark(f, returned(r, used));
        if (rc <= 0)
            return taken ? (int)taken : rc;
        if (!marked)
            mark(f, (uint16_t)popped[taken].token);
        taken++;
    }
    return (int)taken;
}

int pv_inflight_publish(struct pv_device_ring *r)
{
    struct pv_inflight *f = r->inflight;
    struct pv_inflight_queue *table = f->table;
    uint16_t old = r->published;
    uint16_t now = r->used;

    if (now == old)
        return 0;
    for (uint16_t i = old; i != now; i++) {
        uint16_t head = f->batch[i & r->ring.mask] = returned(r, i);
        table->desc[head].next = f->last_batch_head;
        in_order();
        table->last_batch_head = f->last_batch_head = head;
    }
    in_order();
    int call = pv_device_publish(r);
    in_order();
    for (uint16_t i = old; i != now; i++)
        table->desc[f->batch[i & r->ring.mask]].inflight = 0;
    in_order();
    table->used_idx = now;
    return call;
}
