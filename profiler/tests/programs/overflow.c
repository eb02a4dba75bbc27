/* overflow COUNT: calls reallocarray COUNT times with a product that overflows. */
#define _GNU_SOURCE
#include "helper.h"

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 1;
    void *block = malloc(100);
    ready_and_wait();
    for (long i = 0; i < count; i++)
        if (reallocarray(block, (size_t)1 << 33, (size_t)1 << 33) != NULL)
            fail("an impossible product was accepted");
    say("{\"refused\":%ld}", count);
    wait_for_the_end();
}
