/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A disk put to the test (virtio 1.4, 5.2): write a pattern, flush, read it back and compare. Only the pattern can tell that each sector
 * is where it belongs: its bytes depend on the seed and on the sector.
 */
#include "payload.h"

#define BLOCK 2u /* device type */
#define SECTOR 512u
#define SIZE 4096u            /* bytes of a request, if none is asked for */
#define SIZE_MAX_BLOCK 65536u /* one data segment; more would test nothing else */
#define F_READ_ONLY (1ull << 5)
#define F_FLUSH (1ull << 9)
#define BATCH 64u

enum request_type { T_IN = 0, T_OUT = 1, T_FLUSH = 4 }; /* 5.2.6 */

struct header {
    uint32_t type;
    uint32_t reserved;
    uint64_t sector;
};

#define STATUS_OK 0u
#define STATUS_UNSET 0xffu

struct block {
    uint64_t capacity; /* sectors */
    uint64_t count;    /* requests of one pass */
    uint64_t written, read, flushes;
    uint32_t size;
    uint32_t type; /* of the pass under way */
    struct pv_queue *queue;
    struct pv_flight flight; /* out: header; in: data, then status */
};

/* How many requests: as many as asked for, while each has sectors of its own. */
static uint64_t fit(const struct pv_guest *g, const struct block *b)
{
    uint64_t most = b->capacity / (b->size / SECTOR);
    uint64_t count = g->arguments[PV_ARG_COUNT];

    return count && count < most ? count : most;
}

static enum pv_result start(struct pv_guest *g, struct block *b)
{
    uint64_t depth = g->arguments[PV_ARG_DEPTH] ? g->arguments[PV_ARG_DEPTH] : 1;
    uint64_t size = g->arguments[PV_ARG_SIZE] ? g->arguments[PV_ARG_SIZE] : SIZE;

    *b = (struct block){.queue = &g->queues[0], .size = (uint32_t)size};
    if (depth > PV_QUEUE_ENTRIES)
        return pv_fail(g, PV_BAD_ARGUMENT, "depth", depth);
    if (size < SECTOR || size > SIZE_MAX_BLOCK || size % SECTOR)
        return pv_fail(g, PV_BAD_ARGUMENT, "size", size);
    enum pv_result result = pv_negotiate(g, BLOCK, F_READ_ONLY | F_FLUSH);
    if (result == PV_OK)
        result = pv_start_queue(g, 0);
    if (result != PV_OK)
        return result;
    b->queue->depth = (uint32_t)depth;
    b->capacity = pv_config64(g, 0);
    b->count = fit(g, b);
    if (!b->count)
        return pv_fail(g, PV_REFUSED, "capacity", b->capacity);
    result = pv_samples_start(g, 2 * b->count);
    if (result == PV_OK)
        result = pv_flight_start(g, &b->flight, b->queue, sizeof(struct header), b->size + SECTOR);
    if (result == PV_OK)
        pv_drive(g);
    return result;
}

static uint8_t *data_of(const struct block *b, uint32_t buffer)
{
    return b->flight.in + (uint64_t)buffer * b->flight.in_size;
}

/* Header, data of the pass's kind (none to flush), status. */
static bool send(struct pv_guest *g, struct block *b, uint32_t buffer, uint64_t number)
{
    struct header *header = &((struct header *)(void *)b->flight.out)[buffer];
    uint8_t *data = data_of(b, buffer);
    struct pv_segment segments[3] = {{(uintptr_t)header, sizeof *header, 0}};
    uint32_t count = 1;

    header->type = pv_le32(b->type);
    header->reserved = 0;
    header->sector = pv_le64(b->type == T_FLUSH ? 0 : number * (b->size / SECTOR));
    if (b->type == T_OUT)
        pv_pattern_write(data, b->size, g->arguments[PV_ARG_SEED], number);
    else if (b->type == T_IN)
        pv_fill(data, b->size); /* nothing of an earlier answer may pass */
    if (b->type != T_FLUSH)
        segments[count++] = (struct pv_segment){(uintptr_t)data, b->size, b->type == T_IN};
    data[b->size] = STATUS_UNSET;
    segments[count++] = (struct pv_segment){(uintptr_t)(data + b->size), 1, 1};
    return pv_flight_send(&b->flight, b->queue, number, segments, count);
}

