/* SPDX-License-Identifier: Apache-2.0 */
/* Shared mappings. (Python's own mmap keeps a second descriptor for each, too many with 509 regions.) */
#ifndef PV_MAPPING_H
#define PV_MAPPING_H

#include <stdint.h>

/* Map `size` bytes of `fd` from `offset` on, a multiple of the page size, to read and write them. NULL, and errno, on failure. */
void *pv_map(int fd, uint64_t offset, uint64_t size);

/* 0, or -1 and errno. */
int pv_unmap(void *address, uint64_t size);

#endif
