/* stacks [depth=NUMBER] [rate=NUMBER] [keep=NUMBER]: allocates from 2^depth different stacks, one after the other in an
 * order without pattern: two functions call each other along the bits of a number. One of `keep` blocks is kept for ever,
 * the others are given back after a while. */
#include "planted.h"

static struct site many_stacks = { .name = "many_stacks" };

static NOINLINE char *go_left(uint64_t path, unsigned depth);
static NOINLINE char *go_right(uint64_t path, unsigned depth);

INLINED char *go_on(uint64_t path, unsigned depth)
{
    char *block;
    if (depth == 0) {
        block = malloc(64);
        if (block == NULL)
            fail("no memory");
        count_allocated(&many_stacks, 64);
    } else if (path & 1) {
        block = go_left(path >> 1, depth - 1);
    } else {
        block = go_right(path >> 1, depth - 1);
    }
    /* Or else the call would be a jump, and the caller not on the stack. */
    USED(block);
    return block;
}

static NOINLINE char *go_left(uint64_t path, unsigned depth)
{
    return go_on(path, depth);
}

static NOINLINE char *go_right(uint64_t path, unsigned depth)
{
    char *block = go_on(path, depth);
    /* Different from the other, or the compiler would make them one. */
    __asm__ volatile("nop" : : "r"(block) : "memory");
    return block;
}

static NOINLINE void stacks_step(void)
{
    static char *blocks[4096];
    static double rate, keep, depth;
    static uint64_t done;
    if (rate == 0) {
        rate = argument("rate", 20000);
        keep = argument("keep", 10);
        depth = argument("depth", 20);
    }
    for (double count = due(rate, (double)done); count > 0; count--, done++) {
        char **slot = &blocks[done % 4096];
        if (*slot != NULL && done % (uint64_t)keep != 0) {
            free(*slot);
            count_freed(&many_stacks, 64);
        }
        /* An odd factor visits every number once before it begins again. */
        *slot = go_left(done * 0x9e3779b97f4a7c15u, (unsigned)depth);
    }
}

int main(int argc, char **argv)
{
    static struct site *const sites[] = { &many_stacks, NULL };
    planted_argc = argc;
    planted_argv = argv;
    converse(sites, stacks_step);
}
