/* named: takes a name that is hostile to whoever prints it, and a thread, and waits. Its lines are `ready` and then the
 * id of the thread. */
#define _GNU_SOURCE
#include "helper.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/prctl.h>

static atomic_int thread_id;

static void *wait_here(void *argument)
{
    (void)argument;
    thread_id = gettid();
    for (;;)
        pause();
    return NULL;
}

int main(void)
{
    pthread_t id;
    pthread_create(&id, NULL, wait_here, NULL);
    while (thread_id == 0)
        sleep_ms(1);
    /* Quotes, a backslash, a newline, a terminal's escape code, and what isn't UTF-8: 15 bytes at most. */
    prctl(PR_SET_NAME, "a\"b\\c\nd\x1b[31m\xff\xc3");
    ready_and_wait();
    say("{\"thread\":%d}", thread_id);
    wait_for_the_end();
}
