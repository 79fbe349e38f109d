/* What Python sees of host/disk.h. */

#define PV_DISK_MORE ...
struct pv_disk { uint64_t size; int fd; int read_flags; int write_flags; int wrote; };
int pv_host_disk_run(struct pv_turn *turn, struct pv_disk *disk, uint64_t spin_ns);
