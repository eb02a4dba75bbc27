/* Counts a program's calls into the C library's allocator from the outside: LD_PRELOAD puts these functions before the
 * library's own. What the library calls by itself, past its public names, isn't seen here, as it should be.
 *
 * `observed_part_begins` tells `ready`, waits for a line and starts to count; `observed_part_ends` tells the counts and
 * waits for the end. A script calls them around what is to be compared; a helper that finds them does so by itself. */
#define _GNU_SOURCE
#include "helper.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>

static atomic_ulong allocations, frees, bytes, refused;

/* dlsym itself allocates before the real functions are known. */
static char early[65536] __attribute__((aligned(16)));
static size_t early_used;

static int is_early(const void *block)
{
    return (const char *)block >= early && (const char *)block < early + sizeof early;
}

static void *from_early(size_t size)
{
    void *block = early + early_used;
    early_used += (size + 15) & ~(size_t)15;
    if (early_used > sizeof early)
        _exit(5);
    return block;
}

static void *(*real_malloc)(size_t);
static void *(*real_calloc)(size_t, size_t);
static void *(*real_realloc)(void *, size_t);
static void *(*real_reallocarray)(void *, size_t, size_t);
static int (*real_posix_memalign)(void **, size_t, size_t);
static void *(*real_aligned_alloc)(size_t, size_t);
static void *(*real_memalign)(size_t, size_t);
static void (*real_free)(void *);

static void find(void)
{
    static int looking;
    if (real_free != NULL || looking)
        return;
    looking = 1;
    real_calloc = dlsym(RTLD_NEXT, "calloc");
    real_realloc = dlsym(RTLD_NEXT, "realloc");
    real_reallocarray = dlsym(RTLD_NEXT, "reallocarray");
    real_posix_memalign = dlsym(RTLD_NEXT, "posix_memalign");
    real_aligned_alloc = dlsym(RTLD_NEXT, "aligned_alloc");
    real_memalign = dlsym(RTLD_NEXT, "memalign");
    real_malloc = dlsym(RTLD_NEXT, "malloc");
    real_free = dlsym(RTLD_NEXT, "free");
    looking = 0;
}

static void count_allocation(size_t size)
{
    if (size >> 63) {
        refused++;
    } else {
        allocations++;
        bytes += size;
    }
}

static void count_resize(void *block, size_t size)
{
    if (block == NULL) {
        count_allocation(size);
    } else if (size == 0) {
        frees++;
    } else if (size >> 63) {
        refused++;
    } else {
        frees++;
        count_allocation(size);
    }
}

void *malloc(size_t size)
{
    find();
    if (real_malloc == NULL)
        return from_early(size);
    count_allocation(size);
    return real_malloc(size);
}

void *calloc(size_t count, size_t size)
{
    size_t product;
    find();
    if (real_calloc == NULL)
        return from_early(count * size);
    if (__builtin_mul_overflow(count, size, &product))
        refused++;
    else
        count_allocation(product);
    return real_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    find();
    if (is_early(block)) {
        size_t most = (size_t)(early + sizeof early - (char *)block);
        void *moved = malloc(size);
        if (moved != NULL)
            memcpy(moved, block, size < most ? size : most);
        return moved;
    }
    count_resize(block, size);
    return real_realloc(block, size);
}

void *reallocarray(void *block, size_t count, size_t size)
{
    size_t product;
    find();
    if (!__builtin_mul_overflow(count, size, &product))
        count_resize(block, product);
    return real_reallocarray(block, count, size);
}

int posix_memalign(void **block, size_t alignment, size_t size)
{
    find();
    count_allocation(size);
    return real_posix_memalign(block, alignment, size);
}

void *aligned_alloc(size_t alignment, size_t size)
{
    find();
    count_allocation(size);
    return real_aligned_alloc(alignment, size);
}

void *memalign(size_t alignment, size_t size)
{
    find();
    count_allocation(size);
    return real_memalign(alignment, size);
}

void free(void *block)
{
    find();
    if (block == NULL || is_early(block))
        return;
    frees++;
    real_free(block);
}

void counts_from_outside_begin(void)
{
    allocations = frees = bytes = refused = 0;
}

const char *counts_from_outside(void)
{
    static char text[256];
    snprintf(text, sizeof text, "{\"allocations\":%lu,\"frees\":%lu,\"bytes\":%lu,\"refused\":%lu}", allocations,
        frees, bytes, refused);
    return text;
}

void observed_part_begins(void)
{
    ready_and_wait();
}

void observed_part_ends(void)
{
    say("%s", counts_from_outside());
    wait_for_the_end();
}
