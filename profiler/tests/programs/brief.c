/* brief MICROSECONDS: lives that long, and allocates all the while. */
#include "helper.h"

int main(int argc, char **argv)
{
    uint64_t end = nanoseconds(CLOCK_MONOTONIC) + (argc > 1 ? strtoull(argv[1], NULL, 10) : 0) * 1000;
    while (nanoseconds(CLOCK_MONOTONIC) < end)
        free(malloc(100));
    _exit(0);
}
