/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guard against memory that vanishes.
 *
 * A peer that shares a file which it may shrink can take away pages that are mapped here, and touching one raises SIGBUS. Inside
 * pv_guarded this ends the guarded function instead of the process. A guard is entered without a system call and costs some 10 ns.
 *
 * The function is left in the middle of anything: it must hold no lock, own nothing that has to be given back, not be or call Python, and
 * what it changed in private memory may be half changed. Guards nest; the one whose memory vanished is left, with all inside it. One copy
 * of this file serves a process: other extensions get pv_guarded as a pointer.
 */
#ifndef PV_GUARD_H
#define PV_GUARD_H

#include "memory.h"

/*
 * Make sure that the handler is in place, in front of whatever handler is there now: others (Python's faulthandler, a sanitizer) may have
 * taken its place. Called whenever a guarded region appears. 0, or -PV_E_FULL if that happened too often, each time by another handler.
 */
int pv_guard_install(void);

/* fn(arg), or -PV_E_GONE if a guarded region of m vanished under it. Memory without guarded regions has no guard and needs none. */
long pv_guarded(const struct pv_memory *m, long (*fn)(void *), void *arg);

/* pv_memory_read and pv_memory_write inside a guard. -PV_E_GONE: part of it may have been copied. */
int pv_guarded_read(const struct pv_memory *m, void *to, uint64_t addr, uint64_t len);
int pv_guarded_write(const struct pv_memory *m, uint64_t addr, const void *from, uint64_t len);

#endif
