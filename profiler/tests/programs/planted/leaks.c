/* leaks SCENARIO [NAME=NUMBER...]: programs that leak, at one call site each and at a known rate. */
#include "planted.h"

/* ---- leak: every block is lost (rate: bytes per second; least, most: their size) ---- */

static struct site leak_records = { .name = "leak_records" };

/* Inlined: the stack has it all the same, where there is debug information. */
INLINED char *new_record(size_t size)
{
    char *record = malloc(size);
    if (record == NULL)
        fail("no memory");
    memset(record, 0x5a, size);
    count_allocated(&leak_records, size);
    return record;
}

static NOINLINE void leak_record(size_t size)
{
    char *record = new_record(size);
    USED(record);
    count_lost(&leak_records, size);
}

static NOINLINE void leak_step(void)
{
    static double rate, least, most;
    if (rate == 0) {
        rate = argument("rate", 1e6);
        least = argument("least", 100);
        most = argument("most", 2000);
    }
    double bytes = due(rate, (double)leak_records.lost_bytes);
    while (bytes > 0) {
        size_t size = between((size_t)least, (size_t)most);
        leak_record(size);
        bytes -= (double)size;
    }
}

/* ---- rare: of `odds` blocks of one call site one is lost, and the others are given back (rate: blocks per second) ---- */

static struct site handle_request = { .name = "handle_request" };

static NOINLINE char *read_request(size_t size)
{
    char *request = malloc(size);
    if (request == NULL)
        fail("no memory");
    memset(request, 0x5a, size);
    count_allocated(&handle_request, size);
    return request;
}

static NOINLINE void rare_step(void)
{
    /* So many are at work at a time. */
    static char *requests[64];
    static size_t sizes[64];
    static double rate, odds, size_of_one;
    if (rate == 0) {
        rate = argument("rate", 50000);
        odds = argument("odds", 10000);
        size_of_one = argument("size", 512);
    }
    double count = due(rate, (double)handle_request.allocated_objects);
    for (; count > 0; count--) {
        size_t slot = between(0, 63);
        if (requests[slot] != NULL) {
            if (a_random_number() % (uint64_t)odds == 0) {
                count_lost(&handle_request, sizes[slot]);
            } else {
                free(requests[slot]);
                count_freed(&handle_request, sizes[slot]);
            }
        }
        sizes[slot] = between((size_t)size_of_one / 2, (size_t)size_of_one * 3 / 2);
        requests[slot] = read_request(sizes[slot]);
    }
}

/* ---- drizzle: blocks of 64 bytes are lost (rate: bytes per second) under a churn (churn: bytes per second) ---- */

static struct site drop_cookie = { .name = "drop_cookie" }, churn_buffer = { .name = "churn_buffer" };

static NOINLINE void drop_one_cookie(void)
{
    char *cookie = malloc(64);
    if (cookie == NULL)
        fail("no memory");
    memset(cookie, 0x5a, 64);
    USED(cookie);
    count_allocated(&drop_cookie, 64);
    count_lost(&drop_cookie, 64);
}

static NOINLINE char *new_buffer(size_t size)
{
    char *buffer = malloc(size);
    if (buffer == NULL)
        fail("no memory");
    buffer[0] = buffer[size - 1] = 1;
    count_allocated(&churn_buffer, size);
    return buffer;
}

static NOINLINE void churn(double rate)
{
    static char *buffers[256];
    static size_t sizes[256];
    double bytes = due(rate, (double)churn_buffer.allocated_bytes);
    while (bytes > 0) {
        size_t slot = between(0, 255);
        if (buffers[slot] != NULL) {
            free(buffers[slot]);
            count_freed(&churn_buffer, sizes[slot]);
        }
        sizes[slot] = between(16, 16384);
        buffers[slot] = new_buffer(sizes[slot]);
        bytes -= (double)sizes[slot];
    }
}

static NOINLINE void drizzle_step(void)
{
    static double rate, churned;
    if (rate == 0) {
        rate = argument("rate", 10240);
        churned = argument("churn", 50e6);
    }
    for (double bytes = due(rate, (double)drop_cookie.lost_bytes); bytes > 0; bytes -= 64)
        drop_one_cookie();
    churn(churned);
}

/* ---- sawtooth: a pool is filled for `period` seconds and emptied (pool: bytes per second), and blocks are lost ---- */

static struct site fill_pool = { .name = "fill_pool" }, lose_job = { .name = "lose_job" };

static NOINLINE void fill_pool_with_one(char **pool, size_t *sizes, size_t count)
{
    sizes[count] = between(200, 4000);
    pool[count] = malloc(sizes[count]);
    if (pool[count] == NULL)
        fail("no memory");
    count_allocated(&fill_pool, sizes[count]);
}

