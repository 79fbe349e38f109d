/* What Python sees of host/log.h. */

struct pv_log { const struct pv_memory *bitmap; int bell; };
#define PV_LOG_NO_ADDRESS ...
void pv_log_start(struct pv_device_ring *r, const struct pv_log *log, uint64_t used);
int pv_log_mark(const struct pv_log *log, uint64_t addr, uint64_t len);
