/* SPDX-License-Identifier: Apache-2.0 */
/* Choose the program, and say how it ended. */
#include "payload.h"
#include "payload_asm.h"

_Static_assert(offsetof(struct pv_boot_page, generation) == PV_BOOT_GENERATION, "payload_asm.h");
_Static_assert(offsetof(struct pv_boot_page, vendor) == PV_BOOT_VENDOR, "payload_asm.h");
_Static_assert(offsetof(struct pv_boot_page, cpl) == PV_BOOT_CPL, "payload_asm.h");
_Static_assert(offsetof(struct pv_boot_page, console) == PV_BOOT_CONSOLE, "payload_asm.h");
_Static_assert(offsetof(struct pv_boot_page, interrupts) == PV_BOOT_INTERRUPTS, "payload_asm.h");
_Static_assert(offsetof(struct pv_boot_page, picked) == PV_BOOT_PICKED, "payload_asm.h");
_Static_assert(offsetof(struct pv_boot_page, undefined_handler) == PV_BOOT_UNDEFINED, "payload_asm.h");
_Static_assert(PV_VENDOR_INTEL == PV_INTEL && PV_VENDOR_AMD == PV_AMD, "payload_asm.h");

static struct pv_guest guest; /* too large for a stack of 64 KiB that others may shrink */

static const struct {
    const char *name;
    enum pv_result (*run)(struct pv_guest *g);
} programs[] = {
    [PV_ECHO] = {"echo", pv_echo},
    [PV_BLOCK] = {"block", pv_block},
    [PV_KICK] = {"kick", pv_kick},
    [PV_IDLE] = {"idle", pv_idle},
    [PV_LOAD] = {"load", pv_load},
};

bool pv_stopped(const struct pv_guest *g)
{
    return pv_load_acquire64(&g->boot->arguments[PV_ARG_STOP]) != 0;
}

static void start(struct pv_guest *g, struct pv_boot_page *boot)
{
    *g = (struct pv_guest){.boot = boot, .pool = boot->pool, .pool_end = boot->pool + boot->pool_size};
    for (uint32_t i = 0; i < 16; i++)
        g->arguments[i] = boot->arguments[i];
    g->region = (struct pv_region){.addr = boot->pool, .size = boot->pool_size, .host = pv_pointer(boot->pool)};
    g->memory = (struct pv_memory){.regions = &g->region, .count = 1};
}

/* The boot page is the machine's word, and a payload of another version would read it wrongly. */
static enum pv_result check(struct pv_guest *g)
{
    if (g->boot->magic != PV_BOOT_MAGIC || g->boot->version != PV_BOOT_VERSION)
        return pv_fail(g, PV_BAD_ARGUMENT, "boot-page", g->boot->version);
    if (g->arguments[PV_ARG_PROGRAM] == 0 || g->arguments[PV_ARG_PROGRAM] >= sizeof programs / sizeof *programs)
        return pv_fail(g, PV_BAD_ARGUMENT, "program", g->arguments[PV_ARG_PROGRAM]);
    if (g->arguments[PV_ARG_QUEUES] > PV_QUEUES_MAX)
        return pv_fail(g, PV_BAD_ARGUMENT, "queues", g->arguments[PV_ARG_QUEUES]);
    return PV_OK;
}

uint32_t pv_main(struct pv_boot_page *boot)
{
    struct pv_guest *g = &guest;

    start(g, boot);
    enum pv_result result = check(g);
    bool known = result == PV_OK;
    const char *name = known ? programs[g->arguments[PV_ARG_PROGRAM]].name : "none";
    if (known)
        result = programs[g->arguments[PV_ARG_PROGRAM]].run(g);
    pv_put_word(g, "program", name);
    pv_put_word(g, "status", result == PV_OK ? "ok" : "failed");
    if (g->reason) {
        pv_put_word(g, "reason", g->reason);
        pv_put_number(g, "detail", g->detail);
    }
    pv_put_number(g, "kicks", pv_kicks(g));
    pv_put_number(g, "interrupts", pv_load_acquire64(&boot->interrupts));
    pv_put(g, "\n");
    return result;
}
