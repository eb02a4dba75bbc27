/* Calls every function of the allocator at random, one thread, and counts each call under the label that it must have:
 *
 *   calls SEED STEPS
 *
 * This C library leaves realloc(NULL, n), and an alignment that every block has, to malloc, and reallocarray to realloc;
 * memalign and aligned_alloc are the same code. */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <gnu/libc-version.h>
#include <malloc.h>

enum label { MALLOC, CALLOC, REALLOC, POSIX_MEMALIGN, ALIGNED_ALLOC, VALLOC, PVALLOC, FREE, LABELS };
static const char *const NAMES[LABELS] = { "malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc",
    "valloc", "pvalloc", "free" };
static struct {
    uint64_t allocations, frees, bytes, refused;
} counts[LABELS];

#define SLOTS 512
static void *slots[SLOTS];
static uint64_t seed;
static uint64_t silent_refusals;

static size_t below(size_t limit)
{
    return (size_t)(next_random(&seed) >> 11) % limit;
}

/* Mostly small; at times large enough to be mapped on its own (128 KiB and more). */
static size_t any_size(void)
{
    switch (below(16)) {
    case 0: return 131072 + below(8 << 20);
    case 1: return below(131072);
    case 2: return below(2);
    default: return below(2048);
    }
}

static size_t any_size_but_zero(void)
{
    size_t size = any_size();
    return size == 0 ? 1 : size;
}

/* More than any request may be: from PTRDIFF_MAX + 1 to SIZE_MAX. */
static size_t too_large(void)
{
    static const size_t sizes[] = { (size_t)1 << 63, (size_t)-1, (size_t)-4096, ((size_t)1 << 63) + 12345 };
    return sizes[below(4)];
}

static void *allocated(enum label label, size_t bytes, void *block)
{
    if (block == NULL)
        fail("an allocation failed");
    counts[label].allocations++;
    counts[label].bytes += bytes;
    *(volatile char *)block = 1;
    return block;
}

static void refused(enum label label, const void *result)
{
    if (result != NULL)
        fail("an impossible allocation succeeded");
    counts[label].refused++;
}

static void *allocate(void)
{
    size_t size = any_size_but_zero(), count = 1 + below(64), alignment;
    void *block = NULL;
    switch (below(9)) {
    case 0: return allocated(MALLOC, size, malloc(size));
    case 1: return allocated(CALLOC, size / count * count, calloc(count, size / count));
    case 2: return allocated(MALLOC, size, realloc(NULL, size));
    case 3: return allocated(MALLOC, size / count * count, reallocarray(NULL, count, size / count));
    case 4:
        alignment = (size_t)8 << below(9);
        if (posix_memalign(&block, alignment, size) != 0)
            fail("posix_memalign failed");
        return allocated(alignment <= 16 ? MALLOC : POSIX_MEMALIGN, size, block);
    case 5:
        alignment = (size_t)1 << below(12);
        return allocated(alignment <= 16 ? MALLOC : ALIGNED_ALLOC, size, aligned_alloc(alignment, size));
    case 6:
        /* memalign rounds up what is no power of two. */
        alignment = below(3) == 0 ? 17 + below(200) : (size_t)8 << below(9);
        return allocated(alignment <= 16 ? MALLOC : ALIGNED_ALLOC, size, memalign(alignment, size));
    case 7: return allocated(VALLOC, size, valloc(size));
    default: return allocated(PVALLOC, size, pvalloc(size));
    }
}

static void *resize(void *block)
{
    size_t size = any_size_but_zero(), count = 1 + below(64);
    if (size < count)
        size = count;
    counts[REALLOC].frees++;
    if (below(3) == 0)
        return allocated(REALLOC, size / count * count, reallocarray(block, count, size / count));
    return allocated(REALLOC, size, realloc(block, size));
}

static void *give_back(void *block)
{
    switch (below(8)) {
    case 0:
        if (realloc(block, 0) != NULL)
            fail("realloc(p, 0) is expected to free");
        counts[REALLOC].frees++;
        return NULL;
    case 1:
        if (reallocarray(block, below(2) ? 0 : 7, 0) != NULL)
            fail("reallocarray(p, n, 0) is expected to free");
        counts[REALLOC].frees++;
        return NULL;
    default:
        free(block);
        counts[FREE].frees++;
        return NULL;
    }
}

/* Calls that change nothing. The block stays as it is. */
static void ask_the_impossible(void *block)
{
    void *result = NULL;
    switch (below(15)) {
    case 0: refused(MALLOC, malloc(too_large())); break;
    case 1: refused(CALLOC, calloc((size_t)1 << 32, (size_t)1 << 32)); break;
    case 2: refused(CALLOC, calloc(1, too_large())); break;
    case 3: refused(CALLOC, calloc(3, ((size_t)1 << 63) - 1)); break;
    case 4: refused(REALLOC, realloc(block, too_large())); break;
    case 5: refused(MALLOC, realloc(NULL, too_large())); break;
    case 6: refused(REALLOC, reallocarray(block, 1, too_large())); break;
    case 7: refused(ALIGNED_ALLOC, memalign(64, too_large())); break;
    case 8: refused(MALLOC, memalign(8, too_large())); break;
    case 9: refused(ALIGNED_ALLOC, memalign(((size_t)1 << 63) + 1, 10)); break;
    case 10: refused(VALLOC, valloc(too_large())); break;
    case 11: refused(PVALLOC, pvalloc(too_large())); break;
    case 12: {
        static const size_t bad[] = { 0, 1, 2, 3, 4, 7, 12, 24, 48, 1000 };
        if (posix_memalign(&result, bad[below(10)], 100) != EINVAL)
            fail("a bad alignment was accepted");
        refused(POSIX_MEMALIGN, NULL);
        break;
    }
    case 13:
        if (posix_memalign(&result, 64, too_large()) != ENOMEM)
            fail("an impossible size was accepted");
        refused(POSIX_MEMALIGN, NULL);
        break;
    default:
        /* Where the product overflows, reallocarray returns before it gets to realloc. */
        if (reallocarray(block, (size_t)1 << 33, (size_t)1 << 33) != NULL)
            fail("an impossible product was accepted");
        silent_refusals++;
        break;
    }
}

int main(int argc, char **argv)
{
    seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
    long steps = argc > 2 ? atol(argv[2]) : 1000;
    ready_and_wait();
    for (long step = 0; step < steps; step++) {
        void **slot = &slots[below(SLOTS)];
        if (below(8) == 0)
            free(NULL);
        if (*slot == NULL)
            *slot = allocate();
        else if (below(6) == 0)
            ask_the_impossible(*slot);
        else
            *slot = below(5) < 2 ? resize(*slot) : give_back(*slot);
    }
    static char text[4096];
    int at = 0;
    for (int label = 0; label < LABELS; label++)
        at += snprintf(text + at, sizeof text - (size_t)at,
            "%s\"%s\":{\"allocations\":%lu,\"frees\":%lu,\"bytes\":%lu,\"refused\":%lu}", label ? "," : "",
            NAMES[label], counts[label].allocations, counts[label].frees, counts[label].bytes,
            counts[label].refused);
    say("{\"glibc\":\"%s\",\"silent_refusals\":%lu,\"functions\":{%s}}", gnu_get_libc_version(), silent_refusals,
        text);
    wait_for_the_end();
}
