/* steady SCENARIO [NAME=NUMBER...]: programs that don't leak, though they look like it for a while. */
#include "planted.h"

/* ---- cache: fills to `capacity` bytes and stays there; the least recently used goes (rate: requests per second) ---- */

#define KEYS 65536

struct item {
    struct item *newer, *older;
    size_t key, size;
};

static struct site cache_item = { .name = "cache_item" };
static struct item *by_key[KEYS], *newest, *oldest;

static void unlink_item(struct item *item)
{
    *(item->newer ? &item->newer->older : &newest) = item->older;
    *(item->older ? &item->older->newer : &oldest) = item->newer;
}

static void put_first(struct item *item)
{
    item->newer = NULL;
    item->older = newest;
    *(newest ? &newest->newer : &oldest) = item;
    newest = item;
}

static NOINLINE void cache_one_item(size_t key, size_t size)
{
    struct item *item = malloc(size);
    if (item == NULL)
        fail("no memory");
    memset(item, 0x5a, size);
    item->key = key;
    item->size = size;
    by_key[key] = item;
    put_first(item);
    count_allocated(&cache_item, size);
}

static NOINLINE void cache_step(void)
{
    static double rate, capacity, requests;
    if (rate == 0) {
        rate = argument("rate", 3000);
        capacity = argument("capacity", 8e6);
    }
    for (double count = due(rate, requests); count > 0; count--, requests++) {
        size_t key = a_random_number() % KEYS;
        if (by_key[key] != NULL) {
            unlink_item(by_key[key]);
            put_first(by_key[key]);
            continue;
        }
        cache_one_item(key, between(200, 4000));
        while ((double)(cache_item.allocated_bytes - cache_item.freed_bytes) > capacity) {
            struct item *last = oldest;
            unlink_item(last);
            by_key[last->key] = NULL;
            count_freed(&cache_item, last->size);
            free(last);
        }
    }
}

/* ---- arena: blocks of 64 KiB are taken until `arenas` are there, and kept; work goes on in them ---- */

#define ARENA 65536

static struct site take_arena = { .name = "take_arena" }, new_message = { .name = "new_message" };
static char *arenas[4096];

static NOINLINE char *take_one_arena(void)
{
    char *arena = malloc(ARENA);
    if (arena == NULL)
        fail("no memory");
    count_allocated(&take_arena, ARENA);
    return arena;
}

static NOINLINE char *new_one_message(size_t size)
{
    char *message = malloc(size);
    if (message == NULL)
        fail("no memory");
    count_allocated(&new_message, size);
    return message;
}

static NOINLINE void arena_step(void)
{
    static double warm, most, count, messages;
    if (most == 0) {
        most = argument("arenas", 200);
        warm = argument("warm", 5);
    }
    for (; count < most && count < worked / warm * most; count++)
        arenas[(size_t)count] = take_one_arena();
    if (count == 0)
        return;
    for (double missing = due(2000, messages); missing > 0; missing--, messages++) {
        size_t size = between(50, 3000);
        char *message = new_one_message(size);
        memset(message, 0x5a, size);
        memcpy(arenas[between(0, (size_t)count - 1)], message, size);
        free(message);
        count_freed(&new_message, size);
    }
}

/* ---- holes: what lives grows and shrinks, in other sizes each time; what stays leaves holes that don't fit ---- */

static struct site grow_and_shrink = { .name = "grow_and_shrink" };

static NOINLINE char *grow_by_one(size_t size)
{
    char *block = malloc(size);
    if (block == NULL)
        fail("no memory");
    memset(block, 0x5a, size);
    count_allocated(&grow_and_shrink, size);
    return block;
}

static NOINLINE void holes_step(void)
{
    static char *blocks[20000];
    static size_t sizes[20000];
    static double rate, period, done, turned;
    static size_t round;
    static int shrinks;
    if (rate == 0) {
        rate = argument("rate", 8000);
        period = argument("period", 2);
    }
    if (worked - turned >= period / 2) {
        turned = worked;
        shrinks = !shrinks;
        round += !shrinks;
    }
    for (double count = due(rate, done); count > 0; count--, done++) {
        size_t slot = between(0, 19999);
        if (blocks[slot] != NULL && (shrinks || a_random_number() % 2)) {
            free(blocks[slot]);
            count_freed(&grow_and_shrink, sizes[slot]);
            blocks[slot] = NULL;
        }
        if (blocks[slot] == NULL && !shrinks) {
            sizes[slot] = between(100, 300) * (1 + round % 5);
            blocks[slot] = grow_by_one(sizes[slot]);
        }
    }
}

/* ---- bursts: every `period` seconds `connections` come at once, live for half of it, and go ---- */

struct connection {
    char *buffer, *state[4];
    size_t size;
};

static struct site open_connection = { .name = "open_connection" };

static NOINLINE char *connection_part(size_t size)
{
    char *part = malloc(size);
    if (part == NULL)
        fail("no memory");
    memset(part, 0x5a, size);
    count_allocated(&open_connection, size);
    return part;
}

static NOINLINE void bursts_step(void)
{
    static struct connection open[4096];
    static double period, connections, began;
    static size_t count;
    if (period == 0) {
        period = argument("period", 2);
        connections = argument("connections", 300);
        began = -period;
    }
    if (worked - began >= period) {
        began = worked;
        while (count < (size_t)connections) {
            struct connection *one = &open[count++];
            one->size = between(4096, 32768);
            one->buffer = connection_part(one->size);
            for (size_t i = 0; i < 4; i++)
                one->state[i] = connection_part(200);
        }
    } else if (worked - began >= period / 2) {
        while (count > 0) {
            struct connection *one = &open[--count];
            free(one->buffer);
            count_freed(&open_connection, one->size);
            for (size_t i = 0; i < 4; i++) {
                free(one->state[i]);
                count_freed(&open_connection, 200);
            }
            memset(one, 0, sizeof *one);
        }
    }
}

/* ---- idle: works and never allocates ---- */

static NOINLINE void idle_step(void)
{
    uint64_t end = nanoseconds(CLOCK_MONOTONIC) + 500000;
    while (nanoseconds(CLOCK_MONOTONIC) < end)
        a_random_number();
}

/* ---- */

static struct site *const cache_sites[] = { &cache_item, NULL };
static struct site *const arena_sites[] = { &take_arena, &new_message, NULL };
static struct site *const holes_sites[] = { &grow_and_shrink, NULL };
static struct site *const bursts_sites[] = { &open_connection, NULL };
static struct site *const no_sites[] = { NULL };

static const struct {
    const char *name;
    struct site *const *sites;
    void (*step)(void);
} scenarios[] = {
    { "cache", cache_sites, cache_step },    { "arena", arena_sites, arena_step }, { "holes", holes_sites, holes_step },
    { "bursts", bursts_sites, bursts_step }, { "idle", no_sites, idle_step },
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
