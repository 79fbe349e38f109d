/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The device's end of a split virtqueue against a guest that writes whatever it likes whenever it likes. A libFuzzer target.
 *
 * An input is
 *      8 bytes     log2 of the size, features, table_max, few nodes?, available index (16 bits), used index (16 bits)
 *      2 bytes     length of the image
 *      image       what guest memory holds at first: the areas below one after the other
 *      script      operations: a byte that says which, and its arguments; numbers are little-endian, 0 where the input ends
 * make_corpus.py writes such inputs and holds the same numbers. -DREPORT says after each input what became of it.
 *
 * Each area of guest memory is an allocation of exactly its size, so that AddressSanitizer sees a step outside. In guest-physical memory
 * some adjoin, one ends at the last address there is and one is read-only. What is asserted is in check_ring and with each operation.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ring.h"

enum { DESC, AVAIL, USED, DATA, MORE, READONLY, LAST, AREAS };

#define FIRST_ADDR 0x1000u
#define SIZE_LOG_MAX 6u
#define DATA_BYTES 1024u
#define MORE_BYTES 512u
#define READONLY_BYTES 256u
#define LAST_BYTES 256u
#define POP_MAX 16u
#define COPY_MAX 2048u

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "device_end.c:%d: %s\n", __LINE__, #condition); \
            abort(); \
        } \
    } while (0)

struct input {
    const uint8_t *next;
    size_t left;
};

/* A chain that the device has, and what it was told of it. */
struct held {
    uint64_t token;
    uint32_t readable;
    uint32_t writable;
};

struct state {
    struct pv_region regions[AREAS];
    struct pv_memory memory;
    struct pv_geometry geometry;
    struct pv_device_ring ring;
    struct pv_slot *slots;
    struct pv_node *nodes;
    uint32_t node_count;
    uint32_t table_max;
    struct held held[1u << SIZE_LOG_MAX];
    uint32_t held_count;
    uint16_t generation;
    uint16_t used_start;
    uint16_t broken;
    uint64_t completed;
    uint64_t stale;
    uint64_t last_token;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < bytes && in->left; i++, in->next++, in->left--)
        value |= (uint64_t)*in->next << (8 * i);
    return value;
}

/* --- guest memory ----------------------------------------------------------------------------------------------------------------- */

static void make_memory(struct state *s, uint64_t size)
{
    const uint64_t bytes[AREAS] = {16 * size, 6 + 2 * size, 6 + 8 * size, DATA_BYTES, MORE_BYTES, READONLY_BYTES, LAST_BYTES};
    uint64_t addr = FIRST_ADDR;

    for (int i = 0; i < AREAS; i++) {
        if (i == USED)
            addr = (addr + 3) & ~(uint64_t)3;
        if (i == LAST)
            addr = UINT64_MAX - LAST_BYTES + 1;
        s->regions[i] = (struct pv_region){addr, bytes[i], calloc(1, bytes[i]), i == READONLY ? PV_REGION_READONLY : 0};
        CHECK(s->regions[i].host);
        addr += bytes[i];
    }
    s->memory = (struct pv_memory){.regions = s->regions, .count = AREAS};
    s->geometry.desc = s->regions[DESC].addr;
    s->geometry.driver = s->regions[AVAIL].addr;
    s->geometry.device = s->regions[USED].addr;
    s->geometry.size = (uint32_t)size;
}

/* The guest writes; offsets run through the areas one after the other. */
static void guest_writes(struct state *s, struct input *in, uint64_t offset, uint64_t length)
{
    for (int i = 0; i < AREAS && length && in->left; i++) {
        const struct pv_region *area = &s->regions[i];

        if (offset >= area->size) {
            offset -= area->size;
            continue;
        }
        for (; offset < area->size && length && in->left; offset++, length--)
            area->host[offset] = (uint8_t)take(in, 1);
        offset = 0;
    }
}

static uint16_t shared_word(const struct state *s, int area, uint32_t word)
{
    return (uint16_t)(s->regions[area].host[2 * word] | s->regions[area].host[2 * word + 1] << 8);
}

/* --- what must always hold -------------------------------------------------------------------------------------------------------- */

