/* SPDX-License-Identifier: Apache-2.0 */
/* One vCPU in KVM_RUN: what its exits mean. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "machine.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>

#define KVM_ENOSYS 1000 /* linux/kvm_para.h: what an unknown hypercall returns */
#define MAP_GPA_RANGE 12
#define VMPORT 0x5658 /* VMware's backdoor */
#define VMPORT_MAGIC 0x564d5868u

static uint64_t load(const void *from, uint32_t width)
{
    uint64_t value = 0;

    memcpy(&value, from, width < sizeof value ? width : sizeof value); /* x86 and the others that KVM has here are little-endian */
    return value;
}

/* --- a port ------------------------------------------------------------------------------------------------------------------------ */

#if defined(__x86_64__)
static bool vmport(struct pv_vcpu *v, uint8_t *answer)
{
    struct kvm_regs regs;
    struct pv_note note = {.kind = PV_ROUTE_VMPORT, .width = 4};

    if (ioctl(v->fd, KVM_GET_REGS, &regs) < 0 || (uint32_t)regs.rax != VMPORT_MAGIC)
        return false;
    note.address = (uint32_t)regs.rcx;
    note.value = (uint32_t)regs.rbx;
    note.rsi = regs.rsi;
    note.rdi = regs.rdi;
    if (!pv_kick_routed(v->machine, note.kind, note.address, note.width, note.value))
        return false;
    pv_note_kick(v->machine, &note);
    memset(answer, 0, 4); /* EAX 0: heard */
    return true;
}
#else
static bool vmport(struct pv_vcpu *v, uint8_t *answer)
{
    (void)v;
    (void)answer;
    return false;
}
#endif

static void port_in(struct pv_vcpu *v, uint8_t *data, uint32_t size)
{
    if (v->run->io.port == VMPORT && size == 4 && v->run->io.count == 1 && vmport(v, data))
        return;
    memset(data, 0xff, (size_t)size * v->run->io.count); /* a bus with nobody on it */
    pv_stray(v->machine);
}

static void port_out(struct pv_vcpu *v, const uint8_t *data, uint32_t size)
{
    for (uint32_t i = 0; i < v->run->io.count; i++, data += size) {
        if (v->run->io.port == PV_CONSOLE_PORT && size == 1)
            pv_console_put(v->machine, (char)*data);
        else if (!pv_kick_routed(v->machine, PV_ROUTE_PIO, v->run->io.port, size, load(data, size)))
            pv_stray(v->machine);
    }
}

static int port(struct pv_vcpu *v)
{
    uint8_t *data = (uint8_t *)v->run + v->run->io.data_offset;

    if (v->run->io.direction == KVM_EXIT_IO_IN)
        port_in(v, data, v->run->io.size);
    else
        port_out(v, data, v->run->io.size);
    return 0;
}

/* --- memory that is none ----------------------------------------------------------------------------------------------------------- */

static bool within(uint64_t address, uint64_t base, uint64_t size)
{
    return address - base < size;
}

static int store_outside_blocks(struct pv_vcpu *v)
{
    switch (v->address) {
    case PV_CONSOLE: pv_console_put(v->machine, (char)v->data); return 0;
    case PV_EXIT: v->data = (uint32_t)v->data; return PV_LEFT_CODE;
    case PV_FAULT: return PV_LEFT_FAULT;
    default: pv_stray(v->machine); return 0;
    }
}

static int memory(struct pv_vcpu *v)
{
    struct kvm_run *run = v->run;

    v->address = run->mmio.phys_addr;
    v->width = run->mmio.len;
    v->write = run->mmio.is_write;
    v->data = v->write ? load(run->mmio.data, v->width) : 0;
    if (v->write && pv_kick_routed(v->machine, PV_ROUTE_MMIO, v->address, v->width, v->data))
        return 0;
    if (within(v->address, PV_BLOCK, PV_DEVICES * PV_WINDOW))
        return PV_LEFT_ACCESS;
    if (!within(v->address, PV_BLOCK, PV_DEVICES_END - PV_BLOCK))
        return PV_LEFT_OUTSIDE;
    if (v->write)
        return store_outside_blocks(v);
    memset(run->mmio.data, 0, sizeof run->mmio.data);
    pv_stray(v->machine);
    return 0;
}

/* --- the others -------------------------------------------------------------------------------------------------------------------- */

#if defined(__x86_64__)
static int hypercall(struct pv_vcpu *v)
{
    const __u64 *args = v->run->hypercall.args;
    struct pv_note note = {.kind = PV_ROUTE_MAP_GPA, .address = args[0], .value = args[1]};
    bool heard = v->run->hypercall.nr == MAP_GPA_RANGE && pv_kick_routed(v->machine, note.kind, note.address, 0, note.value);

    if (heard)
        pv_note_kick(v->machine, &note);
    else
        pv_stray(v->machine);
    v->run->hypercall.ret = heard ? 0 : (uint64_t)-KVM_ENOSYS;
    return 0;
}
#else
static int hypercall(struct pv_vcpu *v)
{
    v->data = v->run->exit_reason;
    return PV_LEFT_UNKNOWN;
}
#endif

/* 0: enter again. */
static int left(struct pv_vcpu *v)
{
    v->address = v->data = 0;
    switch (v->run->exit_reason) {
    case KVM_EXIT_IO: return port(v);
    case KVM_EXIT_MMIO: return memory(v);
    case KVM_EXIT_HYPERCALL: return hypercall(v);
    case KVM_EXIT_SHUTDOWN: return PV_LEFT_SHUTDOWN;
    case KVM_EXIT_INTERNAL_ERROR: v->address = v->run->internal.suberror; break;
    case KVM_EXIT_FAIL_ENTRY: v->address = v->run->fail_entry.hardware_entry_failure_reason; break;
    default: break;
    }
    v->data = v->run->exit_reason;
    return PV_LEFT_UNKNOWN;
}

static void come_in(struct pv_vcpu *v)
{
    sigset_t kick;

    sigemptyset(&kick);
    sigaddset(&kick, pv_kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &kick, NULL); /* whatever the program that started this thread had blocked */
    pthread_mutex_lock(&v->machine->lock);
    v->thread = pthread_self();
    v->inside = true;
    pthread_mutex_unlock(&v->machine->lock);
}

static void go_out(struct pv_vcpu *v)
{
    pthread_mutex_lock(&v->machine->lock);
    v->inside = false;
    pthread_mutex_unlock(&v->machine->lock);
}

/*
 * A stop is taken only when KVM_RUN itself says so: it has then completed the access before, and the registers are whole (KVM's api.rst).
 */
int pv_vcpu_enter(struct pv_vcpu *v)
{
    int rc = 0;

    if (v->run->exit_reason == KVM_EXIT_MMIO && !v->write)
        memcpy(v->run->mmio.data, &v->data, sizeof v->data);
    come_in(v);
    while (rc == 0) {
        __atomic_fetch_add(&v->entries, 1, __ATOMIC_RELAXED);
        if (ioctl(v->fd, KVM_RUN, 0) == 0) {
            __atomic_fetch_add(&v->machine->counts.exits, 1, __ATOMIC_RELAXED);
            rc = left(v);
        } else if (errno != EINTR && errno != EAGAIN) {
            rc = -errno;
        } else if (__atomic_load_n(&v->stopped, __ATOMIC_ACQUIRE)) {
            rc = PV_LEFT_STOPPED;
        }
    }
    go_out(v);
    return rc;
}
