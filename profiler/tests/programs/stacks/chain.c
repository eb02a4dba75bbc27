/* Known callers. Nothing is called last, so that no call becomes a jump. */
#include <alloca.h>
#include <pthread.h>
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#define NOINLINE __attribute__((noinline, noclone))
#define INLINE static inline __attribute__((always_inline))
#define AFTER(value) __asm__ volatile("" : "+r"(value) : : "memory")

NOINLINE void *allocates(size_t size) {
    void *block = malloc(size);
    AFTER(block);
    return block;
}

INLINE void *inlined_inner(size_t size) {
    void *block = allocates(size);
    AFTER(block);
    return block;
}

INLINE void *inlined_outer(size_t size) {
    void *block = inlined_inner(size);
    AFTER(block);
    return block;
}

NOINLINE void *many_registers(size_t size, long a, long b, long c, long d, long e) {
    /* Uses up the registers, the frame pointer's too. */
    long x = a * 3, y = b * 5, z = c * 7, u = d * 11, v = e * 13, w = a ^ e;
    AFTER(x); AFTER(y); AFTER(z); AFTER(u); AFTER(v); AFTER(w);
    void *block = inlined_outer(size);
    AFTER(x); AFTER(y); AFTER(z); AFTER(u); AFTER(v); AFTER(w);
    return x + y + z + u + v + w == 42 ? NULL : block;
}

NOINLINE void *variable_frame(size_t size, size_t room) {
    char *memory = alloca(room);
    memset(memory, 1, room);
    void *block = many_registers(size, 1, 2, 3, 4, (long)room);
    AFTER(memory);
    return block;
}

NOINLINE void *aligned_frame(size_t size, size_t room) {
    alignas(128) char memory[256];
    char *more = alloca(room);
    char *here = memory;
    AFTER(here);
    AFTER(more);
    void *block = variable_frame(size, room);
    AFTER(here);
    return block;
}

NOINLINE void *deep(size_t size, int depth) {
    void *block = depth > 0 ? deep(size, depth - 1) : aligned_frame(size, 300);
    AFTER(block);
    return block;
}

static void *in_thread(void *size) {
    void *block = deep((size_t)size, 0);
    AFTER(block);
    return block;
}

int main(int count, char **arguments) {
    size_t size = (size_t)atol(getenv("WANT"));
    const char *how = count > 1 ? arguments[1] : "";
    if (strcmp(how, "thread") == 0) {
        pthread_t thread;
        pthread_create(&thread, NULL, in_thread, (void *)size);
        pthread_join(thread, NULL);
        return 0;
    }
    void *block = deep(size, strcmp(how, "deep") == 0 ? 200 : 0);
    AFTER(block);
    return block == NULL;
}
