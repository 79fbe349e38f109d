/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Both ends of a split virtqueue. Freestanding: no libc, no allocation; the caller brings every array.
 *
 * The peer is never trusted. Each end keeps its own indices and its own copy of all it needs to remember, reads a shared word once, checks
 * the copy, and uses only the copy. Geometry is fixed from start to the next start. An end that finds an index which cannot be true marks
 * itself broken and stays so; the other rings and the process go on.
 *
 * One thread at a time may use an end. The two ends need nothing from each other but shared memory.
 */
#ifndef PV_RING_H
#define PV_RING_H

#include "barrier.h"
#include "memory.h"
#include "wire.h"

enum pv_ring_features { PV_RING_INDIRECT = 1, PV_RING_EVENT_IDX = 2 };

/* What both sides agreed on. Addresses are guest-physical. */
struct pv_geometry {
    uint64_t desc;
    uint64_t driver;
    uint64_t device;
    uint32_t size;
    uint32_t features;
};

/* The shared words of a started ring, by local address. */
struct pv_split {
    struct pv_desc *desc;
    uint16_t *avail;
    uint16_t *used;
    uint32_t size;
    uint32_t mask;
    uint32_t features;
};

/* Private copy of one buffer of a chain: a range of guest memory that was checked, and the next of its chain. */
struct pv_node {
    uint64_t addr;
    uint32_t len;
    uint16_t region;
    uint16_t next;
};

/* What the device remembers of one head. */
struct pv_slot {
    uint32_t use;      /* counts pops of this head, so that a token is good once */
    uint32_t readable; /* bytes */
    uint32_t writable; /* bytes */
    uint32_t written;  /* where the last byte written so far ends */
    uint16_t first;    /* node */
    uint16_t last;     /* node */
    uint16_t readable_nodes;
    uint16_t writable_nodes;
    uint16_t in_flight;
};

/*
 * A queue keeps nodes for 16 chains as long as it may be, on average one descriptor in 16 used: room for a full queue of ordinary chains
 * (64 KiB at size 256) without paying for a full queue of the longest ones. Beyond 256 descriptors the pool grows only as far as one chain
 * of the longest kind needs (table and ring, 2 x size), so that a chain always fits when nothing is in flight. One that does not fit yet
 * stays in the ring, and popping stalls until enough nodes came back.
 */
#define PV_NODES_PER_DESC 16u
#define PV_NODES_MIN_LARGE 4096u

/* Descriptors after which a pop ends: bad chains and empty buffers keep no nodes, so that nothing else bounds its time (to 0.7 ms). */
#define PV_POP_DESCS 65536u

/* Heads fetched at once, with the lines of their descriptors on the way: as many as a CPU has misses outstanding, give or take. */
#define PV_POP_HEADS 16u

#define PV_HALF_WAY 0x8000u /* as far as can be from an index of 16 bits */

struct pv_inflight; /* host/inflight.h */
struct pv_log;      /* host/log.h */

struct pv_device_ring {
    struct pv_split ring;
    const struct pv_memory *memory;
    struct pv_inflight *inflight; /* the host's, if it keeps a table of what it has in hand; not for this end itself */
    struct pv_slot *slots;
    struct pv_node *nodes;
    uint32_t node_count;
    uint32_t nodes_free;
    uint32_t nodes_needed; /* with fewer free, the next chain is not tried again */
    uint32_t looked;       /* descriptors of the pop under way */
    uint32_t table_max;    /* entries an indirect table may have */
    uint16_t node_head;    /* first free node */
    uint16_t generation;
    uint16_t last_avail; /* next entry of the available ring to take */
    uint16_t seen_avail; /* the available index as last read */
    uint16_t used;       /* next entry of the used ring to fill */
    uint16_t published;  /* the used index as last stored */
    uint16_t in_flight;
    uint16_t broken; /* enum pv_error, 0 while it works */
    uint16_t bad;    /* enum pv_error of the last chain that went back unserved, 0 once somebody was told */
    uint64_t popped;
    uint64_t completed;
    uint64_t stale; /* completions dropped: late or second */
    uint64_t bytes_in;  /* readable bytes of what was popped */
    uint64_t bytes_out; /* used lengths of what was completed */
    uint64_t rejected[PV_E_COUNT];
    const struct pv_log *log; /* host/log.h; NULL while nothing is logged */
    uint64_t log_used;        /* where the log has the used ring */
};

