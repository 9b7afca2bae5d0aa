/* The runtime's own benchmarks: core_bench NAME PROCS prints nanoseconds per operation. go/main.go
 * has the same work under the same names; tests/bench/run alternates the two and prints ratios.
 *
 * Each name does a fixed number of operations, chosen so that Go needs a quarter to half a second.
 * Only the work is timed, not the start of the workers.
 *
 * Rejected: one process for all names. The second benchmark found the stacks and the heap that the
 * first one left, and gained 10 to 30 % from the order alone.
 */
#include "weft.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int64_t begin;
static const char *which;

static void report(int64_t operations)
{
    printf("%.2f\n", (double)(weft_now() - begin) / (double)operations);
}

static void must(int result)
{
    if (result < 0) {
        fprintf(stderr, "core_bench: %s: %s\n", which, strerror(-result));
        exit(1);
    }
}

static weft_chan *channel(size_t elem_bytes, size_t capacity)
{
    weft_chan *c = weft_chan_new(elem_bytes, capacity);
    if (!c)
        must(-12);
    return c;
}

/* ---- yield: two coroutines take turns ---- */

enum { YIELDS = 2000000 };
static weft_wg group;

static void yielder(void *arg)
{
    (void)arg;
    for (int i = 0; i < YIELDS; i++)
        weft_yield();
    weft_wg_done(&group);
}

static void bench_yield(void)
{
    weft_wg_add(&group, 2);
    begin = weft_now();
    must(weft_go(yielder, NULL));
    must(weft_go(yielder, NULL));
    weft_wg_wait(&group);
    report(2LL * YIELDS);
}

/* ---- pingpong: one round trip over two unbuffered channels ---- */

enum { TRIPS = 1000000 };
static weft_chan *there, *back;

static void echo(void *arg)
{
    int v;
    (void)arg;
    while (weft_chan_recv(there, &v) == 0)
        weft_chan_send(back, &v);
}

static void bench_pingpong(void)
{
    there = channel(sizeof(int), 0);
    back = channel(sizeof(int), 0);
    must(weft_go(echo, NULL));
    begin = weft_now();
    for (int i = 0; i < TRIPS; i++) {
        int v = i;
        weft_chan_send(there, &v);
        weft_chan_recv(back, &v);
    }
    report(TRIPS);
}

/* ---- spawn: start, run and end; 1000 at a time so that they are also alive together ---- */

enum { SPAWNS = 1000, SPAWN_ROUNDS = 1000 };

static void ended(void *arg)
{
    (void)arg;
    weft_wg_done(&group);
}

static void bench_spawn(void)
{
    begin = weft_now();
    for (int r = 0; r < SPAWN_ROUNDS; r++) {
        weft_wg_add(&group, SPAWNS);
        for (int i = 0; i < SPAWNS; i++)
            must(weft_go(ended, NULL));
        weft_wg_wait(&group);
    }
    report((int64_t)SPAWNS * SPAWN_ROUNDS);
}

/* ---- buffered, unbuffered: one producer, one consumer ---- */

static size_t stream_capacity;
static int stream_items;

static void producer(void *arg)
{
    weft_chan *c = arg;
    for (int i = 0; i < stream_items; i++)
        weft_chan_send(c, &i);
    weft_chan_close(c);
}

static void bench_stream(void)
{
    weft_chan *c = channel(sizeof(int), stream_capacity);
    int64_t sum = 0;
    int v;
    begin = weft_now();
    must(weft_go(producer, c));
    while (weft_chan_recv(c, &v) == 0)
        sum += v;
    report(stream_items);
    if (sum != (int64_t)stream_items * (stream_items - 1) / 2)
        must(-22);
}

static void bench_buffered(void)
{
    stream_capacity = 128;
    stream_items = 3000000;
    bench_stream();
}

static void bench_unbuffered(void)
{
    stream_capacity = 0;
    stream_items = 1000000;
    bench_stream();
}

/* ---- skynet: a tree of ten children each, a million leaves, sums handed up by channels ---- */

struct node {
    weft_chan *up;
    int64_t num, size;
};

