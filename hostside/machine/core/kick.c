/* SPDX-License-Identifier: Apache-2.0 */
/* Getting a thread out of KVM_RUN, whatever its guest does. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <sys/ioctl.h>

static void nothing(int number)
{
    (void)number;
}

static int kick_signal; /* 0 until one is taken; written by the thread that holds the interpreter lock, before any vCPU runs */

/* SA_RESTART, for the sake of whatever system call the thread is in when the signal comes late; KVM_RUN ends all the same. */
static int take_signal(void)
{
    for (int number = SIGRTMIN + 1; number <= SIGRTMAX; number++) {
        struct sigaction action = {.sa_handler = nothing, .sa_flags = SA_RESTART}, old;

        if (sigaction(number, NULL, &old) == 0 && !(old.sa_flags & SA_SIGINFO) && old.sa_handler == SIG_DFL &&
            sigaction(number, &action, NULL) == 0)
            return number;
    }
    return -EBUSY;
}

int pv_kick_signal(void)
{
    if (kick_signal == 0) {
        int number = take_signal();

        if (number < 0)
            return number;
        kick_signal = number;
    }
    return kick_signal;
}

/*
 * immediate_exit catches a thread that is about to enter, the signal one that is inside. The lock keeps the thread from ending in between:
 * a signal for one that is gone is undefined.
 */
void pv_vcpu_stop(struct pv_vcpu *v)
{
    pthread_mutex_lock(&v->machine->lock);
    __atomic_store_n(&v->stopped, true, __ATOMIC_RELEASE);
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_RELEASE);
    if (v->inside)
        pthread_kill(v->thread, kick_signal);
    pthread_mutex_unlock(&v->machine->lock);
}

void pv_vcpu_allow(struct pv_vcpu *v)
{
    __atomic_store_n(&v->run->immediate_exit, 0, __ATOMIC_RELEASE);
    __atomic_store_n(&v->stopped, false, __ATOMIC_RELEASE);
}

int64_t pv_ioctl(int fd, uint64_t request, void *argument)
{
    int rc = ioctl(fd, request, argument);

    return rc < 0 ? -errno : rc;
}

int64_t pv_ioctl_number(int fd, uint64_t request, uint64_t argument)
{
    int rc = ioctl(fd, request, argument);

    return rc < 0 ? -errno : rc;
}
