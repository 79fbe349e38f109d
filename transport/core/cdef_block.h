/* What Python sees of host/fallocate.h. */

int pv_host_punch_hole(int fd, int64_t offset, int64_t size);
int pv_host_zero_range(int fd, int64_t offset, int64_t size);
