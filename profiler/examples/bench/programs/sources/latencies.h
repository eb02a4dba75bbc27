/* What the C and the C++ program have in common: they answer every line MILLISECONDS on standard input, after having worked
   for so long, by a line OPERATIONS SECONDS P99_NANOSECONDS; they end with their input. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Latencies in buckets, 128 for each power of two: to 0.8 %. */
enum { PARTS_BITS = 7, PARTS = 1 << PARTS_BITS, BUCKETS = PARTS * (65 - PARTS_BITS) };
static uint64_t buckets[BUCKETS];

static uint64_t now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void took(uint64_t ns) {
    if (ns < PARTS) {
        buckets[ns]++;
        return;
    }
    int shift = 63 - __builtin_clzll(ns) - PARTS_BITS;
    buckets[PARTS * (shift + 1) + (int)((ns >> shift) & (PARTS - 1))]++;
}

static uint64_t p99_ns(uint64_t operations) {
    uint64_t above = operations / 100, seen = 0;
    for (int at = BUCKETS - 1; at >= 0; at--) {
        seen += buckets[at];
        if (seen > above) {
            return at < PARTS ? (uint64_t)at : (uint64_t)(PARTS + at % PARTS) << (at / PARTS - 1);
        }
    }
    return 0;
}

static uint64_t next_random(void) {
    static uint64_t random = 0x9e3779b97f4a7c15u;
    random ^= random << 13;
    random ^= random >> 7;
    random ^= random << 17;
    return random;
}

/* Answers lines; an operation should take a microsecond at least, for the clock is read once for each. */
static int serve(void (*operation)(void)) {
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        uint64_t operations = 0, began = now_ns(), now = began;
        uint64_t end = began + strtoull(line, NULL, 10) * 1000000u;
        memset(buckets, 0, sizeof buckets);
        while (now < end) {
            operation();
            uint64_t after = now_ns();
            took(after - now);
            now = after;
            operations++;
        }
        printf("%llu %.9f %llu\n", (unsigned long long)operations, (double)(now - began) / 1e9,
               (unsigned long long)p99_ns(operations));
        fflush(stdout);
    }
    return 0;
}
