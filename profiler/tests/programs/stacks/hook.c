/* Stands in for malloc (loaded before libc, or linked into a static program) and, at the one call whose size WANT names, writes
 * down what a sample would hold: where malloc returns to, the stack pointer after that, the frame pointer, and the bytes of
 * the stack; then /proc/self/maps. The caller's code is not changed in any way. */
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef STATIC /* linked with --wrap=malloc */
#define NAME "__wrap_malloc"
#define REAL __real_malloc
#else
#define NAME "malloc"
#define REAL __libc_malloc
#endif

extern void *REAL(size_t);

__asm__(".globl " NAME "\n"
        ".type " NAME ", @function\n"
        NAME ":\n"
        "  mov (%rsp), %rsi\n"
        "  lea 8(%rsp), %rdx\n"
        "  mov %rbp, %rcx\n"
        "  jmp captured_malloc\n"
        ".size " NAME ", . - " NAME "\n");

static unsigned long number(const char *text) {
    unsigned long value = 0;
    while (text && *text >= '0' && *text <= '9') value = value * 10 + (unsigned long)(*text++ - '0');
    return value;
}

__attribute__((used, visibility("hidden"))) void *captured_malloc(size_t size, uint64_t ip, uint64_t sp, uint64_t bp) {
    static int done;
    if (!done && size == number(getenv("WANT"))) {
        done = 1;
        int out = open(getenv("CAPTURE"), O_WRONLY | O_CREAT | O_TRUNC, 0600);
        uint64_t head[4] = {ip, sp, bp, 0};
        static char stack[65536];
        unsigned long wanted = number(getenv("STACK"));
        int pipes[2];
        if (pipe(pipes) == 0) {
            /* Through a pipe: behind the end of the stack the write fails instead of us. */
            while (head[3] < wanted) {
                unsigned long part = wanted - head[3] < 4096 ? wanted - head[3] : 4096;
                ssize_t count = write(pipes[1], (char *)sp + head[3], part);
                if (count <= 0 || read(pipes[0], stack + head[3], (size_t)count) != count) break;
                head[3] += (uint64_t)count;
            }
        }
        if (write(out, head, sizeof head) < 0 || write(out, stack, head[3]) < 0) _exit(9);
        int maps = open("/proc/self/maps", O_RDONLY);
        static char text[65536];
        ssize_t count;
        while ((count = read(maps, text, sizeof text)) > 0)
            if (write(out, text, (size_t)count) < 0) _exit(9);
        close(out);
    }
    return REAL(size);
}
