/* chain GENERATIONS BLOCKS [thread]: allocates BLOCKS blocks of 24 bytes, half of them before main, and replaces itself by
 * its next generation, which does the same; the last one says so and waits. With `thread`, another thread than the main one
 * calls execve. */
#include "helper.h"
#include <pthread.h>

static void *volatile block;
static char **arguments;

static void allocate(long blocks)
{
    for (long i = 0; i < blocks; i++)
        block = malloc(24);
}

static __attribute__((constructor)) void before_main(int argc, char **argv)
{
    if (argc > 2 && getenv("CHAIN"))
        allocate(atol(argv[2]) / 2);
}

static void *replace(void *unused)
{
    execv("/proc/self/exe", arguments);
    fail("execv");
    return unused;
}

int main(int argc, char **argv)
{
    static char generations[24];
    if (argc < 3)
        fail("too few arguments");
    long left = atol(argv[1]);
    int first = getenv("CHAIN") == NULL;
    if (first) {
        ready_and_wait();
        allocate(atol(argv[2]) / 2);
        static char mark[] = "CHAIN=1";
        putenv(mark);
    }
    allocate(atol(argv[2]) / 2);
    if (left <= 1) {
        say("{\"pid\":%d}", (int)getpid());
        wait_for_the_end();
    }
    snprintf(generations, sizeof generations, "%ld", left - 1);
    argv[1] = generations;
    arguments = argv;
    if (argc > 3) {
        pthread_t thread;
        pthread_create(&thread, NULL, replace, NULL);
        pthread_join(thread, NULL);
    }
    replace(NULL);
}
