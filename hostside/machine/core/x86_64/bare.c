/* SPDX-License-Identifier: Apache-2.0 */
/* A VM that does nothing but kick, by the same ioctls and instructions as the machine, and with none of its parts. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "bare.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

extern const char pv_bare_pio[], pv_bare_mmio[], pv_bare_end[];

#define SIZE 0x200000u /* one large page */
#define TABLES 0x1000u /* PML4, PDPT, the directories of the first and the fourth GiB */
#define TASK 0x6000u   /* 104 bytes, 8 KiB of zeroes: the bitmap that permits each port, and a byte of ones */
#define TASK_LIMIT (104u + 8192u)
#define CODE 0x9000u
#define SAMPLES 0x100000u
#define PORT 0xc000u /* where the machine has its doorbells */
#define ADDRESS 0xd0100000u
#define MAPPED 7u /* present, writable, ring 3 */
#define LARGE 0x80u

_Static_assert(SAMPLES + PV_BARE_MOST * 4u <= SIZE, "samples");

struct bare {
    int vm, vcpu, event;
    uint8_t *memory;
    struct kvm_run *run;
    size_t run_size;
};

static void *map(size_t size, int flags, int fd)
{
    void *at = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, fd, 0);

    return at == MAP_FAILED ? NULL : at;
}

static void fill(uint8_t *memory)
{
    uint64_t *table = (uint64_t *)(memory + TABLES);

    table[0] = (TABLES + 0x1000) | MAPPED;
    table[512] = (TABLES + 0x2000) | MAPPED;
    table[512 + 3] = (TABLES + 0x3000) | MAPPED;
    table[1024] = LARGE | MAPPED;
    table[1536 + (ADDRESS >> 21) % 512] = (ADDRESS & ~(SIZE - 1)) | LARGE | MAPPED;
    memory[TASK + 102] = 104; /* where the bitmap starts (SDM volume 3, 8.7) */
    memory[TASK + TASK_LIMIT] = 0xff;
    memcpy(memory + CODE, pv_bare_pio, (size_t)(pv_bare_end - pv_bare_pio));
    memset(memory + SAMPLES, 1, PV_BARE_MOST * 4u); /* so that no page of it is touched for the first time between two kicks */
}

static int open_vm(struct bare *b, int kvm)
{
    int size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);

    b->event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    b->vm = ioctl(kvm, KVM_CREATE_VM, 0);
    b->memory = map(SIZE, MAP_SHARED | MAP_ANONYMOUS, -1);
    if (size < 0 || b->event < 0 || b->vm < 0 || !b->memory)
        return -1;
    fill(b->memory);
    struct kvm_userspace_memory_region slot = {.memory_size = SIZE, .userspace_addr = (uintptr_t)b->memory};
    if (ioctl(b->vm, KVM_SET_TSS_ADDR, 0xfffbd000ul) < 0 || ioctl(b->vm, KVM_CREATE_IRQCHIP, 0) < 0 ||
        ioctl(b->vm, KVM_SET_USER_MEMORY_REGION, &slot) < 0 || (b->vcpu = ioctl(b->vm, KVM_CREATE_VCPU, 0)) < 0)
        return -1;
    b->run_size = (size_t)size;
    b->run = map(b->run_size, MAP_SHARED, b->vcpu);
    return b->run ? 0 : -1;
}

static int set_registers(const struct bare *b, bool store, uint32_t count)
{
    struct kvm_segment code = {.limit = ~0u, .selector = 0x1b, .type = 11, .present = 1, .dpl = 3, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {.limit = ~0u, .selector = 0x23, .type = 3, .present = 1, .dpl = 3, .db = 1, .s = 1, .g = 1};
    struct kvm_regs regs = {.rdi = SAMPLES, .rcx = count, .rsi = store ? ADDRESS : PORT, .rflags = 2, .rip = CODE};
    struct kvm_sregs sregs;

    if (ioctl(b->vcpu, KVM_GET_SREGS, &sregs) < 0)
        return -1;
    sregs.cs = code;
    sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
    sregs.tr = (struct kvm_segment){.base = TASK, .limit = TASK_LIMIT, .selector = 0x28, .type = 11, .present = 1};
    sregs.cr3 = TABLES;
    sregs.cr4 = 0x20;       /* PAE */
    sregs.cr0 = 0x80050033; /* PG AM WP NE ET MP PE */
    sregs.efer = 0x500;     /* LMA LME */
    regs.rip += store ? (uint64_t)(pv_bare_mmio - pv_bare_pio) : 0;
    return ioctl(b->vcpu, KVM_SET_SREGS, &sregs) < 0 || ioctl(b->vcpu, KVM_SET_REGS, &regs) < 0 ? -1 : 0;
}

/* Ring the eventfd for each exit, as a user of exits would. */
static int run(const struct bare *b)
{
    const uint64_t one = 1;

    for (;;) {
        if (ioctl(b->vcpu, KVM_RUN, 0) < 0) {
            if (errno != EINTR && errno != EAGAIN)
                return -1;
        } else if (b->run->exit_reason == KVM_EXIT_IO && b->run->io.port == PV_BARE_END) {
            return 0;
        } else if (b->run->exit_reason != KVM_EXIT_IO && b->run->exit_reason != KVM_EXIT_MMIO) {
            errno = EPROTO;
            return -1;
        } else if (write(b->event, &one, sizeof one) < 0) {
            return -1;
        }
    }
}

static int measure(struct bare *b, int kvm, enum pv_bare kind, uint32_t count)
{
    bool store = kind == PV_BARE_MMIO || kind == PV_BARE_MMIO_EXIT;
    struct kvm_ioeventfd bell = {.addr = store ? ADDRESS : PORT, .len = store ? 4 : 2};

    if (open_vm(b, kvm) < 0 || set_registers(b, store, count) < 0)
        return -1;
    bell.fd = b->event;
    bell.flags = store ? 0 : KVM_IOEVENTFD_FLAG_PIO;
    if ((kind == PV_BARE_PIO || kind == PV_BARE_MMIO) && ioctl(b->vm, KVM_IOEVENTFD, &bell) < 0)
        return -1;
    return run(b);
}

int pv_bare_kicks(int kvm, enum pv_bare kind, uint32_t *cycles, uint32_t count)
{
    struct bare b = {.vm = -1, .vcpu = -1, .event = -1};

    if (!count || count > PV_BARE_MOST)
        return -EINVAL;
    int rc = measure(&b, kvm, kind, count) < 0 ? -errno : 0;
    if (rc == 0)
        memcpy(cycles, b.memory + SAMPLES, count * sizeof *cycles);
    if (b.run)
        munmap(b.run, b.run_size);
    if (b.memory)
        munmap(b.memory, SIZE);
    for (int i = 0, fds[] = {b.vcpu, b.vm, b.event}; i < 3; i++)
        if (fds[i] >= 0)
            close(fds[i]);
    return rc;
}
