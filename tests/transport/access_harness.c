/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every access of both ends to shared memory, one by one. Run by test_access.py; prints "scenario R|W area offset" lines.
 *
 * The shared pages are out of reach while a function is watched. Each access faults; it is noted, carried out with the pages open for the
 * length of one instruction (the processor's trap flag), and the pages are shut again.
 */
#define _GNU_SOURCE
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "ring.h"

#define PAGE 4096
#define SIZE 8
#define TRAP_FLAG 0x100
#define WRITE_FAULT 2

static const char *const areas[] = {"desc", "avail", "used", "table", "data"};
#define SHARED (5 * PAGE)

enum { DESC = PAGE, AVAIL = 2 * PAGE, USED = 3 * PAGE, TABLE = 4 * PAGE, DATA = 5 * PAGE, HOLE = 100 * PAGE };

static uint8_t *shared;
static struct {
    uintptr_t offset;
    bool write;
} noted[1000];
static volatile unsigned count;

static void on_fault(int signal, siginfo_t *info, void *context)
{
    ucontext_t *c = context;
    uintptr_t offset = (uintptr_t)info->si_addr - (uintptr_t)shared;

    (void)signal;
    if (offset >= SHARED || count == sizeof noted / sizeof *noted)
        abort();
    noted[count].offset = offset;
    noted[count].write = c->uc_mcontext.gregs[REG_ERR] & WRITE_FAULT;
    count++;
    mprotect(shared, SHARED, PROT_READ | PROT_WRITE);
    c->uc_mcontext.gregs[REG_EFL] |= TRAP_FLAG;
}

static void on_trap(int signal, siginfo_t *info, void *context)
{
    (void)signal, (void)info;
    mprotect(shared, SHARED, PROT_NONE);
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
}

static void watch(void)
{
    count = 0;
    mprotect(shared, SHARED, PROT_NONE);
}

static void tell(const char *scenario)
{
    mprotect(shared, SHARED, PROT_READ | PROT_WRITE);
    for (unsigned i = 0; i < count; i++)
        printf("%s %c %s %u\n", scenario, noted[i].write ? 'W' : 'R', areas[noted[i].offset / PAGE], (unsigned)(noted[i].offset % PAGE));
}

static struct pv_driver_ring driver;
static struct pv_device_ring device;
static struct pv_popped popped[SIZE];

static void start(uint32_t features, bool tables)
{
    static struct pv_driver_slot driver_slots[SIZE];
    static struct pv_slot slots[SIZE];
    static struct pv_node nodes[PV_NODES_PER_DESC * SIZE];
    static struct pv_region region;
    static struct pv_memory memory = {&region, 1, 0};
    struct pv_geometry geometry = {DESC, AVAIL, USED, SIZE, features};

    memset(driver_slots, 0, sizeof driver_slots);
    memset(slots, 0, sizeof slots);
    region = (struct pv_region){.addr = PAGE, .size = SHARED, .host = shared};
    if (pv_driver_start(&driver, &memory, &geometry, driver_slots, tables ? TABLE : 0, 2) ||
        pv_device_start(&device, &memory, &geometry, slots, nodes, pv_node_count(SIZE), 0, 1, 0, 0))
        abort();
}

static void add(unsigned chains)
{
    const struct pv_segment segments[] = {{DATA, 16, 0}, {DATA + 64, 16, 1}};

    while (chains--)
        pv_driver_add(&driver, segments, 2);
}

/* A chain whose table begins at any address, made by hand. */
static void put_table(uint32_t offset, uint64_t buffer)
{
    const struct pv_desc table[] = {{buffer, 16, PV_DESC_NEXT, 1}, {DATA + 64, 16, PV_DESC_WRITE, 0}};
    const struct pv_desc desc = {TABLE + offset, sizeof table, PV_DESC_INDIRECT, 0};

    pv_copy(shared + TABLE - PAGE + offset, table, sizeof table);
    pv_copy(shared, &desc, sizeof desc);
}

static void pop(const char *scenario, unsigned expected)
{
    watch();
    int taken = pv_device_pop(&device, popped, SIZE);
    tell(scenario);
    if (taken != (int)expected)
        abort();
}

static void run_pops(void)
{
    start(PV_RING_INDIRECT, false);
    pop("pop-nothing", 0);
    add(1);
    pv_driver_publish(&driver);
    pop("pop-one", 1);
    start(PV_RING_INDIRECT, false);
    add(3);
    pv_driver_publish(&driver);
    pop("pop-three", 3);
    start(PV_RING_INDIRECT, true);
    add(1);
    pv_driver_publish(&driver);
    pop("pop-table", 1);
    start(PV_RING_INDIRECT, true);
    add(1);
    pv_driver_publish(&driver);
    put_table(8, HOLE);
    pop("pop-bad", 0);
    start(PV_RING_INDIRECT, true);
    add(1);
    pv_driver_publish(&driver);
    put_table(1, DATA);
    pop("pop-odd-table", 1);
}

static void run_round(const char *name, uint32_t features)
{
    static struct pv_used_elem done[SIZE];
    char scenario[64];

#define NAMED(what) (snprintf(scenario, sizeof scenario, "%s-%s", name, what), scenario)
    start(features, false);
    watch();
    add(1);
    tell(NAMED("add"));
    watch();
    pv_driver_publish(&driver);
    tell(NAMED("publish"));
    pv_device_pop(&device, popped, SIZE);
    watch();
    pv_device_complete(&device, popped[0].token, 16);
    tell(NAMED("complete"));
    watch();
    pv_device_publish(&device);
    tell(NAMED("publish-used"));
    watch();
    pv_driver_reap(&driver, done, SIZE);
    tell(NAMED("reap"));
    watch();
    pv_device_arm(&device);
    tell(NAMED("arm"));
    watch();
    pv_driver_arm(&driver);
    tell(NAMED("arm-driver"));
}

int main(void)
{
    shared = mmap(NULL, SHARED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED)
        abort();
    sigaction(SIGSEGV, &(struct sigaction){.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, NULL);
    sigaction(SIGTRAP, &(struct sigaction){.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO}, NULL);
    run_pops();
    run_round("flags", 0);
    run_round("events", PV_RING_EVENT_IDX);
    return 0;
}
