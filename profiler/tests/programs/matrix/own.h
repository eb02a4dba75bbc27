/* The functions that only one allocator has: compiled by -DJEMALLOC, -DTCMALLOC or -DMIMALLOC. */
#ifndef OWN_H
#define OWN_H

#include "matrix.h"

#if defined(JEMALLOC)
#include <jemalloc/jemalloc.h>

MAKER(by_mallocx, mallocx(n, 0))
MAKER(by_mallocx_zeroed, mallocx(n, MALLOCX_ZERO))
MAKER(by_mallocx_aligned, mallocx(n, MALLOCX_ALIGN(s->alignment)))
CHANGER(with_rallocx, rallocx(s->block, n, 0))
CHANGER(with_rallocx_zeroed, rallocx(s->block, n, MALLOCX_ZERO))
GIVER(to_dallocx, dallocx(s->block, 0))
GIVER(to_sdallocx, sdallocx(s->block, s->size, 0))

/* None of these makes, resizes or frees a block of the program's; xallocx keeps to the size that the block has. */
GIVER(to_none_and_free, {
    unused = sallocx(s->block, 0);
    unused = nallocx(s->size, 0);
    unused = xallocx(s->block, s->size, 0, 0);
    free(s->block);
})

static const struct maker own_makers[] = { { by_mallocx, PLAIN }, { by_mallocx_zeroed, PLAIN },
    { by_mallocx_aligned, ALIGNED }, { by_malloc, PLAIN } };
static const struct changer own_changers[] = { { with_rallocx, 15 }, { with_rallocx_zeroed, 15 } };
static const struct giver own_givers[] = { { to_dallocx, 15 }, { to_sdallocx, PLAIN }, { to_none_and_free, 15 } };
#define OWN_PART "mallocx"

#elif defined(TCMALLOC)
#ifdef __cplusplus
extern "C" {
#endif
/* Its header shows some of these to C++ only, and some to nobody. */
void *tc_malloc(size_t), *tc_malloc_skip_new_handler(size_t), *tc_calloc(size_t, size_t), *tc_realloc(void *, size_t);
void *tc_new(size_t), *tc_newarray(size_t), *tc_memalign(size_t, size_t), *tc_valloc(size_t), *tc_pvalloc(size_t);
int tc_posix_memalign(void **, size_t, size_t);
void tc_free(void *), tc_cfree(void *), tc_delete(void *), tc_deletearray(void *);
void tc_free_sized(void *, size_t), tc_delete_sized(void *, size_t);
size_t tc_malloc_size(void *), tc_nallocx(size_t, int);
#ifdef __cplusplus
}
#endif

static void *tc_posix_memaligned(size_t alignment, size_t size)
{
    void *block = NULL;
    return tc_posix_memalign(&block, alignment, size) == 0 ? block : NULL;
}

MAKER(by_tc_malloc, tc_malloc(n))
MAKER(by_tc_skip, tc_malloc_skip_new_handler(n))
MAKER(by_tc_calloc, tc_calloc(eights(s), 8))
MAKER(by_tc_realloc, tc_realloc(NULL, n))
MAKER(by_tc_new, tc_new(n))
MAKER(by_tc_newarray, tc_newarray(n))
MAKER(by_tc_memalign, tc_memalign(s->alignment, n))
MAKER(by_tc_posix_memalign, tc_posix_memaligned(s->alignment, n))
MAKER(by_tc_valloc, tc_valloc(n))
MAKER(by_tc_pvalloc, tc_pvalloc(whole_pages(s)))
CHANGER(with_tc_realloc, tc_realloc(s->block, n))
GIVER(to_tc_free, tc_free(s->block))
GIVER(to_tc_cfree, tc_cfree(s->block))
GIVER(to_tc_delete, tc_delete(s->block))
GIVER(to_tc_deletearray, tc_deletearray(s->block))
GIVER(to_none_and_tc_free, {
    unused = tc_malloc_size(s->block);
    unused = tc_nallocx(s->size, 0);
    tc_free(s->block);
})
GIVER(to_tc_free_sized, tc_free_sized(s->block, s->size))
GIVER(to_tc_delete_sized, tc_delete_sized(s->block, s->size))

static const struct maker own_makers[] = { { by_tc_malloc, PLAIN }, { by_tc_skip, PLAIN }, { by_tc_calloc, PLAIN },
    { by_tc_realloc, PLAIN }, { by_tc_new, PLAIN }, { by_tc_newarray, PLAIN }, { by_tc_memalign, ALIGNED },
    { by_tc_posix_memalign, ALIGNED }, { by_tc_valloc, ALIGNED }, { by_tc_pvalloc, ALIGNED } };
