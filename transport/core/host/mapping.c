/* SPDX-License-Identifier: Apache-2.0 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "mapping.h"

#include <stddef.h>
#include <sys/mman.h>

void *pv_map(int fd, uint64_t offset, uint64_t size)
{
    void *address = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)offset);

    return address == MAP_FAILED ? NULL : address;
}

int pv_unmap(void *address, uint64_t size)
{
    return munmap(address, (size_t)size);
}
