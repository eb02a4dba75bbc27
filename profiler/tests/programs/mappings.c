/* mappings MODE ...: maps memory and counts every call by itself, from arguments and results.
 *   random SEED CALLS THREADS: every kind of call, also failing ones, by several threads at once
 *   heap:    the C library's heap grows and shrinks; tells how far its break moved
 *   refused: a seccomp filter refuses every call
 *   fork:    a child maps memory
 *   compat:  calls by the 32-bit interface */
#define _GNU_SOURCE
#include "helper.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

enum { ANONYMOUS, SHARED, RESERVE, FILES, UNMAP, GROW, SHRINK, MOVE, BRK_GROW, BRK_SHRINK, KINDS };
static const char *const names[KINDS] = { "anonymous", "shared", "reserve", "file", "unmap", "remap_grow",
                                          "remap_shrink", "remap_move", "brk_grow", "brk_shrink" };

struct counts {
    uint64_t calls, bytes, failed;
};

#define REGIONS 32
#define MOST_THREADS 16

static struct worker {
    struct counts counts[KINDS];
    struct {
        char *start;
        uint64_t length;
    } regions[REGIONS];
    uint64_t random;
    long todo;
    int moves_break;
} workers[MOST_THREADS];
static pthread_barrier_t start_line, finish_line;
static int file;

static void note(struct worker *me, int kind, int succeeded, uint64_t bytes)
{
    me->counts[kind].calls += succeeded;
    me->counts[kind].failed += !succeeded;
    if (succeeded)
        me->counts[kind].bytes += bytes;
}

static uint64_t pages(uint64_t bytes)
{
    return (bytes + 4095) / 4096 * 4096;
}

/* The calls themselves, past the C library. */
static char *map(struct worker *me, int kind, void *at, uint64_t length, int protection, int flags, int fd)
{
    long result = syscall(SYS_mmap, at, length, protection, flags, fd, 0L);
    note(me, kind, result != -1, pages(length));
    return result == -1 ? NULL : (char *)result;
}

static int unmap(struct worker *me, void *at, uint64_t length)
{
    int succeeded = syscall(SYS_munmap, at, length) == 0;
    note(me, UNMAP, succeeded, pages(length));
    return succeeded;
}

static char *remap(struct worker *me, int kind, uint64_t bytes, void *at, uint64_t old, uint64_t new, int flags)
{
    long result = syscall(SYS_mremap, at, old, new, flags, 0L);
    note(me, kind, result != -1, bytes);
    return result == -1 ? NULL : (char *)result;
}

static long raw_brk(long at)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "0"((long)SYS_brk), "D"(at) : "rcx", "r11", "memory");
    return result;
}

static void move_break(struct worker *me, long base, long *now, uint64_t random)
{
    switch (random % 6) {
    case 0: /* below the heap */
        if (raw_brk(4096) != *now)
            fail("a break below the heap was accepted");
        note(me, BRK_SHRINK, 0, 0);
        return;
    case 1: /* above everything */
        if (raw_brk(1L << 47) != *now)
            fail("a break above everything was accepted");
        note(me, BRK_GROW, 0, 0);
        return;
    case 2: /* only asks */
        if (raw_brk(0) != *now)
            fail("the break isn't where it should be");
        return;
    }
    long wanted = base + (long)(random / 6 % 1000000);
    if (raw_brk(wanted) != wanted)
        fail("the break didn't move");
    if (wanted >= *now)
        note(me, BRK_GROW, 1, (uint64_t)(wanted - *now));
    else
        note(me, BRK_SHRINK, 1, (uint64_t)(*now - wanted));
    *now = wanted;
}

