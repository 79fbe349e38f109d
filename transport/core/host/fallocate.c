/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "fallocate.h"

#include <errno.h>
#include <fcntl.h>

#include "wire.h"

static int change(int fd, int mode, int64_t offset, int64_t size)
{
    int rc;

    do
        rc = fallocate(fd, mode | FALLOC_FL_KEEP_SIZE, offset, size);
    while (rc < 0 && errno == EINTR);
    return rc < 0 ? -PV_E_COUNT - errno : 0;
}

int pv_host_punch_hole(int fd, int64_t offset, int64_t size)
{
    return change(fd, FALLOC_FL_PUNCH_HOLE, offset, size);
}

int pv_host_zero_range(int fd, int64_t offset, int64_t size)
{
    return change(fd, FALLOC_FL_ZERO_RANGE, offset, size);
}
