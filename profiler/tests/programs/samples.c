/* Allocates and frees in several threads, and keeps a list of what it got and gave:
 *
 *   samples exact|plenty THREADS STEPS FILE
 *
 * Told to start, it works and says how many bytes it has asked for; told to go on, it writes its list into the file and says
 * so. A line of the list is `A address bytes` or `F address`; a realloc that has succeeded is both. `exact` tries every
 * function and failures, too; all blocks have at least 32 bytes. The threads are there before the start, and stay. */
#define _GNU_SOURCE
#include "helper.h"

#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>

#define THREADS 4
#define EVENTS 200000
#define SLOTS 64
/* Fails: there are not so many addresses. */
#define TOO_MUCH ((size_t)1 << 46)
/* Of the block whose stack is looked at. */
#define MARKED 4321
#define MARK 0x5157454554u

struct event {
    char kind;
    void *address;
    size_t bytes;
};
static struct thread {
    struct event events[EVENTS];
    int count;
    uint64_t seed, bytes;
    void *slots[SLOTS];
} threads[THREADS];
static int exact, started, finished;
static long steps;

static void note(struct thread *me, char kind, void *address, size_t bytes)
{
    if (me->count == EVENTS)
        fail("too many events");
    me->events[me->count++] = (struct event){ kind, address, bytes };
    if (kind == 'A')
        me->bytes += bytes;
}

static size_t below(struct thread *me, size_t limit)
{
    return (size_t)(next_random(&me->seed) >> 11) % limit;
}

static void *got(struct thread *me, void *block, size_t bytes)
{
    if (block == NULL)
        fail("an allocation failed");
    note(me, 'A', block, bytes);
    return block;
}

static __attribute__((noinline)) void *deep(struct thread *me, volatile char *untouched)
{
    (void)untouched;
    return got(me, malloc(MARKED), MARKED);
}

/* A caller whose frame has pages that nobody has written, perhaps. */
static __attribute__((noinline)) void *with_a_mark(struct thread *me)
{
    volatile uint64_t mark[2] = { MARK, MARK };
    volatile char untouched[9000];
    void *block = deep(me, untouched);
    if (mark[0] != MARK)
        fail("the mark has gone");
    return block;
}

static void *allocate(struct thread *me)
{
    size_t size = 32 + below(me, below(me, 8) ? 2000 : 300000);
    void *block = NULL;
    switch (below(me, 10)) {
    case 0: return got(me, calloc(8, size / 8), size / 8 * 8);
    case 1: return got(me, realloc(NULL, size), size);
    case 2: return got(me, reallocarray(NULL, 4, size / 4), size / 4 * 4);
    case 3:
        if (posix_memalign(&block, (size_t)8 << below(me, 6), size) != 0)
            fail("posix_memalign failed");
        return got(me, block, size);
    case 4: return got(me, aligned_alloc((size_t)16 << below(me, 6), size), size);
    case 5: return got(me, memalign((size_t)16 << below(me, 6), size), size);
    case 6: return got(me, valloc(size), size);
    case 7: return got(me, strdup("a text of more than thirty-two bytes"), 37);
    case 8: return with_a_mark(me);
    default: return got(me, malloc(size), size);
    }
}

static void fail_somehow(struct thread *me, void *block)
{
    void *result = &result;
    switch (below(me, 4)) {
    case 0: result = malloc(TOO_MUCH); break;
    case 1: result = calloc(TOO_MUCH, 1); break;
    case 2: result = realloc(block, TOO_MUCH); break;
    default:
        if (posix_memalign(&result, 64, TOO_MUCH) == 0)
            fail("too much was given");
        return;
    }
    if (result != NULL)
        fail("too much was given");
}

static void step(struct thread *me)
{
    void **slot = &me->slots[below(me, SLOTS)];
    if (!exact) {
        size_t size = 1 + below(me, 2000);
        free(*slot);
        *slot = got(me, malloc(size), size);
    } else if (*slot == NULL) {
        *slot = allocate(me);
    } else if (below(me, 8) == 0) {
        fail_somehow(me, *slot);
    } else if (below(me, 3) == 0) {
        /* Within its place, or to another. */
        size_t size = 32 + below(me, below(me, 2) ? 200 : 200000);
        note(me, 'F', *slot, 0);
        *slot = got(me, realloc(*slot, size), size);
    } else if (below(me, 8) == 0) {
        note(me, 'F', *slot, 0);
        if (realloc(*slot, 0) != NULL)
            fail("realloc(p, 0) is expected to free");
        *slot = NULL;
    } else {
        note(me, 'F', *slot, 0);
        free(*slot);
        *slot = NULL;
    }
}

static void *work(void *argument)
{
    struct thread *me = argument;
    while (!__atomic_load_n(&started, __ATOMIC_ACQUIRE))
        sleep_ms(1);
    for (long n = 0; n < steps; n++) {
        step(me);
        /* So that nobody has to read faster than this machine can. */
        if (n % (exact ? 8 : 16) == 7)
            sleep_ms(1);
    }
    __atomic_add_fetch(&finished, 1, __ATOMIC_ACQ_REL);
    for (;;)
        sleep_ms(1000);
}

int main(int argc, char **argv)
{
    char line[64];
    int many = argc > 2 ? atoi(argv[2]) : 1;
    if (argc < 5 || many > THREADS)
        fail("samples exact|plenty THREADS STEPS FILE");
    exact = strcmp(argv[1], "exact") == 0;
    steps = atol(argv[3]);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    for (int i = 0; i < many; i++) {
        pthread_t id;
        threads[i].seed = 77 + (uint64_t)i;
        if (pthread_create(&id, &attributes, work, &threads[i]) != 0)
            fail("no thread");
    }
    /* Their allocations come from arenas of their own, which are made with the first one. */
    sleep_ms(50);
    ready_and_wait();
    __atomic_store_n(&started, 1, __ATOMIC_RELEASE);
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) < many)
        sleep_ms(1);
    uint64_t bytes = 0;
    for (int i = 0; i < many; i++)
        bytes += threads[i].bytes;
    say("{\"bytes\":%lu}", bytes);
    if (!hear(line, sizeof line))
        _exit(0);
    int file = open(argv[4], O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (int i = 0; i < many; i++)
        for (int n = 0; n < threads[i].count; n++) {
            const struct event *event = &threads[i].events[n];
            int length = snprintf(line, sizeof line, "%c %lu %lu\n", event->kind,
                (unsigned long)event->address, (unsigned long)event->bytes);
            if (write(file, line, (size_t)length) != length)
                fail("the list can't be written");
        }
    say("{\"written\":true}");
    wait_for_the_end();
}
