/* Stands before the C library's allocator (LD_PRELOAD) and does nothing but look the next one up and call it.
 *
 * -DCOPIES: keeps what it is called with and what comes back while it does something else.
 * -DHEAD: blocks get a head of 16 bytes.
 * -DEARLY: has blocks of its own until the next allocator is found.
 * -DHELPER: the call is made by another function.
 * -DWORKS: an allocator with a callback of the program's instead, which never gives anything back. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#ifdef WORKS

static char pool[1 << 20] __attribute__((aligned(16)));
static size_t used;
void *(*callback)(void *block, size_t size);

__attribute__((constructor)) static void find(void)
{
    callback = (void *(*)(void *, size_t))dlsym(RTLD_DEFAULT, "callback_of_the_program");
}

void *malloc(size_t size)
{
    size_t at = __atomic_fetch_add(&used, (size + 31) & ~(size_t)15, __ATOMIC_RELAXED);
    char *block = at + size < sizeof pool ? pool + at : NULL;
    if (callback != NULL && callback(block, size) == NULL)
        return NULL;
    return block;
}

void *calloc(size_t count, size_t size)
{
    size_t at = __atomic_fetch_add(&used, (count * size + 31) & ~(size_t)15, __ATOMIC_RELAXED);
    return at + count * size < sizeof pool ? pool + at : NULL;
}

void *realloc(void *block, size_t size)
{
    size_t at = __atomic_fetch_add(&used, (size + 31) & ~(size_t)15, __ATOMIC_RELAXED);
    if (callback != NULL)
        callback(block, size);
    return block != NULL && at + size < sizeof pool ? memmove(pool + at, block, size) : pool + at;
}

void free(void *block)
{
    if (callback != NULL)
        callback(block, 0);
    __atomic_fetch_add(&used, 0, __ATOMIC_RELAXED);
}

#else

static void *(*next_malloc)(size_t);
static void *(*next_calloc)(size_t, size_t);
static void *(*next_realloc)(void *, size_t);
static void (*next_free)(void *);

static void find(void)
{
    if (next_free != NULL)
        return;
    next_malloc = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
    next_calloc = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
    next_realloc = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
    next_free = (void (*)(void *))dlsym(RTLD_NEXT, "free");
}

#if defined(EARLY)

static char early[65536] __attribute__((aligned(16)));
static size_t used;

void *malloc(size_t size)
{
    if (next_malloc == NULL) {
        used += (size + 31) & ~(size_t)15;
        return early + used - ((size + 31) & ~(size_t)15);
    }
    return next_malloc(size);
}

__attribute__((constructor)) static void begin(void)
{
    find();
}

#elif defined(HEAD)

void *malloc(size_t size)
{
    find();
    char *block = next_malloc(size + 16);
    return block != NULL ? block + 16 : NULL;
}

#elif defined(COPIES)

size_t last_size;
void *last_block;
int last_caller;

void *malloc(size_t size)
{
    find();
    void *block = next_malloc(size);
    last_size = size;
    last_caller = getpid();
    last_block = block;
    return block;
}

#elif defined(HELPER)

static __attribute__((noinline)) void *passed_on(size_t size)
{
    find();
    return next_malloc(size);
}

void *malloc(size_t size)
{
    void *block = passed_on(size);
    return getpid() > 0 ? block : NULL;
}

#else

void *malloc(size_t size)
{
    find();
    return next_malloc(size);
}

#endif

void *calloc(size_t count, size_t size)
{
    find();
    return next_calloc(count, size);
}

void *realloc(void *block, size_t size)
{
    find();
    return next_realloc(block, size);
}

void free(void *block)
{
#if defined(EARLY)
    if ((char *)block >= early && (char *)block < early + sizeof early)
        return;
#elif defined(HEAD)
    block = block != NULL ? (char *)block - 16 : NULL;
#endif
    find();
    next_free(block);
}

#endif
