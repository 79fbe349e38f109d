/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every state in which a kill can leave the shared memory of a device with an inflight table.
 *
 * The core is compiled with -fsanitize=thread and linked with this file in place of the sanitizer, so that we are called before each access
 * to memory. Whenever the shared bytes differ from those before, they are written to standard output.
 *
 * Arguments: ring size, offset of the driver ring, of the device ring, of the table, bytes in all; counter and last head of the table; then
 * the heads to take once more. Standard input: the shared bytes to begin with, then a line an operation:
 *
 *     o HEAD          the driver offers a chain; b HEAD: a bad one
 *     t MAX HEAD...   turns that give these back and take MAX, or all that there are
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "host/cycle.h"
#include "host/inflight.h"

enum { SIZE_MAX_HERE = 64, BYTES_MAX = 16384 };

static _Alignas(4096) uint8_t shared[BYTES_MAX];
static uint8_t before[BYTES_MAX];
static size_t bytes;

static void look(void)
{
    if (memcmp(shared, before, bytes)) {
        memcpy(before, shared, bytes);
        fwrite(before, 1, bytes, stdout);
    }
}

/* --- what the compiler calls in place of, or before, each access -------------------------------------------------------------------- */

typedef volatile void *address;

#define PLAIN(name) \
    void __tsan_##name(const void *p); \
    void __tsan_##name(const void *p) \
    { \
        (void)p; \
        look(); \
    }
#define PLAIN_SIZES(kind) PLAIN(kind##1) PLAIN(kind##2) PLAIN(kind##4) PLAIN(kind##8) PLAIN(kind##16)
PLAIN_SIZES(read) PLAIN_SIZES(write) PLAIN_SIZES(unaligned_read) PLAIN_SIZES(unaligned_write)
PLAIN_SIZES(volatile_read) PLAIN_SIZES(volatile_write) PLAIN(func_entry)

#define ATOMIC(bits) \
    uint##bits##_t __tsan_atomic##bits##_load(const address p, int order); \
    uint##bits##_t __tsan_atomic##bits##_load(const address p, int order) \
    { \
        (void)order; \
        look(); \
        return *(const volatile uint##bits##_t *)p; \
    } \
    void __tsan_atomic##bits##_store(address p, uint##bits##_t value, int order); \
    void __tsan_atomic##bits##_store(address p, uint##bits##_t value, int order) \
    { \
        (void)order; \
        look(); \
        *(volatile uint##bits##_t *)p = value; \
        look(); \
    }
ATOMIC(16) ATOMIC(32) ATOMIC(64)

uint32_t __tsan_atomic32_fetch_add(address p, uint32_t value, int order);
uint32_t __tsan_atomic32_fetch_add(address p, uint32_t value, int order)
{
    (void)order;
    return __atomic_fetch_add((volatile uint32_t *)p, value, __ATOMIC_SEQ_CST);
}

#define NOTHING(name, ...) \
    void __tsan_##name(__VA_ARGS__); \
    void __tsan_##name(__VA_ARGS__) { look(); }
NOTHING(init, void) NOTHING(func_exit, void)

void __tsan_atomic_signal_fence(int order);
void __tsan_atomic_signal_fence(int order)
{
    (void)order;
    look();
}

void __tsan_write_range(void *p, size_t size);
void __tsan_write_range(void *p, size_t size)
{
    (void)p, (void)size;
    look();
}

void __tsan_read_range(void *p, size_t size);
void __tsan_read_range(void *p, size_t size)
{
    (void)p, (void)size;
    look();
}

/* --- the device, and its driver ------------------------------------------------------------------------------------------------------ */

struct scene {
    struct pv_geometry geometry;
    struct pv_region region;
    struct pv_memory memory;
    struct pv_device_ring ring;
    struct pv_inflight inflight;
    struct pv_slot slots[SIZE_MAX_HERE];
    struct pv_node nodes[16 * SIZE_MAX_HERE];
    struct pv_popped popped[SIZE_MAX_HERE];
    uint64_t tokens[SIZE_MAX_HERE]; /* by head */
    uint16_t batch[SIZE_MAX_HERE];
    uint16_t again[SIZE_MAX_HERE + 3];
};

static void start(struct scene *s, char **argument, int heads)
{
    uint16_t list[SIZE_MAX_HERE];
    uint16_t used;

    s->geometry = (struct pv_geometry){.size = (uint32_t)atoi(argument[1]), .driver = (uint64_t)atoi(argument[2])};
    s->geometry.device = (uint64_t)atoi(argument[3]);
    s->region = (struct pv_region){.host = shared, .size = (uint64_t)atoi(argument[4])};
    s->memory = (struct pv_memory){.regions = &s->region, .count = 1};
    memcpy(&used, shared + s->geometry.device + 2, 2);
    if (pv_device_start(&s->ring, &s->memory, &s->geometry, s->slots, s->nodes, 16 * SIZE_MAX_HERE, 0, 1, used, used))
        exit(2);
    s->inflight = (struct pv_inflight){.table = (void *)(shared + atoi(argument[4])), .memory = &s->memory};
    s->inflight.batch = s->batch;
    s->inflight.again = s->again;
    s->inflight.counter = strtoull(argument[6], NULL, 10);
    s->inflight.last_batch_head = (uint16_t)atoi(argument[7]);
    for (int i = 0; i < heads; i++)
        list[i] = (uint16_t)atoi(argument[8 + i]);
    pv_inflight_start(&s->inflight, &s->ring, list, (uint16_t)heads);
}

static void offer(struct scene *s, uint16_t head, bool bad)
{
    struct pv_desc desc = {.addr = bad ? UINT64_MAX : 0, .len = 1};
    uint16_t *avail = (uint16_t *)(void *)(shared + s->geometry.driver);

    memcpy(shared + 16 * head, &desc, sizeof desc);
    avail[PV_RING_ENTRIES + avail[PV_RING_IDX] % s->geometry.size] = head;
    avail[PV_RING_IDX]++;
    memcpy(before, shared, bytes); /* the driver lives on: its half-done work is no state to meet */
}

static void turn(struct scene *s, char *text)
{
    uint64_t done[SIZE_MAX_HERE];
    uint32_t lengths[SIZE_MAX_HERE] = {0}, count = 0;
    struct pv_turn turn = {.ring = &s->ring, .popped = s->popped, .room = SIZE_MAX_HERE, .limit = (uint32_t)strtoul(text, &text, 10)};

    for (char *end; strtoul(text, &end, 10), end != text; text = end)
        done[count++] = s->tokens[strtoul(text, NULL, 10)];
    do {
        int rc = pv_host_cycle(&turn, done, lengths, count, 0, 0);
        if (rc < 0)
            exit(3);
        for (int i = 0; i < (rc & 0xffff); i++)
            s->tokens[(uint16_t)s->popped[i].token] = s->popped[i].token;
        count = 0;
    } while (turn.limit && pv_device_pending(&s->ring));
}

int main(int count, char **argument)
{
    static struct scene s;
    char line[1024];

    bytes = (size_t)atoi(argument[5]);
    if (count < 8 || bytes > BYTES_MAX || fread(shared, 1, bytes, stdin) != bytes)
        return 1;
    memcpy(before, shared, bytes);
    start(&s, argument, count - 8);
    while (fgets(line, sizeof line, stdin)) {
        if (line[0] == 't')
            turn(&s, line + 1);
        else
            offer(&s, (uint16_t)atoi(line + 1), line[0] == 'b');
        fwrite(shared, 1, bytes, stdout);
        memcpy(before, shared, bytes);
    }
    return 0;
}
