/* What the C and the C++ program of the matrix share: blocks that wander between the functions of an allocator, and the
 * count of what was asked for.
 *
 * A program works in parts; each begins with a line on standard input and ends with the counts up to there. What a call
 * has done is read off its result, never off a table: an allocator may return NULL from realloc(p, 0) or a new block. */
#ifndef MATRIX_H
#define MATRIX_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "../helper.h"

#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>

/* Who may free a block, and how. */
enum kind {
    PLAIN = 1,       /* as it came from a function without an alignment: a sized free may be given its size */
    ALIGNED = 2,     /* from the memalign family */
    ALIGNED_NEW = 4, /* from operator new with an alignment */
    CHANGED = 8,     /* resized: a sized free may not be sure of its size */
};

struct slot {
    void *block;
    size_t size, alignment;
    enum kind kind;
};

/* Fills in `block`; may round `size` up before it asks. */
struct maker {
    void (*make)(struct slot *slot);
    enum kind kind;
};

/* Returns what the allocator did; the block stays what it was if that is NULL. */
struct changer {
    void *(*change)(struct slot *slot, size_t size);
    int kinds;
};

struct giver {
    void (*give)(struct slot *slot);
    int kinds;
};

static struct {
    uint64_t allocations, frees, bytes;
    /* Those of the bytes that no argument tells. */
    uint64_t copied;
} counts;

static void add(uint64_t *counter, uint64_t number)
{
    __atomic_fetch_add(counter, number, __ATOMIC_RELAXED);
}

/* Counts a block that was asked for, if it was granted. */
static void *got(void *block, size_t size)
{
    if (block != NULL) {
        add(&counts.allocations, 1);
        add(&counts.bytes, size);
        if (size > 0)
            *(volatile char *)block = 1;
    }
    return block;
}

/* Counts a block that is given back. */
static void *gone(void *block)
{
    add(&counts.frees, block != NULL);
    return block;
}

/* Mostly small; at times large enough to be mapped on its own. */
static size_t any_size(uint64_t *seed)
{
    uint64_t random = next_random(seed) >> 16;
    switch (random % 32) {
    case 0: return 1 + (random >> 8) % (6 << 20);
    case 1:
    case 2: return 1 + (random >> 8) % 300000;
    default: return 1 + (random >> 8) % 2000;
    }
}

static void *one_of(const void *list, size_t size, size_t length, int kinds, size_t offset, uint64_t *seed)
{
    for (int tries = 0; tries < 1000; tries++) {
        const char *entry = (const char *)list + next_random(seed) % length * size;
        int accepted;
        memcpy(&accepted, entry + offset, sizeof accepted);
        if (accepted & kinds)
            return (void *)entry;
    }
    fail("no function for such a block");
    return NULL;
}

