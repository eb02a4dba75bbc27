/* Spends its time as it is told, and measures it:
 *
 *   states [THREADS [CPU]]     THREADS more threads sleep from before `ready` to the end; with CPU, they compute there
 *
 * One command a line, one line of JSON for each: sleep MS, spin MS, lock TIMES MS, vfork MS, disk FILE, hogs N MS CPU,
 * churn THREADS MS. Threads tell each other things through pipes, so that the only futex that anybody waits on is the
 * lock (and, where a thread is waited for, its end). */
#define _GNU_SOURCE
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/wait.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int to_holder[2], from_holder[2];

static void tell(int pipe, char byte)
{
    if (write(pipe, &byte, 1) != 1)
        _exit(4);
}

static char listen_to(int pipe)
{
    char byte;
    if (read(pipe, &byte, 1) != 1)
        _exit(4);
    return byte;
}

static uint64_t spin(uint64_t wall_ns)
{
    uint64_t begin = nanoseconds(CLOCK_MONOTONIC), cpu = nanoseconds(CLOCK_THREAD_CPUTIME_ID);
    while (nanoseconds(CLOCK_MONOTONIC) - begin < wall_ns)
        ;
    return nanoseconds(CLOCK_THREAD_CPUTIME_ID) - cpu;
}

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        fail("can't be pinned");
}

static void *hold_when_told(void *milliseconds)
{
    for (;;) {
        listen_to(to_holder[0]);
        pthread_mutex_lock(&lock);
        tell(from_holder[1], 'h');
        sleep_ms(*(long *)milliseconds);
        pthread_mutex_unlock(&lock);
    }
    return NULL;
}

static long held_ms;

static void wait_for_lock(long times, long ms)
{
    static int started;
    pthread_t id;
    if (!started && pthread_create(&id, NULL, hold_when_told, &held_ms) != 0)
        fail("no thread");
    started = 1;
    held_ms = ms;
    uint64_t waited = 0;
    for (long i = 0; i < times; i++) {
        tell(to_holder[1], 'x');
        listen_to(from_holder[0]);
        uint64_t begin = nanoseconds(CLOCK_MONOTONIC);
        pthread_mutex_lock(&lock);
        waited += nanoseconds(CLOCK_MONOTONIC) - begin;
        pthread_mutex_unlock(&lock);
    }
    say("{\"waited\":%lu}", waited);
}

static void borrow_memory(long ms)
{
    uint64_t begin = nanoseconds(CLOCK_MONOTONIC);
    /* The parent waits, uninterruptibly, until the child ends. */
    pid_t child = vfork();
    if (child == 0) {
        struct timespec time = { ms / 1000, ms % 1000 * 1000000 };
        nanosleep(&time, NULL);
        _exit(0);
    }
    uint64_t waited = nanoseconds(CLOCK_MONOTONIC) - begin;
    waitpid(child, NULL, 0);
    say("{\"waited\":%lu}", waited);
}

static void write_to_disk(const char *file)
{
    static char block[1 << 20] __attribute__((aligned(4096)));
    int fd = open(file, O_CREAT | O_RDWR | O_TRUNC | O_DIRECT, 0600);
    if (fd < 0) {
        say("{\"unsupported\":true}");
        return;
    }
    uint64_t begin = nanoseconds(CLOCK_MONOTONIC);
    for (int i = 0; i < 64; i++)
        if (write(fd, block, sizeof block) != sizeof block || fsync(fd) != 0)
            fail("can't write");
    for (int i = 0; i < 64; i++)
        if (pread(fd, block, sizeof block, (off_t)i << 20) != sizeof block)
            fail("can't read");
    uint64_t took = nanoseconds(CLOCK_MONOTONIC) - begin;
    close(fd);
    unlink(file);
    say("{\"took\":%lu}", took);
}

struct life {
    long ms;
    int cpu;
    uint64_t created, began, ended, cpu_time, joined;
};

static void *hog(void *argument)
{
    struct life *life = argument;
    pin(life->cpu);
    life->began = nanoseconds(CLOCK_MONOTONIC);
    life->cpu_time = spin((uint64_t)life->ms * 1000000);
    life->ended = nanoseconds(CLOCK_MONOTONIC);
    return NULL;
}