static uint64_t sent_back(const struct state *s)
{
    uint64_t rejected = 0;

    for (int i = 0; i < PV_E_COUNT; i++)
        rejected += s->ring.rejected[i];
    return rejected - (s->ring.broken ? 1 : 0); /* the last lie was about a head or an index: nothing to send back */
}

static void check_ring(struct state *s)
{
    const struct pv_device_ring *r = &s->ring;
    uint32_t nodes = r->nodes_free;
    uint32_t in_flight = 0;

    for (uint32_t i = 0; i < s->geometry.size; i++) {
        nodes += (uint32_t)r->slots[i].readable_nodes + r->slots[i].writable_nodes;
        in_flight += r->slots[i].in_flight;
    }
    CHECK(nodes == s->node_count);
    CHECK(in_flight == r->in_flight && in_flight == s->held_count && in_flight <= s->geometry.size);
    CHECK(r->popped == r->completed + in_flight && r->completed == s->completed);
    CHECK(r->used == (uint16_t)(s->used_start + s->completed + sent_back(s)));
    CHECK(r->stale == s->stale);
    CHECK(in_flight || !pv_device_stalled(r)); /* one chain always fits */
    CHECK(r->broken < PV_E_COUNT && (!s->broken || r->broken == s->broken));
    CHECK(!r->broken || pv_device_pending(r));
    s->broken = r->broken;
}

/* --- operations ------------------------------------------------------------------------------------------------------------------- */

static void start(struct state *s, uint16_t avail, uint16_t used)
{
    memset(s->slots, 0, s->geometry.size * sizeof *s->slots);
    memset(s->nodes, 0, s->node_count * sizeof *s->nodes);
    s->used_start = used;
    s->held_count = 0;
    s->broken = 0;
    s->completed = s->stale = 0;
    CHECK(pv_device_start(&s->ring, &s->memory, &s->geometry, s->slots, s->nodes, s->node_count, s->table_max, ++s->generation, avail,
                          used) == 0);
}

static void op_pop(struct state *s, struct input *in)
{
    struct pv_popped popped[POP_MAX];
    uint32_t max = (uint32_t)take(in, 1) % (POP_MAX + 1);
    int count = pv_device_pop(&s->ring, popped, max);

    CHECK(!s->broken || count == -s->broken);
    CHECK(count >= 0 ? (uint32_t)count <= max : s->ring.broken == -count);
    for (int i = 0; i < count; i++) {
        struct held new = {popped[i].token, (uint32_t)(popped[i].sizes >> 32), (uint32_t)popped[i].sizes};

        CHECK((uint64_t)new.readable + new.writable <= UINT32_MAX);
        CHECK(pv_device_slot(&s->ring, new.token) && s->held_count < s->geometry.size);
        for (uint32_t k = 0; k < s->held_count; k++)
            CHECK(s->held[k].token != new.token);
        s->held[s->held_count++] = new;
    }
}

/* The chain that the input names: one that is held, or NULL. */
static struct held *choose(struct state *s, struct input *in)
{
    uint32_t index = (uint32_t)take(in, 1);

    return s->held_count ? &s->held[index % s->held_count] : NULL;
}

static void op_complete(struct state *s, struct input *in)
{
    struct held *chain = choose(s, in);
    uint32_t length = (uint32_t)take(in, 4);

    if (!chain)
        return;
    CHECK(pv_device_complete(&s->ring, chain->token, length) == 0);
    s->completed++;
    s->last_token = chain->token;
    *chain = s->held[--s->held_count];
}

/* A second completion, one from before a reset, or a token that nobody gave out. */
static void op_stale(struct state *s, struct input *in)
{
    uint64_t token = take(in, 1) & 1 ? take(in, 8) : s->last_token;
    uint8_t byte;

    for (uint32_t i = 0; i < s->held_count; i++)
        if (s->held[i].token == token)
            return;
    CHECK(pv_device_slot(&s->ring, token) == NULL);
    CHECK(pv_device_read(&s->ring, token, 0, &byte, 1) == -PV_E_STALE && pv_device_write(&s->ring, token, 0, &byte, 1) == -PV_E_STALE);
    CHECK(pv_device_complete(&s->ring, token, 1) == -PV_E_STALE);
    s->stale++;
}