static void one_call(struct worker *me)
{
    int anonymous = MAP_PRIVATE | MAP_ANONYMOUS, usable = PROT_READ | PROT_WRITE;
    int slot = (int)(next_random(&me->random) % REGIONS);
    char **start = &me->regions[slot].start;
    uint64_t *length = &me->regions[slot].length, random = next_random(&me->random);
    uint64_t bytes = random / 64 % 300000 + 1;
    if (*start == NULL) {
        *length = bytes;
        switch (random % 8) {
        case 0: *start = map(me, SHARED, NULL, bytes, usable, MAP_SHARED | MAP_ANONYMOUS, -1); break;
        case 1: *start = map(me, RESERVE, NULL, bytes, PROT_NONE, anonymous | MAP_NORESERVE, -1); break;
        case 2: *start = map(me, FILES, NULL, bytes, PROT_READ, MAP_PRIVATE, file); break;
        case 3: *start = map(me, FILES, NULL, bytes, usable, MAP_SHARED, file); break;
        case 4: /* nothing, too much, no such file */
            map(me, ANONYMOUS, NULL, 0, usable, anonymous, -1);
            map(me, ANONYMOUS, NULL, 1UL << 47, usable, anonymous, -1);
            map(me, RESERVE, NULL, 0, PROT_NONE, anonymous, -1);
            map(me, FILES, NULL, bytes, PROT_READ, MAP_PRIVATE, 9999);
            break;
        default: *start = map(me, ANONYMOUS, NULL, bytes, usable, anonymous, -1); break;
        }
        return;
    }
    uint64_t old = pages(*length), new = pages(bytes);
    char *moved;
    switch (random % 8) {
    case 0: /* over the whole old one; it isn't unmapped by a call */
        if (map(me, ANONYMOUS, *start, *length, usable, anonymous | MAP_FIXED, -1) != *start)
            fail("MAP_FIXED went elsewhere");
        return;
    case 1: /* in two parts */
        if (old > 4096 && !unmap(me, *start + 4096, old - 4096))
            fail("munmap of a part");
        *length = 4096;
        return;
    case 2:
        unmap(me, *start + 1, 4096);                                  /* not aligned */
        remap(me, SHRINK, 0, *start, *length, 0, MREMAP_MAYMOVE);     /* to nothing */
        remap(me, GROW, 0, *start, *length, 1UL << 47, MREMAP_MAYMOVE); /* too much */
        return;
    case 3:
    case 4:
        if (new > old)
            moved = remap(me, GROW, new - old, *start, *length, bytes, MREMAP_MAYMOVE);
        else if (new < old)
            moved = remap(me, SHRINK, old - new, *start, *length, bytes, MREMAP_MAYMOVE);
        else
            moved = remap(me, MOVE, 0, *start, *length, bytes, MREMAP_MAYMOVE);
        if (moved == NULL)
            fail("mremap");
        *start = moved, *length = bytes;
        return;
    default:
        if (!unmap(me, *start, *length))
            fail("munmap");
        *start = NULL;
    }
}

