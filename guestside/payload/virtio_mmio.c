/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The driver's half of virtio over MMIO (virtio 1.4, 4.2): find the device, agree with it, give it the rings (3.1.1).
 *
 * InterruptStatus is not read: the call is a message of its own to each queue's vector, and what it announces stands in the ring.
 */
#include "payload.h"

enum registers { /* 4.2.2 */
    MAGIC = 0x000,
    VERSION = 0x004,
    DEVICE_TYPE = 0x008,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SELECT = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SELECT = 0x024,
    QUEUE_SELECT = 0x030,
    QUEUE_SIZE_MAX = 0x034,
    QUEUE_SIZE = 0x038,
    QUEUE_READY = 0x044,
    STATUS = 0x070,
    QUEUE_DESC = 0x080,
    QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0a0,
    CONFIG_GENERATION = 0x0fc,
    CONFIG = 0x100,
};

enum status { ACKNOWLEDGE = 1, DRIVER = 2, DRIVER_OK = 4, FEATURES_OK = 8, FAILED = 128 }; /* 2.1 */

#define MAGIC_VALUE 0x74726976u /* "virt" */
#define VERSION_VALUE 2u        /* 1 is the legacy interface */
#define VERSION_1 (1ull << 32)  /* 6: the feature that says the same */
#define INDIRECT (1ull << 28)
#define EVENT_IDX (1ull << 29)
#define TABLE_ENTRIES 4u /* of an indirect table: a block request has three */
#define LOOKS 1000000u   /* at a register that must change by itself: half a minute of exits to user space */

static uint32_t get(const struct pv_guest *g, uint32_t offset)
{
    return pv_mmio_read32(g->boot->device + offset);
}

static void set(const struct pv_guest *g, uint32_t offset, uint32_t value)
{
    pv_mmio_write32(g->boot->device + offset, value);
}

uint32_t pv_device_status(const struct pv_guest *g)
{
    return get(g, STATUS);
}

void pv_reset(const struct pv_guest *g)
{
    set(g, STATUS, 0);
}

/* Read in two halves, again while the device changes it (2.5.1). */
uint64_t pv_config64(const struct pv_guest *g, uint32_t offset)
{
    uint64_t value;
    uint32_t before, looks = 0;

    do {
        before = get(g, CONFIG_GENERATION);
        value = get(g, CONFIG + offset);
        value |= (uint64_t)get(g, CONFIG + offset + 4) << 32;
    } while (get(g, CONFIG_GENERATION) != before && ++looks < LOOKS);
    return value;
}

static enum pv_result give_up(struct pv_guest *g, const char *reason, uint64_t detail)
{
    set(g, STATUS, get(g, STATUS) | FAILED);
    return pv_fail(g, PV_REFUSED, reason, detail);
}

static uint64_t offered(const struct pv_guest *g)
{
    set(g, DEVICE_FEATURES_SELECT, 0);
    uint64_t features = get(g, DEVICE_FEATURES);
    set(g, DEVICE_FEATURES_SELECT, 1);
    return features | (uint64_t)get(g, DEVICE_FEATURES) << 32;
}

static enum pv_result agree(struct pv_guest *g, uint64_t wanted)
{
    uint64_t allowed = g->arguments[PV_ARG_FEATURES] ? g->arguments[PV_ARG_FEATURES] : INDIRECT | EVENT_IDX;
    uint64_t device = offered(g);

    if (!(device & VERSION_1))
        return give_up(g, "legacy-only", device);
    g->features = device & (VERSION_1 | wanted | (allowed & (INDIRECT | EVENT_IDX)));
    for (uint32_t half = 0; half < 2; half++) {
        set(g, DRIVER_FEATURES_SELECT, half);
        set(g, DRIVER_FEATURES, (uint32_t)(g->features >> 32 * half));
    }
    set(g, STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    if (!(get(g, STATUS) & FEATURES_OK)) /* 3.1.1, 6: read it again, the device may refuse */
        return give_up(g, "features-refused", g->features);
    return PV_OK;
}

enum pv_result pv_negotiate(struct pv_guest *g, uint32_t device_type, uint64_t wanted)
{
    uint32_t looks = 0;

