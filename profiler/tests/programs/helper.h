/* What all helper programs share: one line in, one line out, and no allocation for either. */
#ifndef HELPER_H
#define HELPER_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Where preload.c counts from outside, it is told where the counted part begins, and tells its own counts. */
__attribute__((weak)) void counts_from_outside_begin(void);
__attribute__((weak)) const char *counts_from_outside(void);

/* A program that is forgotten ends by itself. */
#define LIFETIME_SECONDS 900

static __attribute__((unused, format(printf, 1, 2))) void say(const char *format, ...)
{
    static char line[8192];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    line[length++] = '\n';
    if (write(1, line, (size_t)length) != length)
        _exit(4);
}

static __attribute__((unused)) void fail(const char *what)
{
    say("{\"error\":\"%s\"}", what);
    _exit(3);
}

/* Reads one line, byte by byte so that nothing is kept back; 0 at the end of input. */
static __attribute__((unused)) int hear(char *line, size_t size)
{
    size_t length = 0;
    char byte;
    while (read(0, &byte, 1) == 1) {
        if (byte == '\n') {
            line[length] = 0;
            return 1;
        }
        if (length + 1 < size)
            line[length++] = byte;
    }
    return 0;
}

static __attribute__((unused)) void ready_and_wait(void)
{
    char line[64];
    alarm(LIFETIME_SECONDS);
    say("ready");
    if (!hear(line, sizeof line))
        _exit(0);
    if (counts_from_outside_begin)
        counts_from_outside_begin();
}

/* Stays alive without doing anything, so that the counts can be compared, until told otherwise. */
static __attribute__((unused)) void wait_for_the_end(void)
{
    char line[64];
    hear(line, sizeof line);
    _exit(0);
}

static __attribute__((unused)) uint64_t nanoseconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static __attribute__((unused)) void sleep_ms(long ms)
{
    struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
    while (nanosleep(&time, &time) != 0)
        ;
}

/* xorshift64*: the same numbers on every machine. */
static __attribute__((unused)) uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 2685821657736338717u;
}

#endif