/* Once each, what is seldom. */
static void special_calls(struct worker *me)
{
    int usable = PROT_READ | PROT_WRITE;
    char *shared = map(me, SHARED, NULL, 5000, usable, MAP_SHARED | MAP_ANONYMOUS, -1);
    char *again = remap(me, MOVE, 0, shared, 0, 5000, MREMAP_MAYMOVE);
    char *private = map(me, ANONYMOUS, NULL, 9000, usable, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    char *left = remap(me, GROW, 12288, private, 9000, 9000, MREMAP_MAYMOVE | 4 /* MREMAP_DONTUNMAP */);
    if (shared == NULL || again == NULL || private == NULL || left == NULL || left == private)
        fail("a special call");
    /* Huge pages, of a named and of the usual size. Without a reservation the call succeeds where there are none. */
    int huge = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    for (int flags = 0; flags <= MAP_NORESERVE; flags += MAP_NORESERVE) {
        long named = syscall(SYS_mmap, NULL, 5000L, usable, huge | flags | 21 << 26, -1, 0L);
        note(me, ANONYMOUS, named != -1, 2 << 20);
        long usual = syscall(SYS_mmap, NULL, (2L << 20) + 1, usable, huge | flags, -1, 0L);
        note(me, ANONYMOUS, usual != -1, 4 << 20);
    }
}

static void *work(void *argument)
{
    struct worker *me = argument;
    pthread_barrier_wait(&start_line);
    long base = raw_brk(0), now = base;
    for (long i = 0; i < me->todo; i++) {
        one_call(me);
        if (me->moves_break)
            move_break(me, base, &now, next_random(&me->random));
    }
    if (me->moves_break) {
        special_calls(me);
        note(me, now > base ? BRK_SHRINK : BRK_GROW, 1, (uint64_t)(now - base));
        raw_brk(base);
    }
    pthread_barrier_wait(&finish_line);
    sleep(LIFETIME_SECONDS);
    return NULL;
}

static void say_counts(int threads)
{
    char text[4096];
    int length = 0;
    for (int kind = 0; kind < KINDS; kind++) {
        struct counts sum = { 0 };
        for (int i = 0; i < threads; i++) {
            sum.calls += workers[i].counts[kind].calls;
            sum.bytes += workers[i].counts[kind].bytes;
            sum.failed += workers[i].counts[kind].failed;
        }
        length += snprintf(text + length, sizeof text - (size_t)length,
                           "%s\"%s\":{\"calls\":%lu,\"bytes\":%lu,\"failed\":%lu}", kind ? "," : "", names[kind],
                           sum.calls, sum.bytes, sum.failed);
    }
    say("{%s}", text);
}

static void random_calls(int argc, char **argv)
{
    if (argc < 5)
        fail("random SEED CALLS THREADS");
    int threads = atoi(argv[4]);
    file = memfd_create("mappings", 0);
    if (threads < 1 || threads > MOST_THREADS || file < 0 || ftruncate(file, 1 << 20) != 0)
        fail("can't begin");
    pthread_barrier_init(&start_line, NULL, (unsigned)threads + 1);
    pthread_barrier_init(&finish_line, NULL, (unsigned)threads + 1);
    for (int i = 0; i < threads; i++) {
        pthread_t thread;
        workers[i].random = strtoull(argv[2], NULL, 10) * 1000003u + (uint64_t)i + 1;
        workers[i].todo = atol(argv[3]);
        workers[i].moves_break = i == 0;
        if (pthread_create(&thread, NULL, work, &workers[i]) != 0)
            fail("no thread");
    }
    ready_and_wait();
    pthread_barrier_wait(&start_line);
    pthread_barrier_wait(&finish_line);
    say_counts(threads);
}

/* Blocks below the size for which malloc would call mmap. */
static void heap(void)
{
    static void *blocks[2000];
    mallopt(M_MMAP_MAX, 0);
    ready_and_wait();
    char *before = sbrk(0);
    for (int i = 0; i < 2000; i++)
        blocks[i] = malloc(50001);
    char *high = sbrk(0);
    for (int i = 1999; i >= 0; i--)
        free(blocks[i]);
    malloc_trim(0);
    sbrk(12345);
    sbrk(-345);
    say("{\"moved\":%ld,\"high\":%ld}", (char *)sbrk(0) - before, high - before);
}

static void refused(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_brk, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 1),
    };
    struct sock_fprog filter = { sizeof program / sizeof *program, program };
    ready_and_wait();
    char *mine = map(&workers[0], ANONYMOUS, NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    long now = raw_brk(0);
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
        fail("no filter");
    for (int i = 0; i < 100; i++) {
        map(&workers[0], ANONYMOUS, NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        map(&workers[0], RESERVE, NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1);
        unmap(&workers[0], mine, 4096);
        note(&workers[0], BRK_GROW, raw_brk(now + 4096) == now + 4096, 4096);
    }
    say_counts(1);
}

static void forks(void)
{
    ready_and_wait();
    map(&workers[0], ANONYMOUS, NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 1000; i++)
            syscall(SYS_mmap, NULL, 4096L, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L);
        _exit(0);
    }
    if (child < 0 || waitpid(child, NULL, 0) != child)
        fail("no child");
    say_counts(1);
}

static void no_compat(int signal)
{
    (void)signal;
    say("{\"error\":\"this kernel has no 32-bit interface\"}");
    _exit(0);
}

/* brk(0), and mmap2 of a page, by the old gate. */
static void compat(void)
{
    signal(SIGSEGV, no_compat);
    ready_and_wait();
    for (int i = 0; i < 100; i++) {
        long result;
        __asm__ volatile("xor %%r8d, %%r8d\n\tpush %%rbp\n\txor %%ebp, %%ebp\n\tint $0x80\n\tpop %%rbp"
                         : "=a"(result)
                         : "0"(192L), "b"(0L), "c"(4096L), "d"(PROT_READ), "S"(MAP_PRIVATE | MAP_ANONYMOUS), "D"(-1L)
                         : "r8", "r9", "r10", "r11", "memory");
        if (result > -4096 && result < 0)
            fail("the old gate refuses to map");
    }
    say_counts(1);
}

int main(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (strcmp(mode, "random") == 0)
        random_calls(argc, argv);
    else if (strcmp(mode, "heap") == 0)
        heap();
    else if (strcmp(mode, "refused") == 0)
        refused();
    else if (strcmp(mode, "fork") == 0)
        forks();
    else if (strcmp(mode, "compat") == 0)
        compat();
    else
        fail("which mode?");
    wait_for_the_end();
}
