/* SPDX-License-Identifier: Apache-2.0 */
/* Guards inside guards, and foreign handlers of SIGBUS in every usual style. Run by test_guard.py; says "ok". */
#define _GNU_SOURCE
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "host/guard.h"
#include "wire.h"

#define PAGE 4096

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%d: %s\n", __LINE__, #condition); \
            _Exit(1); \
        } \
    } while (0)

struct lost {
    struct pv_region region;
    struct pv_memory memory;
};

/* Memory that its owner has already truncated. */
static void lose(struct lost *lost)
{
    int fd = memfd_create("lost", 0);

    CHECK(fd >= 0 && ftruncate(fd, PAGE) == 0);
    uint8_t *host = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(host != MAP_FAILED && ftruncate(fd, 0) == 0);
    close(fd);
    lost->region = (struct pv_region){.size = PAGE, .host = host, .flags = PV_REGION_GUARDED};
    lost->memory = (struct pv_memory){.regions = &lost->region, .count = 1, .flags = PV_MEMORY_GUARDED};
}

static struct lost a, b;
static volatile int after_inner;

static long touch(void *arg)
{
    return *(volatile uint8_t *)((struct lost *)arg)->region.host;
}

/* Guards b, touches `arg`. */
static long inner(void *arg)
{
    long rc = pv_guarded(&b.memory, touch, arg);

    after_inner++;
    return rc == -PV_E_GONE ? 1 : rc;
}

static void test_nesting(void)
{
    CHECK(pv_guarded(&a.memory, inner, &b) == 1); /* the inner guard ends, the outer function goes on */
    CHECK(after_inner == 1);
    CHECK(pv_guarded(&a.memory, inner, &a) == -PV_E_GONE); /* out of both */
    CHECK(after_inner == 1);
    CHECK(pv_guarded(&a.memory, touch, &a) == -PV_E_GONE);
    CHECK(pv_guarded(&a.memory, inner, &b) == 1);
    uint8_t byte;
    CHECK(pv_guarded_read(&a.memory, &byte, 0, 1) == -PV_E_GONE);
    CHECK(pv_guarded_read(&a.memory, &byte, 0, PAGE + 1) == -PV_E_ADDRESS);
}

static sigjmp_buf rescue;
static struct sigaction previous;
static volatile int called;

static void jumps_out(int signal)
{
    (void)signal;
    called++;
    siglongjmp(rescue, 1);
}

static void restores_and_returns(int signal, siginfo_t *info, void *context)
{
    (void)info, (void)context;
    called++;
    sigaction(signal, &previous, NULL);
}

static void restores_and_raises(int signal)
{
    called++;
    sigaction(signal, &previous, NULL);
    raise(signal);
}

static void take_over(struct sigaction action)
{
    action.sa_flags |= SA_NODEFER;
    sigaction(SIGBUS, &action, &previous);
    CHECK(pv_guard_install() == 0);
    CHECK(pv_guarded(&a.memory, touch, &a) == -PV_E_GONE);
    CHECK(called == 0);
}

/* A handler with its own way out, like ours in another library, is asked every time. */
static void test_other_guard(void)
{
    take_over((struct sigaction){.sa_handler = jumps_out});
    for (int i = 1; i <= 3; i++) {
        if (!sigsetjmp(rescue, 1))
            touch(&a);
        CHECK(called == i);
        CHECK(pv_guarded(&a.memory, touch, &a) == -PV_E_GONE);
    }
}

/* Runs in a child, which must die of the signal after `called` handlers had their say. */
static void dies(const struct sigaction *actions, int count)
{
    pid_t child = fork();
    int status;

    CHECK(child >= 0);
    if (child == 0) {
        for (int i = 0; i < count; i++)
            take_over(actions[i]);
        touch(&a);
        _Exit(99);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

static void test_chain(void)
{
    const struct sigaction styles[] = {
        {.sa_sigaction = restores_and_returns, .sa_flags = SA_SIGINFO},
        {.sa_handler = restores_and_raises},
        {.sa_handler = SIG_IGN},
    };

    dies(styles, 0);
    dies(&styles[0], 1);
    dies(&styles[1], 1);
    dies(&styles[2], 1);
}

/* Each time another handler: refused in the end, while one that was there before is not. Leaves no guard behind. */
static void test_too_many(void)
{
    struct sigaction action = {0};
    uintptr_t fake = PAGE;
    int rc;

    do {
        action.sa_handler = (void (*)(int))(fake++);
        sigaction(SIGBUS, &action, NULL);
        rc = pv_guard_install();
    } while (rc == 0 && fake < PAGE + 100);
    CHECK(rc == -PV_E_FULL && fake > PAGE + 3);
    action.sa_handler = (void (*)(int))PAGE;
    sigaction(SIGBUS, &action, NULL);
    CHECK(pv_guard_install() == 0);
}

int main(void)
{
    signal(SIGBUS, SIG_DFL); /* a sanitizer's handler would report, not die */
    CHECK(pv_guard_install() == 0);
    lose(&a);
    lose(&b);
    test_nesting();
    test_chain();
    test_other_guard();
    test_too_many();
    puts("ok");
    return 0;
}
