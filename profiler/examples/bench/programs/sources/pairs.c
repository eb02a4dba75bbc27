/* The worst case: a program that does nothing but malloc and free. An operation is 64 pairs. */
#include "latencies.h"

enum { SLOTS = 512, PAIRS = 64 };
static void *volatile blocks[SLOTS];

static void operation(void) {
    for (int pair = 0; pair < PAIRS; pair++) {
        uint64_t random = next_random();
        free(blocks[random % SLOTS]);
        blocks[random % SLOTS] = malloc((random >> 32) % 1000 + 1);
    }
}

int main(void) { return serve(operation); }