static enum pv_result judge(struct pv_guest *g, struct block *b, uint32_t buffer, uint32_t length)
{
    const uint8_t *data = data_of(b, buffer);
    uint64_t number = b->flight.numbers[buffer];
    uint8_t status = *(const volatile uint8_t *)(data + b->size);

    if (status != STATUS_OK)
        return pv_fail(g, PV_WRONG, b->type == T_OUT ? "write-failed" : b->type == T_IN ? "read-failed" : "flush-failed", status);
    if (length != 1 + (b->type == T_IN ? b->size : 0))
        return pv_fail(g, PV_WRONG, "wrong-length", length);
    if (b->type == T_IN && !pv_pattern_same(data, b->size, g->arguments[PV_ARG_SEED], number))
        return pv_fail(g, PV_WRONG, "wrong-data", number * (b->size / SECTOR));
    return PV_OK;
}

/* One kind of request, `count` times. */
static enum pv_result pass(struct pv_guest *g, struct block *b, uint32_t type, uint64_t count, uint64_t *answered)
{
    struct pv_used_elem done[BATCH];
    uint64_t sent = 0;
    int buffer;

    b->type = type;
    g->answered = pv_cycles();
    while (*answered < count) {
        while (sent < count && (buffer = pv_flight_take(&b->flight)) >= 0 && send(g, b, (uint32_t)buffer, sent))
            sent++;
        pv_publish(g, b->queue);
        enum pv_result result = pv_wait(g);
        if (result != PV_OK)
            return result;
        int taken = pv_reap(g, b->queue, done, BATCH);
        if (taken < 0)
            return (enum pv_result)-taken;
        for (int i = 0; i < taken; i++) {
            result = judge(g, b, pv_flight_back(g, &b->flight, done[i].id), done[i].len);
            if (result != PV_OK)
                return result;
            ++*answered;
        }
    }
    return PV_OK;
}

static enum pv_result run(struct pv_guest *g, struct block *b)
{
    uint64_t operations = g->arguments[PV_ARG_OPERATIONS] ? g->arguments[PV_ARG_OPERATIONS] : PV_WRITE | PV_FLUSH | PV_READ;
    enum pv_result result = PV_OK;

    if ((operations & PV_WRITE) && (g->features & F_READ_ONLY))
        return pv_fail(g, PV_REFUSED, "read-only", b->capacity);
    if (operations & PV_WRITE)
        result = pass(g, b, T_OUT, b->count, &b->written);
    if (result == PV_OK && (operations & PV_FLUSH) && (g->features & F_FLUSH)) /* 5.2.6.1: not offered, not sent */
        result = pass(g, b, T_FLUSH, 1, &b->flushes);
    if (result == PV_OK && (operations & PV_READ))
        result = pass(g, b, T_IN, b->count, &b->read);
    return result;
}

enum pv_result pv_block(struct pv_guest *g)
{
    static struct block block;
    enum pv_result result = start(g, &block);

    if (result != PV_OK)
        return result;
    uint64_t began = pv_cycles();
    result = run(g, &block);
    uint64_t ended = pv_cycles();
    pv_put_number(g, "capacity", block.capacity);
    pv_put_number(g, "requests", block.written + block.flushes + block.read);
    pv_put_number(g, "written", block.written * block.size);
    pv_put_number(g, "flushes", block.flushes);
    pv_put_number(g, "verified", block.read * block.size);
    pv_put_number(g, "cycles", ended - began);
    pv_put_samples(g);
    pv_reset(g);
    return result;
}