static const struct changer own_changers[] = { { with_tc_realloc, 15 } };
static const struct giver own_givers[] = { { to_tc_free, 15 }, { to_tc_cfree, 15 }, { to_tc_delete, 15 },
    { to_tc_deletearray, 15 }, { to_none_and_tc_free, 15 }, { to_tc_free_sized, PLAIN }, { to_tc_delete_sized, PLAIN } };
#define OWN_PART "tc_"

#elif defined(MIMALLOC)
#include <mimalloc.h>

static void *mi_posix_memaligned(size_t alignment, size_t size)
{
    void *block = NULL;
    return mi_posix_memalign(&block, alignment, size) == 0 ? block : NULL;
}

/* The largest size that the functions for small ones take. */
static size_t small(struct slot *s)
{
    if (s->size > MI_SMALL_SIZE_MAX)
        s->size = MI_SMALL_SIZE_MAX;
    return s->size;
}

static const char text[] = "a text of some length";
static const unsigned short wide[] = { 'w', 'i', 'd', 'e', 0 };

/* How long a copy is, only the copied text tells. */
static char *copied(struct slot *s, char *block, size_t size)
{
    s->size = size;
    add(&counts.copied, size);
    return block;
}

static size_t fixed(struct slot *s, size_t size)
{
    return s->size = size;
}

/* A block whose ninth byte is the aligned one. */
static size_t with_head(struct slot *s)
{
    s->size += 8;
    return s->size;
}

#define HEAP mi_heap_get_default()

MAKER(by_mi_malloc, mi_malloc(n))
MAKER(by_mi_malloc_small, mi_malloc_small(small(s)))
MAKER(by_mi_zalloc, mi_zalloc(n))
MAKER(by_mi_zalloc_small, mi_zalloc_small(small(s)))
MAKER(by_mi_calloc, mi_calloc(eights(s), 8))
MAKER(by_mi_mallocn, mi_mallocn(eights(s), 8))
MAKER(by_mi_realloc, mi_realloc(NULL, n))
MAKER(by_mi_new, mi_new(n))
MAKER(by_mi_new_n, mi_new_n(eights(s), 8))
MAKER(by_mi_new_nothrow, mi_new_nothrow(n))
MAKER(by_mi_strdup, copied(s, mi_strdup(text), sizeof text))
MAKER(by_mi_strndup, copied(s, mi_strndup(text, 6), 7))
MAKER(by_mi_heap_strdup, copied(s, mi_heap_strdup(HEAP, text), sizeof text))
MAKER(by_mi_heap_strndup, copied(s, mi_heap_strndup(HEAP, text, 6), 7))
MAKER(by_mi_mbsdup, copied(s, (char *)mi_mbsdup((const unsigned char *)text), sizeof text))
MAKER(by_mi_wcsdup, fixed(s, sizeof wide) ? mi_wcsdup(wide) : NULL)
MAKER(by_mi_heap_malloc, mi_heap_malloc(HEAP, n))
MAKER(by_mi_heap_zalloc, mi_heap_zalloc(HEAP, n))
MAKER(by_mi_heap_calloc, mi_heap_calloc(HEAP, eights(s), 8))
MAKER(by_mi_heap_mallocn, mi_heap_mallocn(HEAP, eights(s), 8))
MAKER(by_mi_heap_malloc_small, mi_heap_malloc_small(HEAP, small(s)))
MAKER(by_mi_heap_malloc_aligned, mi_heap_malloc_aligned(HEAP, n, s->alignment))
MAKER(by_mi_malloc_aligned, mi_malloc_aligned(n, s->alignment))
MAKER(by_mi_malloc_aligned_at, mi_malloc_aligned_at(with_head(s), s->alignment, 8))
MAKER(by_mi_zalloc_aligned, mi_zalloc_aligned(n, s->alignment))
MAKER(by_mi_calloc_aligned, mi_calloc_aligned(eights(s), 8, s->alignment))
MAKER(by_mi_memalign, mi_memalign(s->alignment, n))
MAKER(by_mi_aligned_alloc, mi_aligned_alloc(s->alignment, whole_alignments(s)))
MAKER(by_mi_posix_memalign, mi_posix_memaligned(s->alignment, n))
MAKER(by_mi_valloc, mi_valloc(n))
MAKER(by_mi_pvalloc, mi_pvalloc(whole_pages(s)))
MAKER(by_mi_new_aligned, mi_new_aligned(n, s->alignment))
MAKER(by_mi_new_aligned_nothrow, mi_new_aligned_nothrow(n, s->alignment))
CHANGER(with_mi_realloc, mi_realloc(s->block, n))
CHANGER(with_mi_reallocn, mi_reallocn(s->block, 1, n))
CHANGER(with_mi_reallocf, mi_reallocf(s->block, n))
CHANGER(with_mi_rezalloc, mi_rezalloc(s->block, n))
CHANGER(with_mi_recalloc, mi_recalloc(s->block, 1, n))
CHANGER(with_mi_reallocarray, mi_reallocarray(s->block, 1, n))
CHANGER(with_mi_new_realloc, mi_new_realloc(s->block, n))
CHANGER(with_mi_new_reallocn, mi_new_reallocn(s->block, 1, n))
CHANGER(with_mi_heap_realloc, mi_heap_realloc(HEAP, s->block, n))
CHANGER(with_mi_realloc_aligned, mi_realloc_aligned(s->block, n, s->alignment))
CHANGER(with_mi_rezalloc_aligned, mi_rezalloc_aligned(s->block, n, s->alignment))
GIVER(to_mi_free, mi_free(s->block))
GIVER(to_mi_cfree, mi_cfree(s->block))
GIVER(to_mi_free_size, mi_free_size(s->block, s->size))
GIVER(to_mi_free_size_aligned, mi_free_size_aligned(s->block, s->size, s->alignment))
GIVER(to_mi_free_aligned, mi_free_aligned(s->block, s->alignment))
GIVER(to_none_and_mi_free, {
    unused = mi_usable_size(s->block);
    unused = mi_good_size(s->size);
    unused = (size_t)mi_expand(s->block, s->size);
    unused = (size_t)mi_strdup(NULL);
    mi_free(s->block);
})

