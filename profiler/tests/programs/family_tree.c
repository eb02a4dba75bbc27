/* family_tree: does what it is told, line by line, and so do its children; one count of everything, in memory that all of
 * them share and that lasts through execve. Blocks have 24 bytes.
 *   allocate N, release N   of its own
 *   spawn N BLOCKS          makes children; at `go` each allocates BLOCKS and releases half of them; at `end` they end
 *   eager N BLOCKS          the same, but they don't wait for `go`
 *   daemon BLOCKS           a child whose parent, a child of ours, has ended at once
 *   become WAIT PATH        a child that replaces itself, at `go` if it is to wait, and ends at `end`
 *   storm N PAUSE LIFE      makes children with pauses (microseconds) in between; each allocates 10 blocks, before and after
 *                           its life (milliseconds)
 *   exec PATH, thread PATH  replaces itself; by its main thread, or by another
 *   load PATH PREFIX, own N, unload   a library with an allocator of its own, and N blocks of that
 *   mix N, cycle TIMES N    N times malloc, calloc, a realloc that resizes the first, free of both; loads the last library
 *                           again so often, each time with a mix, and unloads it
 *   burn MS                 so much CPU time
 * Answers with the counts. */
#define _GNU_SOURCE
#include "helper.h"
#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#ifndef STATIC
#include <dlfcn.h>
#endif

#define SHARED_FD 200

struct shared {
    atomic_ulong allocations, frees, eager_ns, forks;
    atomic_uint go, end, waiting, done;
    unsigned goodbye;
    pid_t owner;
};

static struct shared *shared;
static void **kept;
static unsigned children;

static void allocate(unsigned long blocks)
{
    for (unsigned long i = 0; i < blocks; i++) {
        void **block = malloc(24);
        *block = kept;
        kept = block;
    }
    shared->allocations += blocks;
}

static void release(unsigned long blocks)
{
    for (unsigned long i = 0; i < blocks; i++) {
        void **block = kept;
        kept = *block;
        free(block);
    }
    shared->frees += blocks;
}

/* Without a timer for each: there may be hundreds. Whoever made us may be killed, and isn't our parent for sure. */
static void wait_for(atomic_uint *what, unsigned before)
{
    struct timespec patience = { 2, 0 };
    while (*what == before) {
        if (kill(shared->owner, 0) != 0)
            _exit(0);
        syscall(SYS_futex, what, FUTEX_WAIT, before, &patience, NULL, 0);
    }
}

static void let_go(atomic_uint *what)
{
    (*what)++;
    syscall(SYS_futex, what, FUTEX_WAKE, 1 << 20, NULL, NULL, 0);
}

static void live_as_child(unsigned long blocks, int eager, unsigned go, unsigned end)
{
    alarm(LIFETIME_SECONDS);
    if (eager) {
        uint64_t began = nanoseconds(CLOCK_MONOTONIC);
        allocate(blocks);
        release(blocks / 2);
        shared->eager_ns += nanoseconds(CLOCK_MONOTONIC) - began;
    } else {
        shared->waiting++;
        wait_for(&shared->go, go);
        allocate(blocks);
        release(blocks / 2);
    }
    shared->done++;
    wait_for(&shared->end, end);
    _exit(0);
}

static void tell(void)
{
    say("{\"pid\":%d,\"allocations\":%lu,\"frees\":%lu,\"eager_ns\":%lu,\"forks\":%lu}", (int)getpid(), shared->allocations,
        shared->frees, shared->eager_ns, shared->forks);
}

static void spawn(unsigned count, unsigned long blocks, int eager)
{
    unsigned go = shared->go, end = shared->end, goal = shared->waiting + count;
    for (unsigned i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0)
            live_as_child(blocks, eager, go, end);
        if (child < 0)
            fail("fork");
    }
    shared->forks += count;
    children += count;
    while (!eager && shared->waiting != goal)
        sleep_ms(1);
}

static void become(const char *path)
{
    execl(path, path, (char *)NULL);
    fail("execl");
}

static void spawn_other(int waits, const char *path)
{
    unsigned go = shared->go;
    pid_t child = fork();
    if (child == 0) {
        shared->goodbye = shared->end;
        if (waits)
            wait_for(&shared->go, go);
        execl(path, path, "child", (char *)NULL);
        _exit(1);
    }
    shared->forks++;
    /* Counts as done when it runs. */
    children++;
}

static void reap(void)
{
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
    children = 0;
    shared->done = 0;
}

static void make_daemon(unsigned long blocks)
{
    unsigned go = shared->go, end = shared->end;
    pid_t child = fork();
    if (child == 0) {
        if (fork() == 0)
            live_as_child(blocks, 0, go, end);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    shared->forks += 2;
    children++;
}

static void storm(unsigned count, long pause_us, long life_ms)
{
    struct timespec pause = { 0, pause_us * 1000 };
    for (unsigned i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            allocate(10);
            if (life_ms > 0)
                sleep_ms(life_ms);
            allocate(10);
            _exit(0);
        }
        if (child > 0)
            shared->forks++;
        nanosleep(&pause, NULL);
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
    }
    reap();
}

