/* Does with its memory what it is told, line by line:
 *   grow KIB COUNT  maps COUNT pieces and touches them, one every millisecond; large ones as huge pages
 *   drop COUNT      gives back the last ones
 *   leak COUNT      allocates COUNT blocks of 16 KiB, one every millisecond, and loses them
 *   exec PATH       becomes another program */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static char *pieces[100000];
static unsigned long sizes[100000], count;

static void grow(unsigned long kib, unsigned long more)
{
    for (unsigned long i = 0; i < more && count < 100000; i++) {
        unsigned long bytes = kib << 10;
        char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            exit(1);
        if (kib >= 2048)
            madvise(p, bytes, MADV_HUGEPAGE);
        memset(p, 1, bytes);
        pieces[count] = p;
        sizes[count++] = bytes;
        usleep(1000);
    }
}

static __attribute__((noinline)) void leak(unsigned long more)
{
    for (unsigned long i = 0; i < more; i++) {
        void *volatile block = malloc(16384);
        memset(block, 1, 16384);
        block = NULL;
        usleep(1000);
    }
}

int main(void)
{
    static char line[4096];
    setvbuf(stdout, NULL, _IONBF, 0);
    puts("ready");
    for (;;) {
        unsigned long n, m, got = 0;
        while (got < sizeof line - 1 && read(0, line + got, 1) == 1 && line[got] != '\n')
            got++;
        if (got == 0)
            return 0;
        line[got] = 0;
        if (sscanf(line, "grow %lu %lu", &n, &m) == 2)
            grow(n, m);
        else if (sscanf(line, "leak %lu", &n) == 1)
            leak(n);
        else if (sscanf(line, "drop %lu", &n) == 1)
            for (; n > 0 && count > 0; n--, count--)
                munmap(pieces[count - 1], sizes[count - 1]);
        else if (strncmp(line, "exec ", 5) == 0)
            execl(line + 5, line + 5, NULL);
        puts("{}");
    }
}
