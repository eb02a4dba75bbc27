/* forks [twice]: makes a child that stays as it is, tells its id, and ends it at the end. With `twice` it is the child of
 * a child that has ended at once. */
#include "helper.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

/* Its parent is gone, so it lives as long as somebody holds the other end of a pipe. */
static void live(int ours, int other)
{
    char byte;
    close(other);
    alarm(LIFETIME_SECONDS);
    while (read(ours, &byte, 1) > 0)
        ;
    _exit(0);
}

static void fork_twice(void)
{
    int alive[2], answer[2];
    pid_t grandchild;
    if (pipe(alive) != 0 || pipe(answer) != 0)
        fail("pipe");
    pid_t child = fork();
    if (child == 0) {
        grandchild = fork();
        if (grandchild == 0)
            live(alive[0], alive[1]);
        _exit(write(answer[1], &grandchild, sizeof grandchild) == sizeof grandchild ? 0 : 1);
    }
    if (child < 0 || waitpid(child, NULL, 0) != child || read(answer[0], &grandchild, sizeof grandchild) <= 0)
        fail("fork");
    say("{\"child\":%d}", (int)grandchild);
    wait_for_the_end();
}

int main(int argc, char **argv)
{
    ready_and_wait();
    if (argc > 1 && strcmp(argv[1], "twice") == 0)
        fork_twice();
    pid_t child = fork();
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        alarm(LIFETIME_SECONDS);
        for (;;)
            pause();
    }
    say("{\"child\":%d}", (int)child);
    wait_for_the_end();
}
