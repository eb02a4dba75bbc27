/* A library with an allocator of its own under prefixed names, which is really gone once it is unloaded. */
#include <stddef.h>
#include <string.h>

#define NAME(name) __attribute__((visibility("default"), noinline)) name
#define SIZES 8

/* A block's size class stands before it, a free block begins with the next free one. */
struct head {
    size_t size_class, unused;
};

static char room[1 << 20] __attribute__((aligned(16)));
static size_t used;
static void *free_blocks[SIZES];

static inline __attribute__((always_inline)) size_t capacity(size_t size_class)
{
    return (size_t)16 << size_class;
}

static inline __attribute__((always_inline)) void *take(size_t size)
{
    size_t size_class = 0;
    while (size_class < SIZES && capacity(size_class) < size)
        size_class++;
    if (size_class == SIZES)
        return NULL;
    void **block = free_blocks[size_class];
    if (block) {
        free_blocks[size_class] = *block;
        return block;
    }
    size_t needed = sizeof(struct head) + capacity(size_class);
    if (sizeof room - used < needed)
        return NULL;
    struct head *head = (struct head *)(room + used);
    used += needed;
    head->size_class = size_class;
    return head + 1;
}

static inline __attribute__((always_inline)) void give_back(void *block)
{
    size_t size_class = ((struct head *)block - 1)->size_class;
    *(void **)block = free_blocks[size_class];
    free_blocks[size_class] = block;
}

void *NAME(je_malloc)(size_t size)
{
    return take(size);
}

void *NAME(je_calloc)(size_t count, size_t size)
{
    if (size != 0 && count > sizeof room / size)
        return NULL;
    void *block = take(count * size);
    if (block)
        memset(block, 0, count * size);
    return block;
}

void *NAME(je_realloc)(void *old, size_t size)
{
    void *block = take(size);
    if (block && old) {
        size_t had = capacity(((struct head *)old - 1)->size_class);
        memcpy(block, old, had < size ? had : size);
        give_back(old);
    }
    return block;
}

void NAME(je_free)(void *block)
{
    if (block)
        give_back(block);
}
