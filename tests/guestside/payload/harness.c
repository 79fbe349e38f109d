/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The payload as a program of this process: its own C with another machine.h, a register block, an echo or a disk behind the project's own
 * device end, and a list of lies. One thread, time that only passes when looked at: the same run every time.
 *
 *     harness LIE FEATURES POOL ARGUMENT...       FEATURES are offered, POOL is bytes; the lines of the payload, then "exit=CODE"
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "payload.h"

#define DEVICE 0x1000u /* where the registers seem to be; never touched as memory */
#define CONSOLE 0x2000u
#define DISK_BYTES (1u << 20)
#define QUEUES 8u
#define SIZE 64u
#define BORED 100000u /* looks with nothing to do after which the guest hangs */

static struct pv_boot_page boot;
static const char *lie;
static uint64_t features, agreed, now;
static uint32_t status, selected, driver_half, device_half, is_block;
static uint8_t disk[DISK_BYTES];
static uint32_t bored;

static struct queue {
    struct pv_geometry geometry;
    struct pv_device_ring ring;
    struct pv_slot slots[SIZE];
    struct pv_node nodes[16 * SIZE];
    uint32_t ready, awake;
    volatile uint32_t kicked;
} queues[QUEUES];
static struct pv_region region;
static struct pv_memory memory;

static bool lies(const char *what)
{
    return strcmp(lie, what) == 0;
}

static void start_device(void)
{
    for (uint32_t i = 0; i < QUEUES; i++) {
        struct queue *q = &queues[i];

        if (!q->ready)
            continue;
        memset(q->slots, 0, sizeof q->slots);
        memset(q->nodes, 0, sizeof q->nodes);
        q->geometry.features = (agreed >> 28 & 1 ? PV_RING_INDIRECT : 0u) | (agreed >> 29 & 1 ? PV_RING_EVENT_IDX : 0u);
        if (pv_device_start(&q->ring, &memory, &q->geometry, q->slots, q->nodes, 16 * SIZE, 0, 1, 0, 0))
            exit(98);
        q->awake = 0;
        if (pv_device_arm(&q->ring))
            q->awake = 1;
    }
}

static void halves(uint64_t *value, uint32_t half, uint32_t word)
{
    *value = half ? (*value & 0xffffffffu) | (uint64_t)word << 32 : (*value & ~0xffffffffull) | word;
}

static void set_status(uint32_t value)
{
    if (value == 0 && lies("no-reset"))
        return;
    if (lies("refuse") && (value & 8))
        value &= ~8u;
    if ((value & 4) && !(status & 4))
        start_device();
    status = value;
    if (value == 0)
        for (uint32_t i = 0; i < QUEUES; i++)
            queues[i].ready = 0;
}

void pv_mmio_write32(uint64_t address, uint32_t value)
{
    struct queue *q = &queues[selected % QUEUES];

    switch (address - DEVICE) {
    case 0x014: device_half = value; break;
    case 0x020: halves(&agreed, driver_half, value); break;
    case 0x024: driver_half = value; break;
    case 0x030: selected = value; break;
    case 0x038: q->geometry.size = value; break;
    case 0x044: q->ready = !lies("not-ready") && value; break;
    case 0x070: set_status(value); break;
    case 0x080:
    case 0x084: halves(&q->geometry.desc, address & 4, value); break;
    case 0x090:
    case 0x094: halves(&q->geometry.driver, address & 4, value); break;
    case 0x0a0:
    case 0x0a4: halves(&q->geometry.device, address & 4, value); break;
    default: printf("wrote register %llx\n", (unsigned long long)address); exit(97);
    }
}

uint32_t pv_mmio_read32(uint64_t address)
{
    static uint32_t generation;

    switch (address - DEVICE) {
    case 0x000: return lies("magic") ? 0 : 0x74726976;
    case 0x004: return lies("version") ? 1 : 2;
    case 0x008: return lies("type") ? 1 : is_block ? 2 : 42;
    case 0x010: return (uint32_t)(features >> 32 * device_half);
    case 0x034: return lies("no-queue") ? 0 : SIZE;
    case 0x044: return lies("in-use") || queues[selected % QUEUES].ready;
    case 0x070: return status;
    case 0x0fc: return lies("restless") ? ++generation : 0;
    case 0x100: return lies("capacity") ? 0 : DISK_BYTES / 512;
    case 0x104: return 0;
    default: printf("read register %llx\n", (unsigned long long)address); exit(97);
    }
}

void pv_mmio_write8(uint64_t address, uint8_t value)
{
    if (address != CONSOLE)
        exit(96);
    putchar(value);
}