    if (get(g, MAGIC) != MAGIC_VALUE)
        return pv_fail(g, PV_REFUSED, "no-device", get(g, MAGIC));
    if (get(g, VERSION) != VERSION_VALUE)
        return pv_fail(g, PV_REFUSED, "version", get(g, VERSION));
    uint32_t type = get(g, DEVICE_TYPE);
    if (type == 0 || (device_type && type != device_type)) /* 0 is a placeholder (4.2.2.1) */
        return pv_fail(g, PV_REFUSED, "device-type", type);
    pv_reset(g);
    while (get(g, STATUS)) /* 2.4.2 */
        if (++looks == LOOKS)
            return pv_fail(g, PV_REFUSED, "reset", get(g, STATUS));
    set(g, STATUS, ACKNOWLEDGE);
    set(g, STATUS, ACKNOWLEDGE | DRIVER);
    return agree(g, wanted);
}

/* The largest power of two that both have room for; 0 if there is none. */
static uint32_t ring_size(uint32_t most)
{
    uint32_t size = PV_QUEUE_ENTRIES;

    while (size > most)
        size /= 2;
    return size;
}

static void set_address(const struct pv_guest *g, uint32_t offset, uint64_t address)
{
    set(g, offset, (uint32_t)address);
    set(g, offset + 4, (uint32_t)(address >> 32));
}

static enum pv_result start_ring(struct pv_guest *g, struct pv_queue *q, uint32_t size)
{
    struct pv_geometry geometry = {.size = size};
    bool tables = (g->features & INDIRECT) != 0;

    geometry.desc = (uintptr_t)pv_take(g, size * sizeof(struct pv_desc), 4096);
    geometry.driver = (uintptr_t)pv_take(g, 2 * (PV_RING_ENTRIES + size + 1), 4096);
    geometry.device = (uintptr_t)pv_take(g, 2 * (PV_RING_ENTRIES + 4 * size + 1), 4096);
    geometry.features = (tables ? PV_RING_INDIRECT : 0u) | (g->features & EVENT_IDX ? PV_RING_EVENT_IDX : 0u);
    q->slots = pv_take(g, size * sizeof *q->slots, 8);
    void *table = tables ? pv_take(g, size * TABLE_ENTRIES * sizeof(struct pv_desc), 16) : NULL;
    if (!geometry.desc || !geometry.driver || !geometry.device || !q->slots || (tables && !table))
        return pv_fail(g, PV_NO_MEMORY, "pool", g->pool_end - g->pool);
    int rc = pv_driver_start(&q->ring, &g->memory, &geometry, q->slots, (uintptr_t)table, table ? TABLE_ENTRIES : 0);
    if (rc)
        return pv_fail(g, PV_NO_MEMORY, pv_cause(rc), size);
    pv_driver_disarm(&q->ring);
    set(g, QUEUE_SIZE, size);
    set_address(g, QUEUE_DESC, geometry.desc);
    set_address(g, QUEUE_DRIVER, geometry.driver);
    set_address(g, QUEUE_DEVICE, geometry.device);
    set(g, QUEUE_READY, 1);
    return get(g, QUEUE_READY) == 1 ? PV_OK : give_up(g, "queue-refused", q->index);
}

/* 4.2.3.2 */
enum pv_result pv_start_queue(struct pv_guest *g, uint32_t index)
{
    struct pv_queue *q = &g->queues[index];

    q->index = index;
    set(g, QUEUE_SELECT, index);
    if (get(g, QUEUE_READY))
        return give_up(g, "queue-in-use", index);
    uint32_t size = ring_size(get(g, QUEUE_SIZE_MAX));
    if (!size)
        return give_up(g, "no-queue", index);
    enum pv_result result = start_ring(g, q, size);
    if (result == PV_OK)
        g->queue_count = index + 1;
    return result;
}

void pv_drive(const struct pv_guest *g)
{
    set(g, STATUS, get(g, STATUS) | DRIVER_OK);
}
