/* SPDX-License-Identifier: Apache-2.0 */
#ifndef PV_HOST_FALLOCATE_H
#define PV_HOST_FALLOCATE_H

#include <stdint.h>

/*
 * fallocate(2) within the size that the file has, which Python's os module lacks: give a range back, or make it zeroes that stay allocated.
 * Either way it reads as zeroes afterwards. Returns 0 or -PV_E_COUNT - errno.
 */
int pv_host_punch_hole(int fd, int64_t offset, int64_t size);
int pv_host_zero_range(int fd, int64_t offset, int64_t size);

#endif