static void skynet(void *arg)
{
    struct node n = *(struct node *)arg;
    free(arg);
    if (n.size == 1) {
        weft_chan_send(n.up, &n.num);
        weft_chan_release(n.up);
        return;
    }
    weft_chan *c = channel(sizeof(int64_t), 0);
    for (int i = 0; i < 10; i++) {
        struct node *child = malloc(sizeof *child);
        if (!child)
            must(-12);
        *child = (struct node){weft_chan_retain(c), n.num + i * (n.size / 10), n.size / 10};
        must(weft_go(skynet, child));
    }
    int64_t sum = 0, v = 0;
    for (int i = 0; i < 10; i++) {
        weft_chan_recv(c, &v);
        sum += v;
    }
    weft_chan_send(n.up, &sum);
    weft_chan_release(n.up);
    weft_chan_release(c);
}

static void bench_skynet(void)
{
    weft_chan *c = channel(sizeof(int64_t), 0);
    struct node *root = malloc(sizeof *root);
    if (!root)
        must(-12);
    *root = (struct node){weft_chan_retain(c), 0, 1000000};
    begin = weft_now();
    must(weft_go(skynet, root));
    int64_t sum = 0;
    weft_chan_recv(c, &sum);
    report(1);
    if (sum != 499999500000)
        must(-22);
}

/* ---- sieve: a chain of filters, the first 500 primes ---- */

enum { PRIMES = 500, PRIME_500 = 3571 };
struct filter {
    weft_chan *in, *out;
    int prime;
};

static void generate(void *arg)
{
    for (int i = 2; weft_chan_send(arg, &i) == 0; i++)
        ;
}

static void filter(void *arg)
{
    struct filter f = *(struct filter *)arg;
    free(arg);
    int v;
    while (weft_chan_recv(f.in, &v) == 0)
        if (v % f.prime != 0 && weft_chan_send(f.out, &v) != 0)
            break;
}

static void bench_sieve(void)
{
    weft_chan *c = channel(sizeof(int), 0);
    int prime = 0;
    begin = weft_now();
    must(weft_go(generate, c));
    for (int i = 0; i < PRIMES; i++) {
        weft_chan_recv(c, &prime);
        struct filter *f = malloc(sizeof *f);
        if (!f)
            must(-12);
        *f = (struct filter){c, channel(sizeof(int), 0), prime};
        c = f->out;
        must(weft_go(filter, f));
    }
    report(1);
    if (prime != PRIME_500)
        must(-22);
}

/* ---- mutex: free, and with eight coroutines that want it ---- */

enum { LOCKS = 8000000, CONTENDERS = 8 };
static weft_mutex mutex;
static int64_t guarded;

static void bench_mutex(void)
{
    begin = weft_now();
    for (int i = 0; i < LOCKS; i++) {
        weft_mutex_lock(&mutex);
        guarded++;
        weft_mutex_unlock(&mutex);
    }
    report(LOCKS);
}

static void contender(void *arg)
{
    (void)arg;
    for (int i = 0; i < LOCKS / CONTENDERS; i++) {
        weft_mutex_lock(&mutex);
        guarded++;
        weft_mutex_unlock(&mutex);
    }
    weft_wg_done(&group);
}

static void bench_contended(void)
{
    weft_wg_add(&group, CONTENDERS);
    begin = weft_now();
    for (int i = 0; i < CONTENDERS; i++)
        must(weft_go(contender, NULL));
    weft_wg_wait(&group);
    report(LOCKS);
    if (guarded != LOCKS)
        must(-22);
}

static const struct {
    const char *name;
    void (*run)(void);
} benches[] = {
    {"yield", bench_yield},       {"pingpong", bench_pingpong},     {"spawn", bench_spawn},
    {"buffered", bench_buffered}, {"unbuffered", bench_unbuffered}, {"skynet", bench_skynet},
    {"sieve", bench_sieve},       {"mutex", bench_mutex},           {"contended", bench_contended},
};

static int first(int argc, char **argv)
{
    (void)argc;
    which = argv[1];
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++) {
        if (strcmp(benches[i].name, which) == 0) {
            benches[i].run();
            return 0;
        }
    }
    fprintf(stderr, "core_bench: no benchmark is called %s\n", which);
    return 2;
}

int main(int argc, char **argv)
{
    if (argc != 3 || atoi(argv[2]) < 1) {
        fprintf(stderr, "usage: core_bench NAME PROCS\n");
        return 2;
    }
    weft_procs(atoi(argv[2]));
    return weft_run(first, argc, argv);
}
