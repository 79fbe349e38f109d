/* What Python sees of host/bell.h. */

#define PV_NO_BELL ...
struct pv_host_bell { ...; };
void pv_host_bell_put(struct pv_host_bell *bell, uint32_t fd);
int pv_host_bell_taken(const struct pv_host_bell *bell);
