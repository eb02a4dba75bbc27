/* What programs with known leaks (and known steadiness) share: call sites that count for themselves, work in small steps
 * at a given rate, and a conversation over standard input.
 *
 * It says `ready` and is idle. `start` lets it work, `pause` stops that, `truth` is answered with one line of JSON: the
 * time (CLOCK_MONOTONIC and CLOCK_REALTIME), and of every planted call site what was allocated, freed and lost. The end of
 * its input ends it. Nothing here allocates. */
#ifndef PLANTED_H
#define PLANTED_H

#include "../helper.h"

#include <poll.h>

#define NOINLINE __attribute__((noinline, noclone))
#define INLINED static inline __attribute__((always_inline))
/* The compiler must take it that the block is used, and can't make the call before it the function's last act. */
#define USED(block) __asm__ volatile("" : : "r"(block) : "memory")

/* One step of work. Short enough for the rates to be even, long enough not to be the work itself. */
#define STEP_MS 5

/* A call site: a function of this name is on every stack of its blocks. Bytes are those that were asked for. */
struct site {
    const char *name;
    uint64_t allocated_objects, allocated_bytes, freed_objects, freed_bytes, lost_objects, lost_bytes;
};

INLINED void count_allocated(struct site *site, size_t size)
{
    site->allocated_objects++;
    site->allocated_bytes += size;
}

INLINED void count_freed(struct site *site, size_t size)
{
    site->freed_objects++;
    site->freed_bytes += size;
}

/* The last pointer to it is gone. */
INLINED void count_lost(struct site *site, size_t size)
{
    site->lost_objects++;
    site->lost_bytes += size;
}

static int planted_argc;
static char **planted_argv;

/* The argument `name=value`, or what goes without it. */
static __attribute__((unused)) double argument(const char *name, double otherwise)
{
    size_t length = strlen(name);
    for (int i = 1; i < planted_argc; i++)
        if (strncmp(planted_argv[i], name, length) == 0 && planted_argv[i][length] == '=')
            return atof(planted_argv[i] + length + 1);
    return otherwise;
}

/* Seconds of work since the start, without pauses. */
static double worked;

/* How much is to be done now to keep up a rate per second, if so much has been done. */
static __attribute__((unused)) double due(double rate, double done)
{
    double missing = rate * worked - done;
    /* A process that got no CPU for a while doesn't make up for more than a second of it at once. */
    return missing > rate ? rate : missing;
}

/* `count` numbers below `below`, the same on every run of the same process; its id makes processes different. */
static __attribute__((unused)) uint64_t a_random_number(void)
{
    static uint64_t state;
    if (state == 0)
        state = 0x9e3779b97f4a7c15u ^ (uint64_t)getpid() << 20;
    return next_random(&state) >> 16;
}

static __attribute__((unused)) size_t between(size_t least, size_t most)
{
    return least + a_random_number() % (most - least + 1);
}

static void tell_truth(struct site *const *sites, int working)
{
    char text[4096];
    size_t length = 0;
    text[0] = 0;
    for (; *sites; sites++)
        length += (size_t)snprintf(
            text + length, sizeof text - length,
            "%s\"%s\":{\"allocated_objects\":%llu,\"allocated_bytes\":%llu,\"freed_objects\":%llu,"
            "\"freed_bytes\":%llu,\"lost_objects\":%llu,\"lost_bytes\":%llu}",
            length ? "," : "", (*sites)->name, (unsigned long long)(*sites)->allocated_objects,
            (unsigned long long)(*sites)->allocated_bytes, (unsigned long long)(*sites)->freed_objects,
            (unsigned long long)(*sites)->freed_bytes, (unsigned long long)(*sites)->lost_objects,
            (unsigned long long)(*sites)->lost_bytes);
    say("{\"monotonic_ns\":%llu,\"realtime_ns\":%llu,\"working\":%s,\"sites\":{%s}}",
        (unsigned long long)nanoseconds(CLOCK_MONOTONIC), (unsigned long long)nanoseconds(CLOCK_REALTIME),
        working ? "true" : "false", text);
}

/* Works and answers until the end of the input. `sites` ends with a null pointer. */
static NOINLINE void converse(struct site *const *sites, void (*step)(void))
{
    struct pollfd input = { .fd = 0, .events = POLLIN, .revents = 0 };
    char line[64];
    int working = 0;
    uint64_t last = 0;
    alarm((unsigned)argument("lifetime", LIFETIME_SECONDS));
    say("ready");
    for (;;) {
        if (poll(&input, 1, working ? STEP_MS : -1) > 0) {
            if (!hear(line, sizeof line))
                _exit(0);
            if (strcmp(line, "truth") == 0) {
                tell_truth(sites, working);
            } else {
                working = strcmp(line, "start") == 0;
                last = nanoseconds(CLOCK_MONOTONIC);
            }
        }
        if (working) {
            uint64_t now = nanoseconds(CLOCK_MONOTONIC);
            worked += (double)(now - last) / 1e9;
            last = now;
            step();
        }
    }
}

#endif