static void *become_from_here(void *path)
{
    become(path);
    return NULL;
}

#ifndef STATIC
static void *library;
static void *(*own_malloc)(size_t);
static void *(*own_calloc)(size_t, size_t);
static void *(*own_realloc)(void *, size_t);
static void (*own_free)(void *);

static void load(const char *path, const char *prefix)
{
    char name[64];
    library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
    if (!library)
        fail("dlopen");
    snprintf(name, sizeof name, "%smalloc", prefix);
    own_malloc = (void *(*)(size_t))dlsym(library, name);
    snprintf(name, sizeof name, "%sfree", prefix);
    own_free = (void (*)(void *))dlsym(library, name);
    snprintf(name, sizeof name, "%scalloc", prefix);
    own_calloc = (void *(*)(size_t, size_t))dlsym(library, name);
    snprintf(name, sizeof name, "%srealloc", prefix);
    own_realloc = (void *(*)(void *, size_t))dlsym(library, name);
    if (!own_malloc || !own_free)
        fail("dlsym");
}

static void use_own(unsigned long blocks)
{
    for (unsigned long i = 0; i < blocks; i++) {
        void *volatile block = own_malloc(24);
        own_free(block);
    }
}

static void mix(unsigned long times)
{
    if (!own_calloc || !own_realloc)
        fail("dlsym");
    for (unsigned long i = 0; i < times; i++) {
        void *volatile first = own_malloc(24);
        void *volatile second = own_calloc(3, 8);
        first = own_realloc(first, 400);
        own_free(second);
        own_free(first);
    }
}

static void cycle(unsigned long times, unsigned long calls, const char *path, const char *prefix)
{
    while (times-- > 0) {
        load(path, prefix);
        mix(calls);
        dlclose(library);
    }
}
#endif

static void burn(unsigned long ms)
{
    uint64_t end = nanoseconds(CLOCK_PROCESS_CPUTIME_ID) + ms * 1000000;
    while (nanoseconds(CLOCK_PROCESS_CPUTIME_ID) < end)
        ;
}

int main(int argc, char **argv)
{
    static char line[4096], word[16], path[4000], prefix[48];
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
    if (shared == MAP_FAILED) {
        int file = memfd_create("counts", 0);
        if (ftruncate(file, sizeof *shared) != 0 || dup2(file, SHARED_FD) < 0)
            fail("memfd_create");
        close(file);
        shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED, SHARED_FD, 0);
        if (shared == MAP_FAILED)
            fail("mmap");
        shared->owner = getpid();
        alarm(LIFETIME_SECONDS);
        say("ready");
    } else if (argc > 1 && strcmp(argv[1], "child") == 0) {
        alarm(LIFETIME_SECONDS);
        allocate(100);
        shared->done++;
        wait_for(&shared->end, shared->goodbye);
        _exit(0);
    } else {
        /* Replaced: the first thing it does. */
        allocate(100);
        tell();
    }
    while (hear(line, sizeof line)) {
        unsigned long first = 0, second = 0, third = 0;
        sscanf(line, "%15s %lu %lu %lu", word, &first, &second, &third);
        if (strcmp(word, "allocate") == 0) {
            allocate(first);
        } else if (strcmp(word, "release") == 0) {
            release(first);
        } else if (strcmp(word, "spawn") == 0) {
            spawn((unsigned)first, second, 0);
        } else if (strcmp(word, "eager") == 0) {
            spawn((unsigned)first, second, 1);
        } else if (strcmp(word, "daemon") == 0) {
            make_daemon(first);
        } else if (strcmp(word, "go") == 0) {
            let_go(&shared->go);
            while (shared->done < children)
                sleep_ms(1);
        } else if (strcmp(word, "end") == 0) {
            let_go(&shared->end);
            reap();
        } else if (strcmp(word, "storm") == 0) {
            storm((unsigned)first, (long)second, (long)third);
        } else if (sscanf(line, "become %lu %3999s", &first, path) == 2) {
            spawn_other(first != 0, path);
        } else if (sscanf(line, "exec %3999s", path) == 1) {
            become(path);
        } else if (sscanf(line, "thread %3999s", path) == 1) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, become_from_here, path) == 0)
                pthread_join(thread, NULL);
#ifndef STATIC
        } else if (strcmp(word, "load") == 0 && (prefix[0] = 0, sscanf(line, "load %3999s %47s", path, prefix) >= 1)) {
            load(path, prefix);
        } else if (strcmp(word, "own") == 0) {
            use_own(first);
        } else if (strcmp(word, "mix") == 0) {
            mix(first);
        } else if (strcmp(word, "cycle") == 0) {
            cycle(first, second, path, prefix);
        } else if (strcmp(word, "unload") == 0) {
            dlclose(library);
#endif
        } else if (strcmp(word, "burn") == 0) {
            burn(first);
        } else if (strcmp(word, "report") != 0) {
            fail("what?");
        }
        tell();
    }
    _exit(0);
}