static const struct maker own_makers[] = { { by_mi_malloc, PLAIN }, { by_mi_malloc_small, PLAIN },
    { by_mi_zalloc, PLAIN }, { by_mi_zalloc_small, PLAIN }, { by_mi_calloc, PLAIN }, { by_mi_mallocn, PLAIN },
    { by_mi_realloc, PLAIN }, { by_mi_new, PLAIN }, { by_mi_new_n, PLAIN }, { by_mi_new_nothrow, PLAIN },
    { by_mi_strdup, PLAIN }, { by_mi_strndup, PLAIN }, { by_mi_heap_strdup, PLAIN }, { by_mi_heap_strndup, PLAIN },
    { by_mi_mbsdup, PLAIN }, { by_mi_wcsdup, PLAIN }, { by_mi_heap_malloc, PLAIN }, { by_mi_heap_zalloc, PLAIN },
    { by_mi_heap_calloc, PLAIN }, { by_mi_heap_mallocn, PLAIN }, { by_mi_heap_malloc_small, PLAIN },
    { by_mi_heap_malloc_aligned, ALIGNED }, { by_mi_malloc_aligned, ALIGNED }, { by_mi_malloc_aligned_at, CHANGED },
    { by_mi_zalloc_aligned, ALIGNED }, { by_mi_calloc_aligned, ALIGNED }, { by_mi_memalign, ALIGNED },
    { by_mi_aligned_alloc, ALIGNED }, { by_mi_posix_memalign, ALIGNED }, { by_mi_valloc, CHANGED },
    { by_mi_pvalloc, CHANGED }, { by_mi_new_aligned, ALIGNED }, { by_mi_new_aligned_nothrow, ALIGNED } };
static const struct changer own_changers[] = { { with_mi_realloc, 15 }, { with_mi_reallocn, 15 },
    { with_mi_reallocf, 15 }, { with_mi_rezalloc, 15 }, { with_mi_recalloc, 15 }, { with_mi_reallocarray, 15 },
    { with_mi_new_realloc, 15 }, { with_mi_new_reallocn, 15 }, { with_mi_heap_realloc, 15 },
    { with_mi_realloc_aligned, 15 }, { with_mi_rezalloc_aligned, 15 } };
static const struct giver own_givers[] = { { to_mi_free, 15 }, { to_mi_cfree, 15 }, { to_mi_free_size, 15 },
    { to_mi_free_size_aligned, PLAIN | ALIGNED }, { to_mi_free_aligned, PLAIN | ALIGNED },
    { to_none_and_mi_free, 15 } };
#define OWN_PART "mi_"
#endif

#ifdef OWN_PART
static void own(void)
{
    uint64_t seed = 3;
    WALK(&seed, 8000, own_makers, own_changers, own_givers);
}
#define PARTS_OF_ITS_OWN { OWN_PART, own },
#else
#define PARTS_OF_ITS_OWN
#endif

#endif
