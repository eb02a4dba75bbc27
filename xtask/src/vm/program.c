/* A program that knows the truth about itself, for a machine without Rust: it calls the allocator, waits for a futex,
 * sleeps and computes, all a known number of times, and says how often and how long.
 *
 * It writes `ready` and is idle. After one line on standard input it works and writes one line of JSON; then it is idle
 * again until standard input ends. Between `ready` and the end nothing else allocates: the threads of the C library
 * exist before, the thread that comes and goes is a bare clone(2), and what is written goes through a fixed buffer.
 * Idle threads are in read(2) or pause(2), so that futex time is the waiter's and nothing else. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    WORKERS = 2,  /* threads besides the main one */
    ROUNDS = 40,  /* of allocating, in the main thread and in the waiter */
    MALLOCS = 50, /* a round: as many blocks from malloc ... */
    CALLOCS = 20, /* ... and from calloc; ... */
    RESIZE = 5,   /* ... every so manieth is resized, ... */
    KEEP = 35,    /* ... and every so manieth is kept for ever */
    NAPS = 15,    /* of the sleeper */
    WAITS = 15,   /* of the waiter */
    PAUSE_MS = 100,
    VISIT_MS = 500, /* how long the thread that comes and goes stays */
    BURN_MS = 300,  /* CPU time of the main thread */
};

typedef long long ns_t;

struct counts {
    long mallocs, callocs, reallocs, frees, bytes, leaked;
    ns_t futex, nap;
};

static struct counts own, others[WORKERS];
static int start[2], done[2];
static unsigned word;
static ns_t visit_began, visit_ended;
static char stack[64 * 1024] __attribute__((aligned(16)));

static ns_t now(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void nap(long ms) {
    struct timespec time = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&time, NULL);
}

static void *touched(void *block) {
    *(volatile char *)block = 1;
    return block;
}

static void allocate(struct counts *c) {
    void *blocks[MALLOCS + CALLOCS];
    for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < MALLOCS + CALLOCS; i++) {
            long size = 16 + i * 37 % 1000;
            if (i < MALLOCS) {
                blocks[i] = touched(malloc(size));
                c->mallocs++;
            } else {
                blocks[i] = touched(calloc(3, size));
                c->callocs++;
                size *= 3;
            }
            c->bytes += size;
        }
        for (int i = 0; i < MALLOCS + CALLOCS; i += RESIZE) {
            long size = 32 + i * 97 % 5000;
            blocks[i] = touched(realloc(blocks[i], size));
            c->reallocs++;
            c->bytes += size;
        }
        for (int i = 0; i < MALLOCS + CALLOCS; i++) {
            if (i % KEEP == 0) {
                c->leaked++;
            } else {
                free(blocks[i]);
                c->frees++;
            }
        }
    }
}

static void wait_for_the_futex(struct counts *c) {
    struct timespec limit = {0, PAUSE_MS * 1000000};
    ns_t begin = now(CLOCK_MONOTONIC);
    for (int i = 0; i < WAITS; i++)
        syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &limit, NULL, 0);
    c->futex = now(CLOCK_MONOTONIC) - begin;
    allocate(c);
}

static void sleep_often(struct counts *c) {
    ns_t begin = now(CLOCK_MONOTONIC);
    for (int i = 0; i < NAPS; i++)
        nap(PAUSE_MS);
    c->nap = now(CLOCK_MONOTONIC) - begin;
}

static void *worker(void *argument) {
    long index = (long)argument;
    char byte = 0;
    free(touched(malloc(64))); /* the allocator's own preparations for a thread come before `ready` */
    write(done[1], &byte, 1);
    read(start[0], &byte, 1);
    if (index == 0)
        wait_for_the_futex(&others[index]);
    else
        sleep_often(&others[index]);
    write(done[1], &byte, 1);
    while (pause())
        ;
    return NULL;
}

static int visit(void *unused) {
    (void)unused;
    nap(VISIT_MS);
    visit_ended = now(CLOCK_MONOTONIC);
    return 0;
}

static void all_workers(int fd, int writing) {
    char byte = 0;
    for (int i = 0; i < WORKERS; i++)
        writing ? write(fd, &byte, 1) : read(fd, &byte, 1);
}

int main(void) {
    static char line[512];
    if (pipe(start) || pipe(done))
        return 1;
    free(touched(malloc(64)));
    for (long i = 0; i < WORKERS; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, worker, (void *)i))
            return 1;
    }
    all_workers(done[0], 0);
    write(1, "ready\n", 6);
    if (read(0, line, sizeof line) <= 0)
        return 1;

    ns_t cpu = now(CLOCK_PROCESS_CPUTIME_ID);
    all_workers(start[1], 1);
    allocate(&own);
    ns_t thread = now(CLOCK_THREAD_CPUTIME_ID);
    while (now(CLOCK_THREAD_CPUTIME_ID) - thread < BURN_MS * 1000000LL)
        ;
    visit_began = now(CLOCK_MONOTONIC);
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
    if (clone(visit, stack + sizeof stack, flags, NULL) < 0)
        return 1;
    nap(VISIT_MS + PAUSE_MS);
    while (visit_ended == 0)
        nap(PAUSE_MS);
    all_workers(done[0], 0);
    cpu = now(CLOCK_PROCESS_CPUTIME_ID) - cpu;

    struct counts all = own;
    for (int i = 0; i < WORKERS; i++) {
        struct counts *c = &others[i];
        all.mallocs += c->mallocs, all.callocs += c->callocs, all.reallocs += c->reallocs, all.frees += c->frees;
        all.bytes += c->bytes, all.leaked += c->leaked, all.futex += c->futex, all.nap += c->nap;
    }
    int length = snprintf(line, sizeof line,
        "{\"mallocs\":%ld,\"callocs\":%ld,\"reallocs\":%ld,\"frees\":%ld,\"bytes\":%ld,\"leaked\":%ld,"
        "\"threads\":%d,\"visits\":1,\"visit_ns\":%lld,\"waits\":%d,\"futex_ns\":%lld,\"nap_ns\":%lld,\"cpu_ns\":%lld}\n",
        all.mallocs, all.callocs, all.reallocs, all.frees, all.bytes, all.leaked, WORKERS + 1,
        visit_ended - visit_began, WAITS, all.futex, all.nap, cpu);
    write(1, line, length);
    while (read(0, line, sizeof line) > 0)
        ;
    _exit(0);
}
