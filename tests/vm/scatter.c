/* Mixed direct I/O whose buffers are pages far from each other, each block checked:
 * scatter DEVICE PROCESSES ROUNDS SEED
 *
 * A page of the buffers is never next to the page before it, so that the kernel can merge nothing
 * and makes a descriptor of each. A block carries its number and how often it was written. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 256, BLOCKS = 2048 };

static uint64_t state;

static uint32_t below(uint32_t limit)
{
    state ^= state << 13, state ^= state >> 7, state ^= state << 17;
    return (uint32_t)(state >> 33) % limit;
}

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static void fill(uint64_t *page, uint64_t block, uint64_t generation)
{
    for (int i = 0; i < PAGE / 8; i += 2) {
        page[i] = block;
        page[i + 1] = generation;
    }
}

static void check(const uint64_t *page, uint64_t block, uint64_t generation)
{
    for (int i = 0; i < PAGE / 8; i += 2) {
        if (page[i] != block || page[i + 1] != generation) {
            printf("block %lu, word %d: has block %lu, generation %lu instead of %lu\n", block, i,
                   page[i], page[i + 1], generation);
            exit(1);
        }
    }
}

static void work(int fd, uint64_t first, int rounds)
{
    static uint64_t generations[BLOCKS];
    struct iovec parts[PAGES];
    char *arena = mmap(NULL, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

    if (arena == MAP_FAILED)
        die("mmap");
    for (int i = 0; i < PAGES; i++) { /* every second page, in an order of leaps */
        parts[i].iov_base = arena + 2 * (size_t)(i * 97 % PAGES) * PAGE;
        parts[i].iov_len = PAGE;
    }
    for (int round = 0; round < rounds; round++) {
        int count = 1 + (int)below(PAGES), writing = below(2) || round < 2;
        uint32_t start = below(BLOCKS - (uint32_t)count + 1);
        off_t at = (off_t)(first + start) * PAGE;

        for (int i = 0; writing && i < count; i++)
            fill(parts[i].iov_base, first + start + i, ++generations[start + i]);
        if ((writing ? pwritev : preadv)(fd, parts, count, at) != (ssize_t)count * PAGE)
            die(writing ? "write" : "read");
        for (int i = 0; !writing && i < count; i++)
            if (generations[start + i])
                check(parts[i].iov_base, first + start + i, generations[start + i]);
    }
    for (uint32_t block = 0; block < BLOCKS; block++) {
        if (pread(fd, arena, PAGE, (off_t)(first + block) * PAGE) != PAGE)
            die("read");
        if (generations[block])
            check((uint64_t *)(void *)arena, first + block, generations[block]);
    }
}

int main(int argc, char **argv)
{
    int fd = argc == 5 ? open(argv[1], O_RDWR | O_DIRECT) : -1, status, failed = 0;

    if (fd < 0)
        die("open");
    for (int process = 0; process < atoi(argv[2]); process++) {
        if (fork() == 0) {
            state = strtoull(argv[4], NULL, 10) * 2654435761u + (uint64_t)process + 1;
            work(fd, (uint64_t)process * BLOCKS, atoi(argv[3]));
            exit(0);
        }
    }
    while (wait(&status) > 0)
        failed |= status;
    return failed != 0;
}