#define LENGTH(list) (sizeof(list) / sizeof *(list))
#define ONE_OF(type, list, kinds, wanted)                                                                              \
    ((const struct type *)one_of(list, sizeof *list, list##_length, wanted, offsetof(struct type, kinds), seed))

#define SLOTS 128

/* A walk over some blocks, each made, resized and given back by any function that fits. All are given back at the end. */
static void walk(uint64_t *seed, int steps, const struct maker *makers, size_t makers_length,
    const struct changer *changers, size_t changers_length, const struct giver *givers, size_t givers_length)
{
    struct slot slots[SLOTS] = { { NULL, 0, 0, PLAIN } };
    for (int step = 0; step < steps + SLOTS; step++) {
        int ending = step >= steps;
        struct slot *slot = &slots[ending ? step - steps : (int)(next_random(seed) % SLOTS)];
        if (slot->block == NULL && !ending) {
            const struct maker *maker = ONE_OF(maker, makers, kind, 15);
            slot->size = any_size(seed);
            slot->alignment = (size_t)8 << next_random(seed) % 10;
            slot->kind = maker->kind;
            maker->make(slot);
            if (got(slot->block, slot->size) == NULL)
                fail("an allocation failed");
        } else if (slot->block != NULL && !ending && changers_length > 0 && slot->kind != ALIGNED_NEW
            && next_random(seed) % 3 == 0) {
            const struct changer *changer = ONE_OF(changer, changers, kinds, slot->kind);
            size_t size = any_size(seed);
            gone(slot->block);
            slot->block = got(changer->change(slot, size), size);
            slot->size = size;
            slot->kind = CHANGED;
            if (slot->block == NULL)
                fail("a resize failed");
        } else if (slot->block != NULL) {
            const struct giver *giver = ONE_OF(giver, givers, kinds, slot->kind);
            gone(slot->block);
            giver->give(slot);
            slot->block = NULL;
        }
    }
}

#define WALK(seed, steps, makers, changers, givers)                                                                    \
    walk(seed, steps, makers, LENGTH(makers), changers, LENGTH(changers), givers, LENGTH(givers))

/* Shorter to write, and the same in C and C++. `s` is the slot, `n` its size, or the new one. */
#define MAKER(name, expression)                                                                                        \
    static void name(struct slot *s)                                                                                   \
    {                                                                                                                  \
        size_t n = s->size;                                                                                            \
        (void)n;                                                                                                       \
        s->block = expression;                                                                                         \
    }
#define CHANGER(name, expression)                                                                                      \
    static void *name(struct slot *s, size_t n)                                                                        \
    {                                                                                                                  \
        return expression;                                                                                             \
    }
#define GIVER(name, statement)                                                                                         \
    static void name(struct slot *s)                                                                                   \
    {                                                                                                                  \
        statement;                                                                                                     \
    }

/* ---- the functions of every C library ---- */

static void *posix_memaligned(size_t alignment, size_t size)
{
    void *block = NULL;
    return posix_memalign(&block, alignment, size) == 0 ? block : NULL;
}

/* A product whose second factor is 8, so that both count. */
static size_t eights(struct slot *s)
{
    s->size = (s->size + 7) / 8 * 8;
    return s->size / 8;
}

static __attribute__((unused)) size_t whole_pages(struct slot *s)
{
    s->size = (s->size + 4095) / 4096 * 4096;
    return s->size;
}

/* At least as much as the alignment, and a multiple of it, as C11 had it at first. */
static size_t whole_alignments(struct slot *s)
{
    s->size = (s->size + s->alignment - 1) / s->alignment * s->alignment;
    return s->size;
}

MAKER(by_malloc, malloc(n))
MAKER(by_calloc, calloc(eights(s), 8))
MAKER(by_realloc, realloc(NULL, n))
MAKER(by_reallocarray, reallocarray(NULL, eights(s), 8))
MAKER(by_posix_memalign, posix_memaligned(s->alignment, n))
MAKER(by_aligned_alloc, aligned_alloc(s->alignment, whole_alignments(s)))
MAKER(by_memalign, memalign(s->alignment, n))
MAKER(by_valloc, valloc(n))
CHANGER(with_realloc, realloc(s->block, n))
CHANGER(with_reallocarray, reallocarray(s->block, 1, n))
GIVER(to_free, free(s->block))

static const struct maker plain_makers[] = { { by_malloc, PLAIN }, { by_calloc, PLAIN }, { by_realloc, PLAIN },
    { by_reallocarray, PLAIN } };
static const struct changer changers[] = { { with_realloc, 15 }, { with_reallocarray, 15 } };
static const struct giver givers[] = { { to_free, 15 } };

#ifdef WITH_PVALLOC
MAKER(by_pvalloc, pvalloc(whole_pages(s)))
#endif
static const struct maker aligned_makers[] = { { by_malloc, PLAIN }, { by_posix_memalign, ALIGNED },
    { by_aligned_alloc, ALIGNED }, { by_memalign, ALIGNED }, { by_valloc, ALIGNED },
#ifdef WITH_PVALLOC
    { by_pvalloc, ALIGNED },
#endif
};

static void plain(void)
{
    uint64_t seed = 1;
    WALK(&seed, 8000, plain_makers, changers, givers);
}

static void aligned(void)
{
    uint64_t seed = 2;
    WALK(&seed, 6000, aligned_makers, changers, givers);
}

/* ---- what every allocator does in its own way ---- */

/* Not known to the compiler, which would otherwise know what comes of it. */
static volatile size_t zero = 0, impossible = ~(size_t)0 >> 1;

/* Where results go that nobody needs. */
static volatile size_t unused;

/* realloc of a block to nothing. */
static void resize_to_nothing(void *(*resize)(void *, size_t), void (*give)(void *))
{
    void *block = got(malloc(100), 100);
    gone(block);
    give(gone(got(resize(block, zero), 0)));
}

static void nothing_asked_for(void)
{
    for (int round = 0; round < 20; round++) {
        free(gone(got(malloc(zero), 0)));
        free(gone(got(calloc(zero, 8), 0)));
        free(gone(got(calloc(8, zero), 0)));
        free(gone(got(realloc(NULL, zero), 0)));
        free(gone(got(posix_memaligned(64, zero), 0)));
        free(NULL);
        resize_to_nothing(realloc, free);
    }
}

static void impossible_requests(void)
{
    size_t most = impossible;
    for (int round = 0; round < 20; round++) {
        void *block = got(malloc(100), 100);
        if (got(malloc(most + 1), 0) || got(malloc(most * 2), 0) || got(calloc(most, 4), 0)
            || got(calloc(3, most), 0) || got(realloc(NULL, most + 1), 0) || got(realloc(block, most + 1), 0)
            || got(reallocarray(block, most, 8), 0) || got(posix_memaligned(64, most + 1), 0)
            || got(aligned_alloc(64, most + 1), 0) || got(memalign(4096, most + 1), 0))
            fail("an impossible request was granted");
        free(gone(block));
    }
}

static void odd_alignments(void)
{
    static const size_t bad[] = { 0, 1, 2, 3, 4, 7, 12, 24, 48, 1000 };
    for (int round = 0; round < 20; round++)
        for (size_t i = 0; i < LENGTH(bad); i++)
            if (posix_memaligned(bad[i], 100) != NULL)
                fail("posix_memalign took a bad alignment");
    for (int round = 0; round < 20; round++) {
        /* A size that is no multiple, and alignments that every block has. */
        free(gone(got(aligned_alloc(64, 100), 100)));
        for (size_t power = 0; power < 4; power++) {
            free(gone(got(aligned_alloc((size_t)1 << power, 100), 100)));
            free(gone(got(memalign((size_t)1 << power, 100), 100)));
        }
        /* No power of two: one allocator rounds it up, another refuses. */
        free(gone(got(aligned_alloc(24, 96), 96)));
        free(gone(got(memalign(48, 96), 96)));
    }
}

static void no_calls(void)
{
    for (int round = 0; round < 20; round++) {
        void *block = got(malloc(100), 100);
        if (malloc_usable_size(block) < 100 || malloc_usable_size(NULL) != 0)
            fail("malloc_usable_size");
        free(gone(block));
        /* The C library's own call, wherever it goes. */
        static const char text[] = "a text of some length";
        free(gone(got(strdup(text), sizeof text)));
    }
}

/* ---- threads, which live before the part and end within it ---- */

#define THREADS 4
#define SHARED 256
/* More than a thread's cache of freed blocks holds of one size: it is full when the thread ends. */
#define KEPT 64
static void *shared[SHARED];
static pthread_barrier_t begin;
static pthread_t threads[THREADS];

static void *thread(void *argument)
{
    uint64_t seed = 100 + (uint64_t)(size_t)argument;
    void *kept[KEPT];
    /* What a thread needs once is there after this. */
    free(malloc(1));
    pthread_barrier_wait(&begin);
    pthread_barrier_wait(&begin);
    for (int round = 0; round < 4000; round++) {
        size_t size = any_size(&seed);
        void *block = got(malloc(size), size);
        free(gone(__atomic_exchange_n(&shared[next_random(&seed) % SHARED], block, __ATOMIC_SEQ_CST)));
    }
    for (int i = 0; i < KEPT; i++)
        kept[i] = got(malloc(64), 64);
    for (int i = 0; i < KEPT; i++)
        free(gone(kept[i]));
    return NULL;
}

static void start_threads(void)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    /* Small enough for all stacks to stay in the C library's cache when their threads end. */
    pthread_attr_setstacksize(&attributes, 256 << 10);
    pthread_barrier_init(&begin, NULL, THREADS + 1);
    for (size_t i = 0; i < THREADS; i++)
        if (pthread_create(&threads[i], &attributes, thread, (void *)i) != 0)
            fail("no thread");
    pthread_barrier_wait(&begin);
}

static void end_threads(void)
{
    pthread_barrier_wait(&begin);
    for (size_t i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (size_t i = 0; i < SHARED; i++)
        free(gone(shared[i]));
}

/* ---- parts ---- */

struct part {
    const char *name;
    void (*work)(void);
};

#define PARTS_OF_C                                                                                                     \
    { "plain", plain }, { "aligned", aligned }, { "nothing", nothing_asked_for },                                      \
        { "impossible", impossible_requests }, { "alignments", odd_alignments }, { "no calls", no_calls }

static void work_in_parts(const struct part *parts, size_t length)
{
    char line[64];
    start_threads();
    ready_and_wait();
    for (size_t i = 0; i < length; i++) {
        if (i > 0 && !hear(line, sizeof line))
            _exit(0);
        parts[i].work();
        say("{\"part\":\"%s\",\"more\":%s,\"allocations\":%lu,\"frees\":%lu,\"bytes\":%lu,\"copied\":%lu}",
            parts[i].name,
            i + 1 < length ? "true" : "false", (unsigned long)counts.allocations, (unsigned long)counts.frees,
            (unsigned long)counts.bytes, (unsigned long)counts.copied);
    }
    wait_for_the_end();
}

#endif
