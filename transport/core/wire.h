/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The split virtqueue as bytes (virtio 1.4, 2.7), and the ways a peer can break it.
 *
 * A virtqueue of N descriptors, N a power of two up to 32768, is three areas that driver and device share:
 *
 *     descriptor table   N x 16 bytes, aligned 16     written by the driver
 *     driver ring        6 + 2 N bytes, aligned 2     flags, idx, ring[N] of heads, used_event      ("available")
 *     device ring        6 + 8 N bytes, aligned 4     flags, idx, ring[N] of {id, len}, avail_event ("used")
 *
 * Everything is little-endian.
 */
#ifndef PV_WIRE_H
#define PV_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PV_QUEUE_SIZE_MAX 32768u /* 2.7: the largest size, since indices are 16 bits and count modulo 2^16 */

enum pv_desc_flags { PV_DESC_NEXT = 1, PV_DESC_WRITE = 2, PV_DESC_INDIRECT = 4 };

#define PV_AVAIL_NO_INTERRUPT 1u /* 2.7.7: the driver asks for no call; ignored with EVENT_IDX */
#define PV_USED_NO_NOTIFY 1u     /* 2.7.10: the device asks for no kick; ignored with EVENT_IDX */

struct pv_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t next;
};

struct pv_used_elem {
    uint32_t id;
    uint32_t len;
};

/* Offsets, in 16-bit words, inside the driver and the device ring. */
#define PV_RING_FLAGS 0u
#define PV_RING_IDX 1u
#define PV_RING_ENTRIES 2u

/*
 * What went wrong, by the lie that was told. Functions return these negated. The Python side has the same list with the clause and a
 * sentence for each, and refuses to load if the two differ.
 */
enum pv_error {
    PV_E_AVAIL_INDEX = 1,        /* available index further ahead than the queue is long */
    PV_E_HEAD_RANGE,             /* head not below the queue size */
    PV_E_HEAD_IN_FLIGHT,         /* head of a chain that the device still has */
    PV_E_NEXT_RANGE,             /* next not below the size of its table */
    PV_E_CHAIN_LENGTH,           /* more descriptors than the table has: a loop */
    PV_E_INDIRECT_UNNEGOTIATED,  /* INDIRECT without the feature */
    PV_E_INDIRECT_NESTED,        /* INDIRECT inside a table */
    PV_E_INDIRECT_NEXT,          /* INDIRECT and NEXT together */
    PV_E_INDIRECT_LENGTH,        /* table length zero or no multiple of 16 */
    PV_E_INDIRECT_SIZE,          /* table longer than policy allows */
    PV_E_ADDRESS,                /* bytes outside guest memory */
    PV_E_TOTAL_LENGTH,           /* 2^32 bytes or more in one chain */
    PV_E_ORDER,                  /* readable descriptor after a writable one */
    PV_E_USED_INDEX,             /* used index further ahead than there are requests */
    PV_E_USED_ID,                /* used id that is no head in flight */
    PV_E_GONE,                   /* guest memory truncated under us */
    PV_E_BROKEN,                 /* the queue broke earlier */
    PV_E_FULL,                   /* no free descriptors */
    PV_E_ARGUMENT,               /* the caller's mistake */
    PV_E_STALE,                  /* token already used, or from before a reset */
    PV_E_COUNT,
};

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define pv_le16(x) ((uint16_t)(x))
#define pv_le32(x) ((uint32_t)(x))
#define pv_le64(x) ((uint64_t)(x))
#else
#define pv_le16(x) __builtin_bswap16(x)
#define pv_le32(x) __builtin_bswap32(x)
#define pv_le64(x) __builtin_bswap64(x)
#endif

#endif
