/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include <errno.h>
#include <sys/uio.h>

#include "cycle.h"
#include "log.h"

/* Ranges handed to the kernel at once: 1 KiB of stack, and a 256 KiB request of 4 KiB pages in one call. */
#define RANGES 64

struct part {
    struct pv_device_ring *r;
    uint32_t nodes; /* left, `node` being the next */
    uint16_t node;
    uint32_t offset; /* into the next */
};

static struct part find_part(struct pv_device_ring *r, const struct pv_slot *slot, bool writable, uint32_t offset)
{
    struct part part = {r, writable ? slot->writable_nodes : slot->readable_nodes, slot->first, offset};

    for (uint32_t skip = writable ? slot->readable_nodes : 0; skip; skip--)
        part.node = r->nodes[part.node].next;
    return part;
}

/* Fill `ranges` with the next up to `len` bytes of the part. Returns how many, or -PV_E_ADDRESS. */
static int next_ranges(struct part *part, struct iovec *ranges, uint32_t len)
{
    int count = 0;

    while (part->nodes && len && count < RANGES) {
        const struct pv_node *n = &part->r->nodes[part->node];
        uint32_t hint = n->region;

        if (part->offset >= n->len) {
            part->offset -= n->len;
            part->node = n->next;
            part->nodes--;
            continue;
        }
        uint8_t *host;
        uint64_t span = pv_memory_span(part->r->memory, n->addr + part->offset, &hint, &host);
        uint32_t left = n->len - part->offset < len ? n->len - part->offset : len;
        if (span == 0)
            return -PV_E_ADDRESS;
        if (span < left)
            left = (uint32_t)span;
        ranges[count++] = (struct iovec){host, left};
        part->offset += left;
        len -= left;
    }
    return count;
}

static uint32_t total(const struct iovec *ranges, int count)
{
    size_t bytes = 0;

    for (int i = 0; i < count; i++)
        bytes += ranges[i].iov_len;
    return (uint32_t)bytes;
}

static int64_t move(struct pv_device_ring *r, const struct pv_slot *slot, uint32_t offset, int fd, int64_t position, uint32_t len, int flags,
                    bool in)
{
    struct iovec ranges[RANGES];
    uint32_t moved = 0;

    if (!slot)
        return -PV_E_STALE;
    if (position < 0)
        return -PV_E_ARGUMENT; /* -1 would stand for the file's own position */
    struct part part = find_part(r, slot, in, offset);
    while (moved < len) {
        int count = next_ranges(&part, ranges, len - moved);
        if (count <= 0)
            return count ? (int64_t)count : (int64_t)moved;
        ssize_t n = in ? preadv2(fd, ranges, count, position + moved, flags) : pwritev2(fd, ranges, count, position + moved, flags);
        if (n < 0)
            return moved ? (int64_t)moved : -PV_E_COUNT - errno;
        moved += (uint32_t)n;
        if ((uint32_t)n < total(ranges, count))
            break; /* end of file, or the kernel moved what it could without waiting */
    }
    return moved;
}

int64_t pv_host_read_file(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags)
{
    struct pv_slot *slot = pv_device_slot(r, token);
    int64_t count = move(r, slot, offset, fd, position, len, flags, true);
    int logged = r->log && count > 0 ? pv_log_chain(r, slot, offset, (uint32_t)count) : 0;

    if (count > 0)
        pv_slot_wrote(slot, offset, (uint32_t)count);
    return logged < 0 ? logged : count;
}

int64_t pv_host_write_file(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags)
{
    return move(r, pv_device_slot(r, token), offset, fd, position, len, flags, false);
}

/* Place the `size` bytes that end the reply, if all that was asked for came. */
static int64_t end_reply(struct pv_device_ring *r, uint64_t token, int64_t count, uint32_t len, const void *last, uint32_t size)
{
    const struct pv_slot *slot = pv_device_slot(r, token);

    if (count < 0 || count < len || !slot || slot->writable < size)
        return count;
    int64_t placed = pv_host_write(r, token, slot->writable - size, last, size);
    return placed < 0 ? placed : count;
}

int64_t pv_host_read_whole(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags,
                           const void *last, uint32_t size)
{
    return end_reply(r, token, pv_host_read_file(r, token, offset, fd, position, len, flags), len, last, size);
}

int64_t pv_host_write_whole(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags,
                            const void *last, uint32_t size)
{
    return end_reply(r, token, pv_host_write_file(r, token, offset, fd, position, len, flags), len, last, size);
}
