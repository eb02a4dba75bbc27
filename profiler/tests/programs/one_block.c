/* one_block long|short: two threads work all the time, and neither has more than one block. With `short` they end and
 * are replaced, over and over; what such a thread has freed lies in its cache, and its end gives that back. */
#include "helper.h"

#include <pthread.h>

#define THREADS 2

static int short_lives;

static void *work(void *argument)
{
    void *block;
    (void)argument;
    do {
        for (size_t size = 24; size < 1000; size += 16) {
            /* This C library's posix_memalign asks malloc by itself where the alignment is small. */
            if (posix_memalign(&block, size & 16 ? 8 : 64, size) != 0)
                fail("posix_memalign failed");
            free(block);
            block = malloc(size);
            if (size & 32)
                block = realloc(block, size * 4);
            free(block);
        }
    } while (!short_lives);
    return NULL;
}

static void *start_and_replace(void *argument)
{
    pthread_t ids[THREADS];
    do {
        for (int i = 0; i < THREADS; i++)
            if (pthread_create(&ids[i], argument, work, NULL) != 0)
                fail("no thread");
        for (int i = 0; i < THREADS; i++)
            pthread_join(ids[i], NULL);
    } while (short_lives);
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t id;
    pthread_attr_t attributes;
    short_lives = argc > 1 && strcmp(argv[1], "short") == 0;
    pthread_attr_init(&attributes);
    /* Small enough for the stacks to be used again, so that no thread needs a new one. */
    pthread_attr_setstacksize(&attributes, 256 << 10);
    if (pthread_create(&id, NULL, start_and_replace, &attributes) != 0)
        fail("no thread");
    /* All of them have begun. */
    sleep_ms(50);
    ready_and_wait();
    wait_for_the_end();
}
