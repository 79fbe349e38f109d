/* The declarations that Python sees; the compiler checks them against the real headers. */

struct pv_geometry { uint64_t desc; uint64_t driver; uint64_t device; uint32_t size; uint32_t features; };
struct pv_segment { uint64_t addr; uint32_t len; uint32_t writable; };
struct pv_buffer { uint64_t out_addr; uint64_t in_addr; uint32_t out_len; uint32_t in_len; };
struct pv_used_elem { uint32_t id; uint32_t len; };
struct pv_popped { uint64_t token; uint64_t sizes; };
struct pv_node { uint64_t addr; ...; };
struct pv_slot { uint32_t use; uint32_t readable; uint32_t writable; uint32_t written; uint16_t in_flight; ...; };
struct pv_driver_slot { uint32_t writable; uint16_t next; uint16_t count; };

struct pv_inflight;
struct pv_device_ring {
    struct pv_inflight *inflight;
    uint32_t nodes_free;
    uint16_t last_avail;
    uint16_t used;
    uint16_t published;
    uint16_t in_flight;
    uint16_t broken;
    uint16_t bad;
    uint64_t popped;
    uint64_t completed;
    uint64_t stale;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t rejected[...];
    ...;
};

struct pv_driver_ring {
    uint32_t free_count;
    uint16_t avail;
    uint16_t published;
    uint16_t last_used;
    uint16_t in_flight;
    uint16_t broken;
    ...;
};

#define PV_E_FULL ...
#define PV_E_COUNT ...
#define PV_CYCLE_CALL ...
#define PV_CYCLE_STALLED ...
#define PV_CYCLE_BAD ...
#define PV_NO_LIMIT ...
#define PV_RING_INDIRECT ...
#define PV_RING_EVENT_IDX ...

uint32_t pv_node_count(uint32_t size);
int pv_device_start(struct pv_device_ring *r, const struct pv_memory *memory, const struct pv_geometry *geometry, struct pv_slot *slots,
                    struct pv_node *nodes, uint32_t node_count, uint32_t table_max, uint16_t generation, uint16_t avail, uint16_t used);
struct pv_slot *pv_device_slot(const struct pv_device_ring *r, uint64_t token);

struct pv_turn {
    struct pv_device_ring *ring; struct pv_popped *popped;
    uint32_t room; uint32_t limit; uint32_t taken; uint32_t ended; uint32_t head_size; uint8_t *heads;
    uint64_t ahead; uint64_t silent;
};
int pv_host_turn(struct pv_turn *turn, uint32_t ended, uint64_t spin_ns);
int pv_host_cycle(struct pv_turn *turn, const uint64_t *done, const uint32_t *lengths, uint32_t count, uint32_t ended, uint64_t spin_ns);
int pv_host_complete(struct pv_turn *turn, const uint64_t *done, const uint32_t *lengths, uint32_t count, uint32_t ended);
int pv_host_device_spin(struct pv_device_ring *r, uint64_t spin_ns);
int pv_host_device_arm(struct pv_device_ring *r);
int pv_host_device_disarm(struct pv_device_ring *r);
int64_t pv_host_read(struct pv_device_ring *r, uint64_t token, uint32_t offset, void *to, uint32_t len);
int64_t pv_host_write(struct pv_device_ring *r, uint64_t token, uint32_t offset, const void *from, uint32_t len);
int64_t pv_host_read_file(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags);
int64_t pv_host_write_file(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags);
int64_t pv_host_read_whole(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags,
                           const void *last, uint32_t size);
int64_t pv_host_write_whole(struct pv_device_ring *r, uint64_t token, uint32_t offset, int fd, int64_t position, uint32_t len, int flags,
                            const void *last, uint32_t size);

int pv_driver_start(struct pv_driver_ring *r, const struct pv_memory *memory, const struct pv_geometry *geometry,
                    struct pv_driver_slot *slots, uint64_t tables_addr, uint32_t table_max);
int pv_driver_add(struct pv_driver_ring *r, const struct pv_segment *segments, uint32_t count);
int pv_driver_add_many(struct pv_driver_ring *r, const struct pv_buffer *buffers, uint32_t count, uint16_t *heads);
int pv_driver_publish(struct pv_driver_ring *r);
int pv_driver_reap(struct pv_driver_ring *r, struct pv_used_elem *done, uint32_t max);
int pv_host_driver_spin(struct pv_driver_ring *r, uint64_t spin_ns);
int pv_host_driver_arm(struct pv_driver_ring *r);
void pv_host_driver_disarm(struct pv_driver_ring *r);
uint64_t pv_host_now_ns(void);
