/* Threads that allocate and free, each counting for itself:
 *
 *   threads pairs THREADS PAIRS            threads that live from before `ready` to after the counts
 *   threads churn THREADS PAIRS ROUNDS     threads that start and end while they are observed, ROUNDS times
 *
 * Blocks are exchanged between the threads, so that most are freed by another thread than the one that made them. */
#include "helper.h"

#include <pthread.h>
#include <stdatomic.h>

#define MOST_THREADS 64
#define SHARED 1024
/* More than a thread's cache of freed blocks holds of one size: it is full when the thread ends. */
#define KEPT 64

static struct {
    uint64_t allocations, frees, bytes;
    char apart[40];
} counts[MOST_THREADS];
static _Atomic(void *) shared[SHARED];
static pthread_barrier_t begin, done;
static long pairs;

static void work(size_t me, long how_many)
{
    uint64_t seed = 88172645463325252u + me;
    void *kept[KEPT];
    if (how_many == 0)
        return;
    for (long pair = 0; pair < how_many; pair++) {
        uint64_t random = next_random(&seed);
        size_t size = 1 + (random >> 20) % ((random & 1023) == 0 ? 300000 : 1000);
        char *block = malloc(size);
        if (block == NULL)
            fail("malloc failed");
        block[0] = 1;
        counts[me].allocations++;
        counts[me].bytes += size;
        void *other = atomic_exchange(&shared[(random >> 40) % SHARED], block);
        free(other);
        counts[me].frees += other != NULL;
    }
    for (int i = 0; i < KEPT; i++) {
        kept[i] = malloc(64);
        counts[me].allocations++;
        counts[me].bytes += 64;
    }
    for (int i = 0; i < KEPT; i++) {
        free(kept[i]);
        counts[me].frees++;
    }
}

static void *live_long(void *argument)
{
    pthread_barrier_wait(&begin);
    work((size_t)argument, pairs);
    pthread_barrier_wait(&done);
    for (;;)
        pause();
    return NULL;
}

static void *live_short(void *argument)
{
    /* All of a round are there at the same time, so that each round needs as many stacks as the one before. */
    pthread_barrier_wait(&begin);
    work((size_t)argument, pairs);
    return NULL;
}

static void round_of_short_lives(size_t threads)
{
    pthread_t ids[MOST_THREADS];
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    /* Small enough for all of them to stay in the C library's cache of stacks. */
    pthread_attr_setstacksize(&attributes, 256 << 10);
    for (size_t i = 0; i < threads; i++)
        if (pthread_create(&ids[i], &attributes, live_short, (void *)i) != 0)
            fail("no thread");
    for (size_t i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
}

static void report(size_t threads)
{
    uint64_t allocations = 0, frees = 0, bytes = 0;
    for (size_t i = 0; i < SHARED; i++) {
        void *block = atomic_exchange(&shared[i], NULL);
        free(block);
        frees += block != NULL;
    }
    for (size_t i = 0; i < threads; i++) {
        allocations += counts[i].allocations;
        frees += counts[i].frees;
        bytes += counts[i].bytes;
    }
    const char *all = counts_from_outside ? counts_from_outside() : "null";
    say("{\"allocations\":%lu,\"frees\":%lu,\"bytes\":%lu,\"all\":%s}", allocations, frees, bytes, all);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return 2;
    size_t threads = (size_t)atol(argv[2]);
    if (threads > MOST_THREADS)
        return 2;
    if (strcmp(argv[1], "pairs") == 0) {
        pthread_barrier_init(&begin, NULL, (unsigned)threads + 1);
        pthread_barrier_init(&done, NULL, (unsigned)threads + 1);
        pairs = atol(argv[3]);
        for (size_t i = 0; i < threads; i++) {
            pthread_t id;
            if (pthread_create(&id, NULL, live_long, (void *)i) != 0)
                fail("no thread");
        }
        ready_and_wait();
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&done);
    } else {
        pthread_barrier_init(&begin, NULL, (unsigned)threads);
        /* The stacks exist from here on. */
        round_of_short_lives(threads);
        pairs = atol(argv[3]);
        ready_and_wait();
        for (long round = 0; round < atol(argv[4]); round++)
            round_of_short_lives(threads);
    }
    report(threads);
    wait_for_the_end();
}
