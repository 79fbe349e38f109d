/* SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "guard.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>

#include "wire.h"

struct guard {
    sigjmp_buf jump;
    const struct pv_memory *memory;
    struct guard *outer;
};

/*
 * initial-exec: a signal handler must not be the first to touch a variable that the dynamic linker would then have to allocate. The price:
 * all thread-local variables of this extension must fit into the kilobyte or so that the linker keeps for such, so none may be large.
 */
static _Thread_local struct guard *innermost __attribute__((tls_model("initial-exec")));

static bool holds(const struct pv_memory *m, const void *fault)
{
    for (uint32_t i = 0; i < m->count; i++) {
        const struct pv_region *region = &m->regions[i];
        if ((region->flags & PV_REGION_GUARDED) && (uintptr_t)fault - (uintptr_t)region->host < region->size)
            return true;
    }
    return false;
}

/* --- the handler ------------------------------------------------------------------------------------------------------------------- */

/*
 * Who takes our place remembers us as the handler before, and may put us back and raise the signal again (faulthandler does). So each time
 * we go in front we do so under another function with a predecessor of its own: a signal that nobody wants walks down the chain and ends.
 * With one function it would go round in a circle.
 */
#define LEVELS 8 /* distinct handlers that may come in between: a sanitizer, faulthandler, signal.signal, ... */
static struct sigaction before[LEVELS]; /* not written any more once level i can be called */

static void pass_on(const struct sigaction *action, int signal, siginfo_t *info, void *context)
{
    bool fault = info->si_code > 0 && info->si_code != BUS_MCEERR_AO;

    if (action->sa_flags & SA_SIGINFO) {
        action->sa_sigaction(signal, info, context);
    } else if (action->sa_handler == SIG_DFL || (fault && action->sa_handler == SIG_IGN)) {
        /* Die of it: a fault comes again once we return, a signal that was sent has to be sent again. */
        sigaction(signal, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
        if (!fault)
            raise(signal);
    } else if (action->sa_handler != SIG_IGN) {
        action->sa_handler(signal);
    }
}

static void on_bus_error(unsigned level, int signal, siginfo_t *info, void *context)
{
    if (info->si_code == BUS_ADRERR) {
        for (struct guard *guard = innermost; guard; guard = guard->outer) {
            if (holds(guard->memory, info->si_addr))
                siglongjmp(guard->jump, 1);
        }
    }
    pass_on(&before[level], signal, info, context);
}

#define ENTRY(level) \
    static void on_level_##level(int signal, siginfo_t *info, void *context) \
    { \
        on_bus_error(level, signal, info, context); \
    }
ENTRY(0) ENTRY(1) ENTRY(2) ENTRY(3) ENTRY(4) ENTRY(5) ENTRY(6) ENTRY(7)

static void (*const entry[LEVELS])(int, siginfo_t *, void *) = {
    on_level_0, on_level_1, on_level_2, on_level_3, on_level_4, on_level_5, on_level_6, on_level_7,
};

static bool is_ours(const struct sigaction *action)
{
    for (unsigned level = 0; level < LEVELS; level++) {
        if ((action->sa_flags & SA_SIGINFO) && action->sa_sigaction == entry[level])
            return true;
    }
    return false;
}

static bool same(const struct sigaction *a, const struct sigaction *b)
{
    if ((a->sa_flags & SA_SIGINFO) != (b->sa_flags & SA_SIGINFO))
        return false;
    return a->sa_flags & SA_SIGINFO ? a->sa_sigaction == b->sa_sigaction : a->sa_handler == b->sa_handler;
}

/* With the lock held. */
static int install(void)
{
    static unsigned used;
    struct sigaction now;
    unsigned level = 0;

    sigaction(SIGBUS, NULL, &now);
    if (is_ours(&now))
        return 0;
    while (level < used && !same(&before[level], &now))
        level++;
    if (level == LEVELS)
        return -PV_E_FULL;
    if (level == used)
        before[used++] = now;
    /*
     * NODEFER and jumps that leave the signal mask alone belong together: the signal is never blocked, so there is nothing to restore and
     * the next fault comes through too. ONSTACK: threads that have a stack for signals may be short of the other.
     */
    sigaction(SIGBUS, &(struct sigaction){.sa_sigaction = entry[level], .sa_flags = SA_SIGINFO | SA_NODEFER | SA_ONSTACK}, NULL);
    return 0;
}

int pv_guard_install(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

    pthread_mutex_lock(&lock);
    int rc = install();
    pthread_mutex_unlock(&lock);
    return rc;
}

/* --- the guard --------------------------------------------------------------------------------------------------------------------- */

/* Our own handler looks at `innermost`, which no other code may outrun. Not a barrier between processors, so it has no pair. */
static inline void enter(struct guard *guard)
{
    innermost = guard;
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void leave(struct guard *outer)
{
    atomic_signal_fence(memory_order_seq_cst);
    innermost = outer;
}

long pv_guarded(const struct pv_memory *m, long (*fn)(void *), void *arg)
{
    struct guard guard; /* not initialized as a whole: the jump buffer is large */

    if (!(m->flags & PV_MEMORY_GUARDED))
        return fn(arg);
    guard.memory = m;
    guard.outer = innermost;
    /* Nothing local changes between sigsetjmp and its second return, so nothing is lost to the jump. */
    if (sigsetjmp(guard.jump, 0)) {
        leave(guard.outer);
        return -PV_E_GONE;
    }
    enter(&guard);
    long rc = fn(arg);
    leave(guard.outer);
    return rc;
}

struct copy {
    const struct pv_memory *memory;
    uint64_t addr;
    uint64_t len;
    void *to;
    const void *from;
};

static long run_read(void *arg)
{
    const struct copy *copy = arg;
    uint32_t hint = 0;

    return pv_memory_read(copy->memory, copy->to, copy->addr, copy->len, &hint);
}

static long run_write(void *arg)
{
    const struct copy *copy = arg;
    uint32_t hint = 0;

    return pv_memory_write(copy->memory, copy->addr, copy->from, copy->len, &hint);
}

int pv_guarded_read(const struct pv_memory *m, void *to, uint64_t addr, uint64_t len)
{
    struct copy copy = {.memory = m, .addr = addr, .len = len, .to = to};

    return (int)pv_guarded(m, run_read, &copy);
}

int pv_guarded_write(const struct pv_memory *m, uint64_t addr, const void *from, uint64_t len)
{
    struct copy copy = {.memory = m, .addr = addr, .len = len, .from = from};

    return (int)pv_guarded(m, run_write, &copy);
}
