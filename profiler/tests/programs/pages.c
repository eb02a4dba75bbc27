// Does with its memory what it is told, line by line, and says what is true: addresses, and how long things took.
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

// Of this thread's own time: others may be at work.
static double now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static double wall_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void fail(const char *what) {
    printf("{\"error\": \"%s\"}\n", what);
    fflush(stdout);
    exit(1);
}

static char *fresh(unsigned long bytes, int huge) {
    // Twice as much, so that an aligned part is in it.
    char *p = mmap(0, bytes + (2UL << 20), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) fail("mmap");
    p = (char *)(((uintptr_t)p + (2UL << 20) - 1) & ~((2UL << 20) - 1));
    madvise(p, bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    return p;
}

__attribute__((noipa)) static void touch(char *p, unsigned long pages) {
    for (unsigned long i = 0; i < pages; i++) *(volatile char *)(p + i * PAGE) = 1;
}

__attribute__((noipa)) static void outer_touch(char *p, unsigned long pages) {
    touch(p, pages);
    __asm__ volatile("" ::: "memory");
}

// Blocks in all kinds of reach, and the truth about each. What is left on the stack and in freed memory would be found, so
// that the addresses of lost blocks are kept scrambled.
struct node {
    struct node *next;
    char rest[40];
};
// Not static: what is never read may not be left out.
void *table[500];
struct node *list;
uintptr_t tagged[100], upper[100], scrambled[100];
#define SCRAMBLE 0x5a5a5a5a5a5a5a5aUL
static uintptr_t truth[2000];
static int truth_kept[2000], truths, epoll_fd;
static size_t truth_size[2000];

static void note(void *block, size_t size, int kept) {
    truth[truths] = (uintptr_t)block ^ SCRAMBLE;
    truth_size[truths] = size;
    truth_kept[truths++] = kept;
}

__attribute__((noinline)) static void make_blocks(void) {
    for (int i = 0; i < 1000; i++) {
        size_t size = i % 100 == 0 ? 300000 : 24 + (i * 37) % 2000;
        char *block = malloc(size);
        memset(block, 0, size);
        if (i % 2 == 0) table[i / 2] = i % 4 ? block : block + size / 2;
        note(block, size, i % 2 == 0);
    }
    for (int i = 0; i < 200; i++) {
        struct node *node = calloc(1, sizeof *node);
        node->next = list;
        list = node;
        note(node, sizeof *node, 1);
    }
    // A ring that nothing holds.
    struct node *first = calloc(1, sizeof *first), *last = first;
    note(first, sizeof *first, 0);
    for (int i = 0; i < 99; i++) {
        struct node *node = calloc(1, sizeof *node);
        last->next = node;
        last = node;
        note(node, sizeof *node, 0);
    }
    last->next = first;
    for (int i = 0; i < 100; i++) {
        char *low = calloc(1, 64), *high = calloc(1, 64), *hidden = calloc(1, 64);
        tagged[i] = (uintptr_t)low | 5;
        upper[i] = (uintptr_t)high | 0xbeefUL << 48;
        scrambled[i] = (uintptr_t)hidden ^ SCRAMBLE;
        note(low, 64, 1);
        note(high, 64, 1);
        note(hidden, 64, 0);
    }
    // Kept by the kernel alone.
    epoll_fd = epoll_create1(0);
    for (int i = 0; i < 10; i++) {
        int ends[2];
        if (pipe(ends)) fail("pipe");
        void *block = calloc(1, 64);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = block};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, ends[0], &event);
        memset(&event, 0, sizeof event);
        note(block, 64, 1);
    }
}

__attribute__((noinline)) static void wipe_stack(void) {
    char below[65536];
    memset(below, 0, sizeof below);
    __asm__ volatile("" : : "r"(below) : "memory", "rbx", "r12", "r13", "r14", "r15");
}

