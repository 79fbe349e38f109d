/* What Python sees of host/bench.h. */

uint64_t pv_bench_ping_pong(uint32_t *line, uint32_t rounds, int side);
struct pv_bench_spsc { ...; };
uint64_t pv_bench_spsc(struct pv_bench_spsc *ring, uint64_t count, uint32_t batch, int side);
uint64_t pv_bench_driver(struct pv_driver_ring *r, uint64_t address, uint64_t count, uint32_t depth, uint32_t batch);
uint64_t pv_bench_device(struct pv_device_ring *r, uint64_t count, uint32_t batch);

struct pv_bench_load {
    const struct pv_buffer *buffers;
    uint8_t **out;
    const uint64_t *stamps;
    uint32_t stamp_count;
    uint32_t stamp_offset;
    uint32_t depth;
    struct pv_host_bell *kick;
    int call_fd;
    uint64_t count;
    uint32_t *latencies;
    uint64_t done;
    uint64_t kicks;
    uint64_t calls;
    uint64_t bytes;
    uint64_t elapsed_ns;
};
int pv_bench_load_run(struct pv_driver_ring *r, struct pv_bench_load *load, volatile int *stop);
