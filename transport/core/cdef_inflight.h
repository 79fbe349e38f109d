/* What Python sees of host/inflight.h. */

struct pv_inflight_desc { uint8_t inflight; uint16_t next; uint64_t counter; ...; };
struct pv_inflight_queue {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct pv_inflight_desc desc[];
};

struct pv_inflight {
    struct pv_inflight_queue *table;
    const struct pv_memory *memory;
    uint16_t *batch;
    uint16_t *again;
    uint64_t counter;
    uint16_t last_batch_head;
    uint16_t left;
};

#define PV_INFLIGHT_VERSION ...
#define PV_INFLIGHT_ALIGNMENT ...

void pv_inflight_start(struct pv_inflight *f, struct pv_device_ring *r, const uint16_t *heads, uint16_t count);