static NOINLINE void lose_one_job(size_t size)
{
    char *job = malloc(size);
    if (job == NULL)
        fail("no memory");
    memset(job, 0x5a, size);
    USED(job);
    count_allocated(&lose_job, size);
    count_lost(&lose_job, size);
}

static NOINLINE void sawtooth_step(void)
{
    static char *pool[100000];
    static size_t sizes[100000];
    static size_t count;
    static double rate, filled, period, began;
    if (period == 0) {
        rate = argument("rate", 20000);
        filled = argument("pool", 4e6);
        period = argument("period", 4);
    }
    if (worked - began >= period) {
        for (size_t i = 0; i < count; i++) {
            free(pool[i]);
            count_freed(&fill_pool, sizes[i]);
            pool[i] = NULL;
        }
        count = 0;
        began = worked;
    }
    double bytes = due(filled, (double)fill_pool.allocated_bytes);
    while (bytes > 0 && count < sizeof pool / sizeof pool[0]) {
        fill_pool_with_one(pool, sizes, count);
        bytes -= (double)sizes[count++];
    }
    bytes = due(rate, (double)lose_job.lost_bytes);
    while (bytes > 0) {
        size_t size = between(100, 400);
        lose_one_job(size);
        bytes -= (double)size;
    }
}

/* ---- kept: a list is never emptied; all of it can be reached (rate: bytes per second) ---- */

struct entry {
    struct entry *next;
    char data[];
};

static struct site keep_entry = { .name = "keep_entry" };
static struct entry *all_entries;

static NOINLINE void keep_one_entry(size_t size)
{
    struct entry *entry = malloc(size);
    if (entry == NULL)
        fail("no memory");
    memset(entry, 0x5a, size);
    entry->next = all_entries;
    all_entries = entry;
    count_allocated(&keep_entry, size);
}

static NOINLINE void kept_step(void)
{
    static double rate;
    if (rate == 0)
        rate = argument("rate", 1e6);
    double bytes = due(rate, (double)keep_entry.allocated_bytes);
    while (bytes > 0) {
        size_t size = between(100, 2000);
        keep_one_entry(size);
        bytes -= (double)size;
    }
}

/* ---- lists: lists of `length` entries are lost whole: all but the first entry are pointed to by what is lost itself ---- */

static struct site lose_entry = { .name = "lose_entry" };

static NOINLINE struct entry *new_entry(struct entry *next, size_t size)
{
    struct entry *entry = malloc(size);
    if (entry == NULL)
        fail("no memory");
    memset(entry, 0x5a, size);
    entry->next = next;
    count_allocated(&lose_entry, size);
    return entry;
}

static NOINLINE void lists_step(void)
{
    static double rate, length;
    if (rate == 0) {
        rate = argument("rate", 1e6);
        length = argument("length", 10);
    }
    double bytes = due(rate, (double)lose_entry.lost_bytes);
    while (bytes > 0) {
        struct entry *list = NULL;
        for (double entries = 0; entries < length; entries++) {
            size_t size = between(100, 2000);
            list = new_entry(list, size);
            count_lost(&lose_entry, size);
            bytes -= (double)size;
        }
        USED(list);
    }
}

/* ---- */

static struct site *const leak_sites[] = { &leak_records, NULL };
static struct site *const rare_sites[] = { &handle_request, NULL };
static struct site *const drizzle_sites[] = { &drop_cookie, &churn_buffer, NULL };
static struct site *const sawtooth_sites[] = { &lose_job, &fill_pool, NULL };
static struct site *const kept_sites[] = { &keep_entry, NULL };
static struct site *const lists_sites[] = { &lose_entry, NULL };

static const struct {
    const char *name;
    struct site *const *sites;
    void (*step)(void);
} scenarios[] = {
    { "leak", leak_sites, leak_step },       { "rare", rare_sites, rare_step },
    { "drizzle", drizzle_sites, drizzle_step }, { "sawtooth", sawtooth_sites, sawtooth_step },
    { "kept", kept_sites, kept_step },       { "lists", lists_sites, lists_step },
};

int main(int argc, char **argv)
{
    planted_argc = argc;
    planted_argv = argv;
    for (size_t i = 0; i < sizeof scenarios / sizeof scenarios[0]; i++)
        if (argc > 1 && strcmp(argv[1], scenarios[i].name) == 0)
            converse(scenarios[i].sites, scenarios[i].step);
    fail("no such scenario");
    return 2;
}