/* What the driver remembers of one head. */
struct pv_driver_slot {
    uint32_t writable; /* bytes */
    uint16_t next;     /* free list, and chain: the shared table is never read back */
    uint16_t count;    /* descriptors of the chain; 0 when not in flight */
};

struct pv_segment {
    uint64_t addr;
    uint32_t len;
    uint32_t writable;
};

/* The common request: one buffer for the device to read, one for it to write; either may be empty. */
struct pv_buffer {
    uint64_t out_addr;
    uint64_t in_addr;
    uint32_t out_len;
    uint32_t in_len;
};

struct pv_driver_ring {
    struct pv_split ring;
    struct pv_driver_slot *slots;
    uint8_t *tables; /* shared memory for indirect tables, one a descriptor; NULL for none */
    uint64_t tables_addr;
    uint32_t table_max; /* entries of one table */
    uint32_t free_count;
    uint16_t free_head;
    uint16_t avail;     /* next entry of the available ring to fill */
    uint16_t published; /* the available index as last stored */
    uint16_t last_used; /* next entry of the used ring to take */
    uint16_t in_flight;
    uint16_t broken;
};

uint32_t pv_node_count(uint32_t size);

/* 0 or -PV_E_ARGUMENT (size, alignment) or -PV_E_ADDRESS (an area outside guest memory, or over two regions that do not adjoin here) */
int pv_split_start(struct pv_split *ring, const struct pv_memory *memory, const struct pv_geometry *geometry);

/* --- the device's end ------------------------------------------------------------------------------------------------------------- */

/*
 * Start with `slots` of geometry->size and `nodes` of node_count, both zeroed. `index` is where the available and the used ring go on: 0
 * for a fresh queue. `table_max` caps indirect tables; 0 stands for the queue size (2.7.5.3.1).
 */
int pv_device_start(struct pv_device_ring *r, const struct pv_memory *memory, const struct pv_geometry *geometry, struct pv_slot *slots,
                    struct pv_node *nodes, uint32_t node_count, uint32_t table_max, uint16_t generation, uint16_t avail, uint16_t used);

/* A chain handed to the device: its token, and readable << 32 | writable bytes. */
struct pv_popped {
    uint64_t token;
    uint64_t sizes;
};

/*
 * Take up to `max` chains; returns how many were written. A bad chain goes back with length 0, counted, and is not returned. Fewer than
 * offered, even none, when nodes run out (see pv_device_stalled) or after PV_POP_DESCS. Returns -cause once the ring is broken.
 */
int pv_device_pop(struct pv_device_ring *r, struct pv_popped *popped, uint32_t max);

/* Give a chain back with `len` bytes written, not yet published. -PV_E_STALE for a token that is not in flight: dropped and counted. */
int pv_device_complete(struct pv_device_ring *r, uint64_t token, uint32_t len);

/* The same with as many bytes as were written through pv_device_write and its like. */
int pv_device_end(struct pv_device_ring *r, uint64_t token);

/* The same for `count` chains as pop returned them, but for those that were given back already. */
void pv_device_end_taken(struct pv_device_ring *r, const struct pv_popped *popped, uint32_t count);

/* Show all completed chains to the driver. 1 if it wants a call. */
int pv_device_publish(struct pv_device_ring *r);

/* The slot that a token is good for, or NULL. */
struct pv_slot *pv_device_slot(const struct pv_device_ring *r, uint64_t token);

/* Copy out of the readable, or into the writable, part of a chain at an offset; returns bytes copied (short at the end), or -error. */
int64_t pv_device_read(struct pv_device_ring *r, uint64_t token, uint32_t offset, void *to, uint32_t len);
int64_t pv_device_write(struct pv_device_ring *r, uint64_t token, uint32_t offset, const void *from, uint32_t len);

/* walk.c: copy and check the chain at `head` into its slot; 0, or -error with every node given back, -PV_E_FULL for want of nodes. */
int pv_walk(struct pv_device_ring *r, uint16_t head, struct pv_slot *slot);
void pv_nodes_release(struct pv_device_ring *r, struct pv_slot *slot);

static inline uint64_t pv_token(uint16_t generation, uint32_t use, uint16_t head)
{
    return (uint64_t)generation << 48 | (uint64_t)use << 16 | head;
}

/* `count` bytes were written at `offset` of the writable part, both within it. */
static inline void pv_slot_wrote(struct pv_slot *slot, uint32_t offset, uint32_t count)
{
    if (offset + count > slot->written)
        slot->written = offset + count;
}

