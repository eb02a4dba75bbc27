/* shop SECONDS LOGFILE: a small server without clients, to have something to show on dashboards. Once it has read a line, four workers answer
 * made-up requests: they wait for a lock, fill a cache that levels off, append to a log which is flushed to the disk, and
 * forget a session now and then: that is the leak, in remember_session(). */
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NOINLINE __attribute__((noinline, noclone))
#define PAGES 8192

static pthread_mutex_t catalogue = PTHREAD_MUTEX_INITIALIZER;
static char *pages[PAGES];
static time_t end;
static int log_file;

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void rest(long milliseconds)
{
    struct timespec time = { milliseconds / 1000, milliseconds % 1000 * 1000000 };
    nanosleep(&time, NULL);
}

static NOINLINE char *cache_page(uint64_t key, uint64_t *state)
{
    if (pages[key] == NULL) {
        size_t size = 512 + next_random(state) % 2048;
        pages[key] = malloc(size);
        if (pages[key] == NULL)
            abort();
        memset(pages[key], 'p', size);
    }
    return pages[key];
}

static NOINLINE void remember_session(uint64_t *state)
{
    size_t size = 200 + next_random(state) % 1800;
    char *session = calloc(1, size);
    if (session == NULL)
        abort();
    /* The only pointer to it ends here. */
    __asm__ volatile("" : : "r"(session) : "memory");
}

static NOINLINE char *render_answer(const char *page, uint64_t *state)
{
    size_t size = 256;
    char *answer = malloc(size);
    for (int part = 0; part < 3 && answer != NULL; part++) {
        char *more = realloc(answer, size *= 2);
        if (more == NULL)
            abort();
        answer = more;
        memcpy(answer + size / 2, page, 64 + next_random(state) % 64);
    }
    return answer;
}

static void *work(void *number)
{
    uint64_t state = (uintptr_t)number * 977 + 1, requests = 0;
    while (time(NULL) < end) {
        pthread_mutex_lock(&catalogue);
        char *page = cache_page(next_random(&state) % PAGES, &state);
        /* Looking something up takes a while, once in a while a long one. */
        if (requests % 400 == 399)
            rest(120);
        else
            rest((long)(next_random(&state) % 3));
        pthread_mutex_unlock(&catalogue);
        char *answer = render_answer(page, &state);
        uint64_t sum = 0;
        for (int i = 0; i < 60000; i++)
            sum += next_random(&state) ^ (uint64_t)answer[i % 512];
        if (sum % 3 == 0)
            remember_session(&state);
        if (requests % 25 == 24 && write(log_file, answer, 512) == 512)
            fsync(log_file);
        free(answer);
        rest((long)(next_random(&state) % 12));
        requests++;
    }
    return NULL;
}

int main(int argc, char **argv)
{
    pthread_t workers[4];
    if (argc != 3 || (log_file = open(argv[2], O_CREAT | O_TRUNC | O_WRONLY, 0600)) < 0)
        return 2;
    /* Idle until somebody says so: then nothing is missed. */
    if (getchar() == EOF)
        return 1;
    end = time(NULL) + atoi(argv[1]);
    for (uintptr_t i = 0; i < 4; i++)
        if (pthread_create(&workers[i], NULL, work, (void *)i) != 0)
            return 1;
    for (int i = 0; i < 4; i++)
        pthread_join(workers[i], NULL);
    return 0;
}
