/* forks: makes a child that stays as it is, tells its id, and ends it at the end. */
#include "helper.h"
#include <signal.h>
#include <sys/prctl.h>

int main(void)
{
    ready_and_wait();
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
