/* SPDX-License-Identifier: Apache-2.0 */
/* Which exits ring which doorbells, the registers that came with them, and the console. */
#include "machine.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int pv_machine_init(struct pv_machine *m)
{
    return -pthread_mutex_init(&m->lock, NULL);
}

/* Two that differ only in their eventfd stand side by side while one doorbell takes over from another that is rung alike. */
static bool same(const struct pv_route *one, const struct pv_route *other)
{
    return one->kind == other->kind && one->address == other->address && one->width == other->width && one->any == other->any &&
           one->fd == other->fd && (one->any || one->value == other->value);
}

int pv_route(struct pv_machine *m, const struct pv_route *route)
{
    int rc = -ENOSPC;

    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < m->route_count; i++) {
        if (same(&m->routes[i], route)) {
            rc = -EEXIST;
            goto out;
        }
    }
    if (m->route_count < PV_ROUTES) {
        m->routes[m->route_count++] = *route;
        rc = 0;
    }
out:
    pthread_mutex_unlock(&m->lock);
    return rc;
}

int pv_unroute(struct pv_machine *m, const struct pv_route *route)
{
    int rc = -ENOENT;

    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < m->route_count; i++) {
        if (same(&m->routes[i], route)) {
            m->routes[i] = m->routes[--m->route_count];
            rc = 0;
            break;
        }
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

/* A full counter, or one that a peer made blocking and full, is rung already: the descriptor is ours and non-blocking. */
static void ring(int fd)
{
    uint64_t one = 1;

    while (write(fd, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

bool pv_kick_routed(struct pv_machine *m, uint32_t kind, uint64_t address, uint32_t width, uint64_t value)
{
    bool found = false;

    pthread_mutex_lock(&m->lock);
    for (uint32_t i = 0; i < m->route_count; i++) {
        const struct pv_route *r = &m->routes[i];

        if (r->kind == kind && r->address == address && r->width == width && (r->any || r->value == value)) {
            ring(r->fd);
            found = true;
        }
    }
    m->counts.kicks += found;
    pthread_mutex_unlock(&m->lock);
    return found;
}

void pv_note_kick(struct pv_machine *m, const struct pv_note *note)
{
    pthread_mutex_lock(&m->lock);
    m->notes[m->noted++ % PV_NOTES] = *note;
    pthread_mutex_unlock(&m->lock);
}

void pv_stray(struct pv_machine *m)
{
    pthread_mutex_lock(&m->lock);
    m->counts.stray++;
    pthread_mutex_unlock(&m->lock);
}

void pv_console_put(struct pv_machine *m, char byte)
{
    pthread_mutex_lock(&m->lock);
    if (m->console_used < PV_CONSOLE_SIZE)
        m->console[m->console_used++] = byte;
    else
        m->counts.console_lost++;
    if (byte == '\n' || m->console_used == PV_CONSOLE_SIZE / 2)
        ring(m->console_event);
    pthread_mutex_unlock(&m->lock);
}

uint32_t pv_console_take(struct pv_machine *m, char *to, uint32_t size)
{
    uint32_t count;

    pthread_mutex_lock(&m->lock);
    count = size < m->console_used ? size : m->console_used;
    memcpy(to, m->console, count);
    memmove(m->console, m->console + count, m->console_used - count);
    m->console_used -= count;
    pthread_mutex_unlock(&m->lock);
    return count;
}
