/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the vCPU threads of one machine do without the interpreter lock: run the guest, and turn its kicks into eventfd writes.
 *
 * Python makes the file descriptors and sets up the guest; a thread of its own calls pv_vcpu_enter for each vCPU, over and over.
 */
#ifndef PV_MACHINE_H
#define PV_MACHINE_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "layout.h"

#define PV_ROUTES 512     /* more than queues fit into a boot page (64), twice each while a doorbell is swapped */
#define PV_NOTES 64       /* the latest; they are a demonstration, not a channel */
#define PV_CONSOLE_SIZE 65536 /* what nobody reads is dropped behind this, and counted */

/* As enum pv_bell_kind in doorbells/guest/doorbell.h. */
enum pv_route_kind { PV_ROUTE_PIO = 1, PV_ROUTE_MMIO = 2, PV_ROUTE_MAP_GPA = 5, PV_ROUTE_VMPORT = 6 };

/* Exits of one sort that ring a doorbell. */
struct pv_route {
    uint64_t address, value;
    uint32_t kind, width;
    int32_t fd;
    uint32_t any; /* whatever the value */
};

/* The registers that came with a notification. */
struct pv_note {
    uint32_t kind, width;
    uint64_t address, value;
    uint64_t rsi, rdi;
};

/* What the guest did that nobody routed. */
struct pv_counts {
    uint64_t exits;     /* to user space, all of them */
    uint64_t kicks;     /* that a route turned into an eventfd write */
    uint64_t stray;     /* kicks that no queue listens to, and ports that nothing is behind */
    uint64_t console_lost;
};

struct pv_machine {
    pthread_mutex_t lock; /* of all here: held for a look-up and an eventfd write, or a byte */
    struct pv_route routes[PV_ROUTES];
    uint32_t route_count;
    struct pv_note notes[PV_NOTES];
    uint64_t noted;
    char console[PV_CONSOLE_SIZE];
    uint32_t console_used;
    int32_t console_event; /* an eventfd: a line ended, or the buffer is half full */
    struct pv_counts counts;
};

/* Why pv_vcpu_enter returned. */
enum pv_left {
    PV_LEFT_STOPPED = 1, /* pv_vcpu_stop */
    PV_LEFT_ACCESS,      /* the guest touched a register block: answer in `data`, enter again */
    PV_LEFT_OUTSIDE,     /* the guest touched nothing at all */
    PV_LEFT_CODE,        /* the guest ends, `data` is its code */
    PV_LEFT_FAULT,       /* a fault stub reports, `data` is the address of its record */
    PV_LEFT_SHUTDOWN,    /* a triple fault */
    PV_LEFT_UNKNOWN,     /* `data` is KVM's exit reason, `address` what it says besides */
};

struct pv_vcpu {
    struct pv_machine *machine;
    struct kvm_run *run;
    int32_t fd;
    uint32_t width; /* of the access */
    uint64_t address, data;
    bool write;
    bool inside;  /* a thread is in pv_vcpu_enter */
    bool stopped; /* it must not go on */
    pthread_t thread;
    uint64_t entries; /* of the guest, so that a watchdog sees it move */
};

int pv_machine_init(struct pv_machine *m);

/* Routes: 0, or -ENOSPC. After pv_unroute the descriptor is not written any more; -ENOENT if there was no such route. */
int pv_route(struct pv_machine *m, const struct pv_route *route);
int pv_unroute(struct pv_machine *m, const struct pv_route *route);

/* Ring whoever listens to this kick; false if nobody does. */
bool pv_kick_routed(struct pv_machine *m, uint32_t kind, uint64_t address, uint32_t width, uint64_t value);
void pv_note_kick(struct pv_machine *m, const struct pv_note *note);
void pv_stray(struct pv_machine *m);

/* Take up to `size` bytes that the guest printed. */
void pv_console_put(struct pv_machine *m, char byte);
uint32_t pv_console_take(struct pv_machine *m, char *to, uint32_t size);

/*
 * Run the guest until something has to be done in Python; one of enum pv_left, or -errno of KVM_RUN. The answer to a read is taken from
 * `data` on the next entry.
 */
int pv_vcpu_enter(struct pv_vcpu *v);

/* Make the thread leave the guest, wherever it is now, and not enter it again before pv_vcpu_allow. From any thread. */
void pv_vcpu_stop(struct pv_vcpu *v);
void pv_vcpu_allow(struct pv_vcpu *v);

/*
 * The signal that gets a thread out of KVM_RUN. Its handler is in C and does nothing, so Python and trio never hear of it. Takes the first
 * real-time signal that nobody uses, and returns its number or -EBUSY; the same one on each later call.
 */
int pv_kick_signal(void);

/* ioctl with an argument that is an address or a number: the result, or -errno. */
int64_t pv_ioctl(int fd, uint64_t request, void *argument);
int64_t pv_ioctl_number(int fd, uint64_t request, uint64_t argument);

#endif
