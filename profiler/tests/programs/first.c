/* first COUNT [STATUS]: allocates COUNT blocks of 24 bytes at once and ends. With EARLY, that many blocks are allocated
 * by a constructor, before main. Makes no other call that allocates. */
#include <stdlib.h>
#include <unistd.h>

static void *volatile block;

#ifdef EARLY
static __attribute__((constructor)) void before_main(void)
{
    for (int i = 0; i < EARLY; i++)
        block = malloc(24);
}
#endif

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0;
    for (long i = 0; i < count; i++)
        block = malloc(24);
    _exit(argc > 2 ? atoi(argv[2]) : 0);
}
