/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The payload: a bare-metal guest that drives one virtio-mmio device and says how it went.
 *
 * It has no libc and no operating system. The machine puts a boot page before it (doorbells/guest/doorbell.h) and identity maps its
 * memory, so that guest-physical addresses are pointers. The device is not trusted: whatever it answers, the payload ends with a line
 * that names what was wrong.
 */
#ifndef PV_PAYLOAD_H
#define PV_PAYLOAD_H

#include "doorbell.h"
#include "machine.h"
#include "ring.h"

/* What ends a program; also the exit code of the guest. */
enum pv_result {
    PV_OK = 0,
    PV_BAD_ARGUMENT = 1, /* the host asked for what cannot be */
    PV_REFUSED = 2,      /* no agreement with the device */
    PV_BROKEN = 3,       /* the device broke the ring's rules */
    PV_WRONG = 4,        /* it answered with other data or an error */
    PV_SILENT = 5,       /* it did not answer in time */
    PV_NO_MEMORY = 6,    /* the pool is too small for what was asked */
};

enum pv_program { PV_ECHO = 1, PV_BLOCK = 2, PV_KICK = 3, PV_IDLE = 4, PV_LOAD = 5 };

/* Where each stands in the boot page's arguments; the Python side has the same list (_task.py). */
enum pv_argument {
    PV_ARG_PROGRAM = 0,
    PV_ARG_DEPTH = 1,      /* requests in flight on a queue */
    PV_ARG_COUNT = 2,      /* requests, kicks or interrupts in all; 0: until PV_ARG_STOP */
    PV_ARG_INTERRUPT = 3,  /* 1: sleep until an interrupt; 0: look again and again */
    PV_ARG_SIZE = 4,       /* bytes a request */
    PV_ARG_QUEUES = 5,     /* queues in use, from 0 on */
    PV_ARG_SEED = 6,       /* of the pattern */
    PV_ARG_PATIENCE = 7,   /* cycles with no answer until the device counts as silent; 0: for ever */
    PV_ARG_OPERATIONS = 8, /* block: enum pv_operation; 0: all */
    PV_ARG_FEATURES = 9,   /* those that the driver may take */
    PV_ARG_STAMP = 14,     /* set by the guest: its time stamp counter when it last published, before a kick */
    PV_ARG_STOP = 15,      /* set by the host at any time: end after what is in flight */
};

enum pv_operation { PV_WRITE = 1, PV_FLUSH = 2, PV_READ = 4 };

#define PV_QUEUES_MAX 8u
#define PV_QUEUE_ENTRIES 256u /* of one ring at most: more are never in flight at the depths that tell anything */

struct pv_queue {
    struct pv_driver_ring ring;
    struct pv_driver_slot *slots;
    uint32_t index;
    uint32_t depth;
    uint32_t kicks;
    uint16_t disarmed_at; /* ring.last_used when calls were last turned off */
};

/* The buffers of a queue's requests: one part that the device reads, one that it writes. */
struct pv_flight {
    uint8_t *out, *in;
    uint32_t out_size, in_size;
    uint64_t *numbers; /* of the request, by buffer */
    uint64_t *stamps;  /* when it was published, in cycles */
    uint16_t *free;    /* a stack of buffers */
    uint16_t *of_head; /* which buffer the chain at a head has */
    uint32_t free_count;
};

struct pv_guest {
    struct pv_boot_page *boot;
    uint64_t arguments[16]; /* as they were at the start */
    uint64_t pool, pool_end;
    struct pv_region region;
    struct pv_memory memory;
    const char *reason; /* of a failure, in a word */
    uint64_t detail;    /* a number that goes with it */
    uint64_t features;  /* agreed on with the device */
    struct pv_queue queues[PV_QUEUES_MAX];
    uint32_t queue_count;
    uint32_t *samples;
    uint32_t sample_count, sample_max;
    uint64_t explained; /* interrupts that came for something we know */
    uint64_t answered;  /* when the device last answered, in cycles */
};

/* main.c: run what the boot page asks for; the exit code. */
uint32_t pv_main(struct pv_boot_page *boot);
bool pv_stopped(const struct pv_guest *g);

/* Keep the first reason of a failure; returns the result. */
static inline enum pv_result pv_fail(struct pv_guest *g, enum pv_result result, const char *reason, uint64_t detail)
{
    if (!g->reason) {
        g->reason = reason;
        g->detail = detail;
    }
    return result;
}

/* The programs: each ends with what it found, and has printed its own figures if all went well. */
enum pv_result pv_echo(struct pv_guest *g);
enum pv_result pv_load(struct pv_guest *g);
enum pv_result pv_block(struct pv_guest *g);
enum pv_result pv_kick(struct pv_guest *g);
enum pv_result pv_idle(struct pv_guest *g);

/* console.c: words for a line of `name=value`. */
void pv_put(const struct pv_guest *g, const char *text);
void pv_put_number(const struct pv_guest *g, const char *name, uint64_t value);
void pv_put_word(const struct pv_guest *g, const char *name, const char *word);

/* pool.c: zeroed memory for rings and buffers; NULL when there is no more. */
void *pv_take(struct pv_guest *g, uint64_t size, uint64_t align);
void pv_fill(void *at, uint64_t size);

/* virtio_mmio.c: agree with the device (type 0: any) on features out of `wanted`, and start `queues` queues. */
enum pv_result pv_negotiate(struct pv_guest *g, uint32_t device_type, uint64_t wanted);
enum pv_result pv_start_queue(struct pv_guest *g, uint32_t index);
void pv_drive(const struct pv_guest *g);
void pv_reset(const struct pv_guest *g);
uint64_t pv_config64(const struct pv_guest *g, uint32_t offset);
uint32_t pv_device_status(const struct pv_guest *g);

/* queue.c: publish, wait and reap with the doorbell and the way of waiting that the boot page names. */
void pv_publish(struct pv_guest *g, struct pv_queue *q);
/* Up to `max` finished chains of the queue into `done`; how many, or -enum pv_result. */
int pv_reap(struct pv_guest *g, struct pv_queue *q, struct pv_used_elem *done, uint32_t max);
/* Wait until any queue has an answer. */
enum pv_result pv_wait(struct pv_guest *g);
void pv_follow(struct pv_guest *g); /* acknowledge doorbells that the host has changed */
uint64_t pv_kicks(const struct pv_guest *g);
const char *pv_cause(int error);

/* flight.c: buffers for `depth` requests of a queue; take one, send it, and find it again by the head that came back. */
enum pv_result pv_flight_start(struct pv_guest *g, struct pv_flight *f, const struct pv_queue *q, uint32_t out_size, uint32_t in_size);
int pv_flight_take(const struct pv_flight *f); /* a free buffer, or -1; it stays free until it is sent */
/* The buffer's parts as a chain of `count` segments, added but not yet published; false when the ring is full. */
bool pv_flight_send(struct pv_flight *f, struct pv_queue *q, uint64_t number, const struct pv_segment *segments, uint32_t count);
uint32_t pv_flight_back(struct pv_guest *g, struct pv_flight *f, uint32_t head); /* the buffer; samples its time */

/* samples.c: times of single events, in cycles. */
enum pv_result pv_samples_start(struct pv_guest *g, uint64_t count);
void pv_sample(struct pv_guest *g, uint64_t cycles);
void pv_put_samples(struct pv_guest *g);

/* pattern.c: bytes that tell by whom and for what they were written. */
void pv_pattern_write(void *at, uint32_t size, uint64_t seed, uint64_t number);
bool pv_pattern_same(const void *at, uint32_t size, uint64_t seed, uint64_t number);

#endif
