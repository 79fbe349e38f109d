/* What Python sees of memory.h, host/guard.h and host/mapping.h; the compiler checks it against them. */

enum pv_region_flags { PV_REGION_GUARDED = 1, PV_REGION_READONLY = 2 };
enum pv_memory_flags { PV_MEMORY_GUARDED = 1 };

struct pv_region {
    uint64_t addr;
    uint64_t size;
    uint8_t *host;
    uint64_t flags;
};

struct pv_memory {
    const struct pv_region *regions;
    uint32_t count;
    uint32_t flags;
};

int32_t pv_memory_find(const struct pv_memory *m, uint64_t addr, uint32_t hint);
uint8_t *pv_memory_host(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint);
uint64_t pv_memory_span(const struct pv_memory *m, uint64_t addr, uint32_t *hint, uint8_t **host);
int pv_memory_check(const struct pv_memory *m, uint64_t addr, uint64_t len, uint32_t *hint);
int pv_memory_read(const struct pv_memory *m, void *to, uint64_t addr, uint64_t len, uint32_t *hint);
int pv_memory_write(const struct pv_memory *m, uint64_t addr, const void *from, uint64_t len, uint32_t *hint);

int pv_guard_install(void);
long pv_guarded(const struct pv_memory *m, long (*fn)(void *), void *arg);
int pv_guarded_read(const struct pv_memory *m, void *to, uint64_t addr, uint64_t len);
int pv_guarded_write(const struct pv_memory *m, uint64_t addr, const void *from, uint64_t len);

void *pv_map(int fd, uint64_t offset, uint64_t size);
int pv_unmap(void *address, uint64_t size);