static void share_a_cpu(int threads, long ms, int cpu)
{
    static pthread_t ids[16];
    static struct life lives[16];
    uint64_t wall = 0, cpu_time = 0;
    for (int i = 0; i < threads; i++) {
        lives[i] = (struct life){ .ms = ms, .cpu = cpu };
        pthread_create(&ids[i], NULL, hog, &lives[i]);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(ids[i], NULL);
        wall += lives[i].ended - lives[i].began;
        cpu_time += lives[i].cpu_time;
    }
    say("{\"wall\":%lu,\"cpu\":%lu}", wall, cpu_time);
}

static void *live_short(void *argument)
{
    struct life *life = argument;
    sleep_ms(life->ms);
    life->ended = nanoseconds(CLOCK_MONOTONIC);
    return NULL;
}

/* Eight at a time. What a thread measures of itself is less than its life, what its creator measures is more. */
static void come_and_go(long threads, long ms)
{
    static pthread_t ids[8];
    static struct life lives[8];
    uint64_t least = 0, most = 0;
    for (long done = 0; done < threads; done += 8) {
        for (int i = 0; i < 8; i++) {
            lives[i] = (struct life){ .ms = ms, .created = nanoseconds(CLOCK_MONOTONIC) };
            if (pthread_create(&ids[i], NULL, live_short, &lives[i]) != 0)
                fail("no thread");
            lives[i].began = nanoseconds(CLOCK_MONOTONIC);
        }
        for (int i = 0; i < 8; i++) {
            pthread_join(ids[i], NULL);
            lives[i].joined = nanoseconds(CLOCK_MONOTONIC);
            least += lives[i].ended > lives[i].began ? lives[i].ended - lives[i].began : 0;
            most += lives[i].joined - lives[i].created;
        }
    }
    say("{\"least\":%lu,\"most\":%lu}", least, most);
}

static void *sleep_for_ever(void *argument)
{
    (void)argument;
    for (;;)
        pause();
    return NULL;
}

static void *compute_for_ever(void *cpu)
{
    pin((int)(intptr_t)cpu);
    for (;;)
        spin(1000000000);
    return NULL;
}

int main(int argc, char **argv)
{
    char line[512], file[400];
    long a, b, c;
    if (pipe(to_holder) != 0 || pipe(from_holder) != 0)
        fail("no pipe");
    for (long i = 0; argc > 1 && i < atol(argv[1]); i++) {
        pthread_t id;
        void *cpu = argc > 2 ? (void *)(intptr_t)atol(argv[2]) : NULL;
        pthread_create(&id, NULL, argc > 2 ? compute_for_ever : sleep_for_ever, cpu);
    }
    alarm(LIFETIME_SECONDS);
    say("ready");
    while (hear(line, sizeof line)) {
        if (sscanf(line, "sleep %ld", &a) == 1) {
            uint64_t begin = nanoseconds(CLOCK_MONOTONIC);
            sleep_ms(a);
            say("{\"waited\":%lu}", nanoseconds(CLOCK_MONOTONIC) - begin);
        } else if (sscanf(line, "spin %ld", &a) == 1) {
            uint64_t begin = nanoseconds(CLOCK_MONOTONIC);
            uint64_t cpu = spin((uint64_t)a * 1000000);
            say("{\"wall\":%lu,\"cpu\":%lu}", nanoseconds(CLOCK_MONOTONIC) - begin, cpu);
        } else if (sscanf(line, "lock %ld %ld", &a, &b) == 2) {
            wait_for_lock(a, b);
        } else if (sscanf(line, "vfork %ld", &a) == 1) {
            borrow_memory(a);
        } else if (sscanf(line, "disk %399[^\n]", file) == 1) {
            write_to_disk(file);
        } else if (sscanf(line, "hogs %ld %ld %ld", &a, &b, &c) == 3 && a <= 16) {
            share_a_cpu((int)a, b, (int)c);
        } else if (sscanf(line, "churn %ld %ld", &a, &b) == 2) {
            come_and_go(a, b);
        } else {
            fail("not understood");
        }
    }
    _exit(0);
}
