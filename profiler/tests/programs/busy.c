/* busy THREADS: threads that allocate all the time, and keep in each block what they also know without it. After a line
 * of input they stop; the two must agree. */
#include "helper.h"

#include <pthread.h>
#include <stdatomic.h>

#define MOST_THREADS 16
#define BLOCKS 256

static atomic_int stop;
static struct {
    uint64_t rounds, in_memory, in_registers;
    char apart[40];
} sums[MOST_THREADS];

static void *work(void *argument)
{
    size_t me = (size_t)argument;
    uint64_t seed = 424242 + me;
    uint64_t *blocks[BLOCKS];
    size_t words[BLOCKS];
    while (!stop) {
        uint64_t same = seed;
        for (int i = 0; i < BLOCKS; i++) {
            words[i] = 1 + next_random(&seed) % 100;
            blocks[i] = (seed & 1) ? malloc(words[i] * 8) : calloc(words[i], 8);
            if (seed & 2)
                blocks[i] = realloc(blocks[i], words[i] * 8 + 64);
            blocks[i][0] = blocks[i][words[i] - 1] = next_random(&seed);
        }
        for (int i = 0; i < BLOCKS; i++) {
            sums[me].in_memory = sums[me].in_memory * 31 + blocks[i][0] + blocks[i][words[i] - 1];
            free(blocks[i]);
            next_random(&same);
            sums[me].in_registers = sums[me].in_registers * 31 + 2 * next_random(&same);
        }
        sums[me].rounds++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static pthread_t ids[MOST_THREADS];
    char line[64];
    size_t threads = argc > 1 ? (size_t)atol(argv[1]) : 2;
    uint64_t rounds = 0, wrong = 0;
    if (threads > MOST_THREADS)
        return 2;
    for (size_t i = 0; i < threads; i++)
        if (pthread_create(&ids[i], NULL, work, (void *)i) != 0)
            fail("no thread");
    alarm(LIFETIME_SECONDS);
    say("ready");
    while (hear(line, sizeof line) && strcmp(line, "stop") != 0) {
        for (size_t i = 0; i < threads; i++)
            rounds += *(volatile uint64_t *)&sums[i].rounds;
        say("{\"rounds\":%lu}", rounds);
        rounds = 0;
    }
    stop = 1;
    for (size_t i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        rounds += sums[i].rounds;
        wrong += sums[i].in_memory != sums[i].in_registers;
    }
    say("{\"rounds\":%lu,\"wrong\":%lu}", rounds, wrong);
    wait_for_the_end();
}