static uint32_t echo(struct queue *q, const struct pv_popped *p)
{
    static uint8_t data[65536];
    int64_t size = pv_device_read(&q->ring, p->token, 0, data, sizeof data);

    if (lies("corrupt"))
        data[size - 1] ^= 1;
    size = pv_device_write(&q->ring, p->token, 0, data, (uint32_t)size);
    return (uint32_t)size - (lies("short") ? 1 : 0);
}

static uint32_t serve_disk(struct queue *q, const struct pv_popped *p)
{
    uint32_t readable = (uint32_t)(p->sizes >> 32), writable = (uint32_t)p->sizes, length = 0;
    struct { uint32_t type, reserved; uint64_t sector; } header;
    uint8_t answer = lies("status") ? 1 : 0;

    if (pv_device_read(&q->ring, p->token, 0, &header, sizeof header) != sizeof header || header.sector * 512 >= DISK_BYTES)
        exit(95);
    if (header.type == 1)
        pv_device_read(&q->ring, p->token, sizeof header, disk + header.sector * 512, readable - (uint32_t)sizeof header);
    if (header.type == 0)
        length = (uint32_t)pv_device_write(&q->ring, p->token, 0, disk + header.sector * 512 + (lies("corrupt") ? 1 : 0), writable - 1);
    pv_device_write(&q->ring, p->token, length, &answer, 1);
    return length + 1;
}

static void tell_lies(struct queue *q)
{
    uint16_t *used = q->ring.ring.used;

    if (lies("used-index"))
        used[PV_RING_IDX] = (uint16_t)(used[PV_RING_IDX] + 1000);
    if (lies("used-id"))
        used[PV_RING_ENTRIES] = 60000;
    if (lies("needs-reset"))
        status |= 64;
}

static void serve_queue(struct queue *q)
{
    struct pv_popped popped[8];

    if (q->kicked) {
        q->kicked = 0;
        q->awake = 1;
    }
    if (!q->awake || lies("silent"))
        return;
    int count = pv_device_pop(&q->ring, popped, 8);
    if (count < 0)
        exit(94);
    for (int i = count; i-- && !lies("needs-reset");) /* last first: completions may come in any order */
        pv_device_complete(&q->ring, popped[i].token, is_block ? serve_disk(q, &popped[i]) : echo(q, &popped[i]));
    boot.interrupts += pv_device_publish(&q->ring) == 1;
    if (count) {
        bored = 0;
        tell_lies(q);
    } else if (!pv_device_arm(&q->ring)) {
        q->awake = 0;
    }
}

static void step(void)
{
    now += 1000;
    if (++bored > BORED) {
        puts("hangs");
        exit(99);
    }
    if (status & 4)
        for (uint32_t i = 0; i < QUEUES; i++)
            if (queues[i].ready)
                serve_queue(&queues[i]);
}

uint64_t pv_cycles(void)
{
    return now += 10;
}

void pv_sleep(const struct pv_boot_page *page, uint64_t seen)
{
    while (page->interrupts == seen) {
        step();
        if (lies("needs-reset") || boot.arguments[0] == PV_IDLE)
            boot.interrupts++; /* a change of configuration, or the host's own */
    }
}

void pv_pause(void)
{
    step();
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 90;
    lie = argv[1];
    features = strtoull(argv[2], NULL, 0);
    uint64_t size = strtoull(argv[3], NULL, 0);
    for (int i = 4; i < argc && i < 20; i++)
        boot.arguments[i - 4] = strtoull(argv[i], NULL, 0);
    void *pool = aligned_alloc(4096, size);
    is_block = boot.arguments[0] == PV_BLOCK;
    region = (struct pv_region){(uintptr_t)pool, size, pool, 0};
    memory = (struct pv_memory){&region, 1, 0};
    status = lies("no-reset") ? 15 : 0;
    boot.magic = lies("boot-page") ? 0 : PV_BOOT_MAGIC;
    boot.version = PV_BOOT_VERSION;
    boot.console = CONSOLE;
    boot.device = DEVICE;
    boot.pool = (uintptr_t)pool;
    boot.pool_size = size;
    for (uint32_t i = 0; i < QUEUES; i++)
        boot.bells[i] = (struct pv_bell){.generation = 2, .kind = PV_BELL_MMIO, .width = 4, .address = (uintptr_t)&queues[i].kicked, .value = 1};
    printf("exit=%u\n", pv_main(&boot));
    for (uint32_t i = 0; i < QUEUES; i++)
        printf("taken=%u ", boot.bells[i].taken);
    puts("");
    free(pool);
    return 0;
}