/* Also true of a broken ring, or who sleeps would never hear of it. */
static inline bool pv_device_pending(const struct pv_device_ring *r)
{
    return r->broken || pv_load_acquire(&r->ring.avail[PV_RING_IDX]) != r->last_avail; /* A */
}

/* A chain waits for nodes: nothing can be popped until others were completed. */
static inline bool pv_device_stalled(const struct pv_device_ring *r)
{
    return r->nodes_free < r->nodes_needed;
}

/* avail_event, which stands behind the used ring */
static inline uint16_t *pv_avail_event(const struct pv_split *ring)
{
    return ring->used + PV_RING_ENTRIES + 4 * ring->size;
}

/* used_event, which stands behind the available ring */
static inline uint16_t *pv_used_event(const struct pv_split *ring)
{
    return ring->avail + PV_RING_ENTRIES + ring->size;
}

/* 2.7.7.2, 2.7.10.1: did the index pass `event` on its way from `old` to `now`? Like a tripwire across a circular track. */
static inline bool pv_need_event(uint16_t event, uint16_t now, uint16_t old)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - old);
}

/* Ask for a kick at the next buffer, and look once more: true if one is there already. */
static inline bool pv_device_arm(struct pv_device_ring *r)
{
    if (r->ring.features & PV_RING_EVENT_IDX)
        pv_store_release(pv_avail_event(&r->ring), r->last_avail);
    else
        pv_store_release(&r->ring.used[PV_RING_FLAGS], 0);
    pv_full_barrier(); /* D */
    return pv_device_pending(r);
}

/*
 * Ask for no kick: with EVENT_IDX by an event half way round, so that neither the index on its way here nor the next 32768 buffers pass it.
 */
static inline void pv_device_disarm(struct pv_device_ring *r)
{
    if (r->ring.features & PV_RING_EVENT_IDX)
        pv_store_release(pv_avail_event(&r->ring), (uint16_t)(r->last_avail + PV_HALF_WAY));
    else
        pv_store_release(&r->ring.used[PV_RING_FLAGS], PV_USED_NO_NOTIFY);
}

/* --- the driver's end ------------------------------------------------------------------------------------------------------------- */

/* Start on zeroed `slots` of geometry->size; zeroes the shared rings (2.7.10.1). `tables_addr` 0 for no indirect tables. */
int pv_driver_start(struct pv_driver_ring *r, const struct pv_memory *memory, const struct pv_geometry *geometry,
                    struct pv_driver_slot *slots, uint64_t tables_addr, uint32_t table_max);

/* Add a chain, not yet published; readable segments first. Returns its head, or -PV_E_FULL, -PV_E_ORDER, -PV_E_ARGUMENT, -broken. */
int pv_driver_add(struct pv_driver_ring *r, const struct pv_segment *segments, uint32_t count);

/* Add up to `count` requests of one or two buffers; returns how many fitted, their heads in `heads`. */
int pv_driver_add_many(struct pv_driver_ring *r, const struct pv_buffer *buffers, uint32_t count, uint16_t *heads);

/* Show all added chains to the device. 1 if it wants a kick. */
int pv_driver_publish(struct pv_driver_ring *r);

/* Take up to `max` finished chains: head and bytes written, at most what was writable. -cause once the ring is broken. */
int pv_driver_reap(struct pv_driver_ring *r, struct pv_used_elem *done, uint32_t max);

/* Also true of a broken ring. */
static inline bool pv_driver_pending(const struct pv_driver_ring *r)
{
    return r->broken || pv_load_acquire(&r->ring.used[PV_RING_IDX]) != r->last_used; /* B */
}

/* Ask for a call at the next completion, and look once more: true if one is there already. */
static inline bool pv_driver_arm(struct pv_driver_ring *r)
{
    if (r->ring.features & PV_RING_EVENT_IDX)
        pv_store_release(pv_used_event(&r->ring), r->last_used);
    else
        pv_store_release(&r->ring.avail[PV_RING_FLAGS], 0);
    pv_full_barrier(); /* F */
    return pv_driver_pending(r);
}

static inline void pv_driver_disarm(struct pv_driver_ring *r)
{
    if (r->ring.features & PV_RING_EVENT_IDX)
        pv_store_release(pv_used_event(&r->ring), (uint16_t)(r->last_used + PV_HALF_WAY));
    else
        pv_store_release(&r->ring.avail[PV_RING_FLAGS], PV_AVAIL_NO_INTERRUPT);
}

#endif
