/* family CHILDREN: makes so many processes one after another, each of which becomes /bin/true or ends at once, by turns, every
 * fifth by its last thread long after its main thread. Tells the ids of those that replaced their program, of those that
 * didn't, in the order in which they were made. */
#include "helper.h"
#include <pthread.h>
#include <sys/wait.h>

static void *last(void *unused)
{
    sleep_ms(30);
    _exit(0);
    return unused;
}

int main(int argc, char **argv)
{
    static char text[2][4000];
    size_t length[2] = { 0, 0 };
    int children = argc > 1 ? atoi(argv[1]) : 0;
    ready_and_wait();
    for (int i = 0; i < children; i++) {
        pid_t child = fork();
        if (child == 0) {
            pthread_t thread;
            if (i % 2 == 0)
                execl("/bin/true", "true", (char *)NULL);
            if (i % 5 == 0 && pthread_create(&thread, NULL, last, NULL) == 0)
                pthread_exit(NULL);
            _exit(0);
        }
        if (child < 0 || waitpid(child, NULL, 0) != child)
            fail("fork");
        size_t *at = &length[i % 2];
        *at += (size_t)snprintf(text[i % 2] + *at, sizeof text[0] - *at, "%s%d", *at ? "," : "", (int)child);
    }
    say("{\"replaced\":[%s],\"ended\":[%s]}", text[0], text[1]);
    wait_for_the_end();
}