static uint32_t reachable(uint32_t total, uint32_t offset, uint32_t length)
{
    uint32_t rest = offset < total ? total - offset : 0;

    return rest < length ? rest : length;
}

static void op_copy(struct state *s, struct input *in, bool write)
{
    struct held *chain = choose(s, in);
    uint32_t offset = (uint32_t)take(in, 4);
    uint32_t length = (uint32_t)take(in, 2) % (COPY_MAX + 1);

    if (!chain)
        return;
    uint8_t *bytes = malloc(length ? length : 1);
    CHECK(bytes);
    memset(bytes, 0xa5, length ? length : 1);
    int64_t copied = write ? pv_device_write(&s->ring, chain->token, offset, bytes, length)
                           : pv_device_read(&s->ring, chain->token, offset, bytes, length);
    CHECK(copied == reachable(write ? chain->writable : chain->readable, offset, length) || (write && copied == -PV_E_ADDRESS));
    free(bytes);
}

static void op_publish(struct state *s)
{
    bool news = s->ring.published != s->ring.used;
    int call = pv_device_publish(&s->ring);

    CHECK(call == 0 || (call == 1 && news));
    CHECK(s->ring.published == s->ring.used);
    if (news) /* otherwise what the guest wrote there may stand */
        CHECK(shared_word(s, USED, PV_RING_IDX) == s->ring.used);
}

static void op_arm(struct state *s)
{
    bool event_idx = s->geometry.features & PV_RING_EVENT_IDX;
    bool found = pv_device_arm(&s->ring);

    CHECK(found == pv_device_pending(&s->ring));
    if (event_idx)
        CHECK(shared_word(s, USED, PV_RING_ENTRIES + 4 * s->geometry.size) == s->ring.last_avail);
    else
        CHECK(shared_word(s, USED, PV_RING_FLAGS) == 0);
}

static void operate(struct state *s, struct input *in)
{
    switch (take(in, 1) % 10) {
    case 0: op_pop(s, in); break;
    case 1: op_complete(s, in); break;
    case 2: op_stale(s, in); break;
    case 3: op_copy(s, in, false); break;
    case 4: op_copy(s, in, true); break;
    case 5: op_publish(s); break;
    case 6: op_arm(s); break;
    case 7: pv_device_disarm(&s->ring); break;
    case 8: {
        uint64_t offset = take(in, 2);
        guest_writes(s, in, offset, take(in, 1));
        break;
    }
    default: {
        uint16_t avail = (uint16_t)take(in, 2);
        start(s, avail, (uint16_t)take(in, 2));
        break;
    }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t length)
{
    struct input in = {data, length};
    struct state s = {0};
    uint64_t size = (uint64_t)1 << (take(&in, 1) % (SIZE_LOG_MAX + 1));

    make_memory(&s, size);
    s.geometry.features = (uint32_t)take(&in, 1) & (PV_RING_INDIRECT | PV_RING_EVENT_IDX);
    s.table_max = (uint32_t)take(&in, 1) % ((uint32_t)size + 1);
    uint32_t longest = (uint32_t)size + (s.table_max ? s.table_max : (uint32_t)size);
    s.node_count = take(&in, 1) & 1 ? longest : pv_node_count((uint32_t)size);
    s.slots = calloc(size, sizeof *s.slots);
    s.nodes = calloc(s.node_count, sizeof *s.nodes);
    CHECK(s.slots && s.nodes);
    uint16_t avail = (uint16_t)take(&in, 2);
    start(&s, avail, (uint16_t)take(&in, 2));
    guest_writes(&s, &in, 0, take(&in, 2));
    while (in.left) {
        operate(&s, &in);
        check_ring(&s);
    }
#ifdef REPORT
    fprintf(stderr, "popped %llu completed %llu sent_back %llu stale %llu broken %u\n", (unsigned long long)s.ring.popped,
            (unsigned long long)s.completed, (unsigned long long)sent_back(&s), (unsigned long long)s.stale, s.ring.broken);
#endif
    for (int i = 0; i < AREAS; i++)
        free(s.regions[i].host);
    free(s.slots);
    free(s.nodes);
    return 0;
}