static void blocks(void) {
    make_blocks();
    wipe_stack();
    printf("{\"blocks\": [");
    for (int i = 0; i < truths; i++)
        printf("%s[%lu, %zu, %d]", i ? ", " : "", truth[i] ^ SCRAMBLE, truth_size[i], truth_kept[i]);
    printf("]}\n");
    fflush(stdout);
    wipe_stack();
}

int main(void) {
    static char line[256], out[1 << 16];
    setvbuf(stdout, out, _IOFBF, sizeof out);
    free(malloc(100));
    puts("ready");
    fflush(stdout);
    for (;;) {
        // Without the C library's buffer, which is a block, too.
        size_t n = 0;
        while (n < sizeof line - 1 && read(0, line + n, 1) == 1 && line[n] != '\n') n++;
        if (n == 0) return 0;
        line[n] = 0;
        char word[32];
        unsigned long a = 0, b = 0;
        sscanf(line, "%31s %lu %lu", word, &a, &b);
        char *p = 0;
        double took = 0;
        unsigned long done = 0;
        if (!strcmp(word, "map")) {
            p = fresh(a * PAGE, 0);
            outer_touch(p, a);
        } else if (!strcmp(word, "huge")) {
            p = fresh(2UL << 20, 1);
            touch(p, 1);
        } else if (!strcmp(word, "read")) {
            p = fresh(a * PAGE, 0);
            int fd = open("/dev/zero", O_RDONLY);
            if (read(fd, p, a * PAGE) != (ssize_t)(a * PAGE)) fail("read");
            close(fd);
        } else if (!strcmp(word, "file")) {
            // Pages of a file of its own: the even ones are written to.
            int fd = open(".", O_TMPFILE | O_RDWR, 0600);
            if (fd < 0) fail("a file");
            for (unsigned long i = 0; i < a; i++)
                if (pwrite(fd, "x", 1, i * PAGE) != 1) fail("write");
            p = mmap(0, a * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
            for (unsigned long i = 0; i < a; i++) {
                if (i % 2) (void)*(volatile char *)(p + i * PAGE);
                else *(volatile char *)(p + i * PAGE) = 1;
            }
            close(fd);
        } else if (!strcmp(word, "dontneed")) {
            madvise((void *)a, b * PAGE, MADV_DONTNEED);
        } else if (!strcmp(word, "unmap")) {
            munmap((void *)a, b * PAGE);
        } else if (!strcmp(word, "touch")) {
            outer_touch((char *)a, b);
        } else if (!strcmp(word, "faults")) {
            // So many times: 256 pages made and given back.
            p = fresh(256 * PAGE, 0);
            double spent = 0;
            for (unsigned long i = 0; i < a; i++) {
                double begin = now_ns();
                touch(p, 256);
                spent += now_ns() - begin;
                madvise(p, 256 * PAGE, MADV_DONTNEED);
            }
            done = a * 256;
            took = spent;
        } else if (!strcmp(word, "maps")) {
            // mmap and munmap for so many milliseconds.
            double begin = wall_ns();
            while (wall_ns() - begin < a * 1e6) {
                for (int i = 0; i < 100; i++) {
                    char *q = mmap(0, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
                    munmap(q, 4 * PAGE);
                }
                done += 100;
            }
            took = wall_ns() - begin;
        } else if (!strcmp(word, "eat")) {
            // Until it is killed.
            for (;;) touch(fresh(64 * PAGE, 0), 64);
        } else if (!strcmp(word, "blocks")) {
            blocks();
            continue;
        } else if (!strcmp(word, "exec")) {
            execl("/proc/self/exe", "pages", (char *)0);
        } else {
            fail("no such word");
        }
        printf("{\"address\": %lu, \"done\": %lu, \"ns\": %.0f, \"touch\": %lu, \"outer\": %lu}\n", (unsigned long)p, done, took,
               (unsigned long)touch, (unsigned long)outer_touch);
        fflush(stdout);
    }
}
