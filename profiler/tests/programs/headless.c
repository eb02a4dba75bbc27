/* headless: allocates 1000 blocks whenever it is told, after the first time in a thread that has outlived the main one. */
#include "helper.h"
#include <pthread.h>

static void *volatile block;

static void allocate(void)
{
    for (int i = 0; i < 1000; i++)
        block = malloc(24);
    say("{}");
}

static void *go_on(void *main_thread)
{
    char line[64];
    pthread_join(*(pthread_t *)main_thread, NULL);
    while (hear(line, sizeof line))
        allocate();
    _exit(0);
}

int main(void)
{
    static pthread_t self;
    pthread_t thread;
    self = pthread_self();
    if (pthread_create(&thread, NULL, go_on, &self) != 0)
        fail("pthread_create");
    ready_and_wait();
    allocate();
    pthread_exit(NULL);
}
