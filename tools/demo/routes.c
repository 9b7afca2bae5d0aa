/* The demo's routes. Each one is a kind of trouble that one of the profiles shows best:
 *
 *   /hash    burns CPU at the end of a deep call chain, in a helper that is inlined    profile
 *   /sum     a parallel sum whose workers share one lock; mode=channel is the cure     mutex
 *   /leak    keeps a block of memory with every request                                heap
 *   /churn   allocates and frees two megabytes in small pieces                         allocs
 *   /slow    waits for three answers on a channel                                      block
 *
 * Functions that people shall find in a profile are DEMO_NAMED and called at least once per loop
 * round of their caller; those that allocate, lock and wait do it themselves, so that the name
 * stands right above the call. Each request carries the label "route"; the coroutines it starts
 * inherit it. The label is the name in the table, never what the client sent: an unbounded set of
 * values would be a leak of its own.
 */
#include "tools/demo/demo.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include "weft.h"
#include "weft_pprof.h"

static void unavailable(demo_reply *r, const char *what)
{
    r->status = 503;
    demo_reply_add(r, "%s: no memory\n", what);
}

/* ---- /hash: 6 books of 12 chapters of 20 pages of 30 lines, about 5 ms ---- */

enum { BOOKS = 6, CHAPTERS = 12, PAGES = 20, LINES = 30, WORDS = 64 };

static inline __attribute__((always_inline)) uint64_t hash_mix(uint64_t h, uint64_t word)
{
    h = (h ^ word) * UINT64_C(0x9e3779b97f4a7c15);
    return h ^ (h >> 29);
}

static DEMO_NAMED uint64_t hash_line(uint64_t h, const uint64_t *words)
{
    DEMO_FRAME();
    for (int i = 0; i < WORDS; i++)
        h = hash_mix(h, words[i]);
    return h;
}

static DEMO_NAMED uint64_t hash_page(uint64_t h, uint64_t *words)
{
    for (int i = 0; i < LINES; i++) {
        words[i] = h;
        h = hash_line(h, words);
    }
    return h;
}

static DEMO_NAMED uint64_t hash_chapter(uint64_t h, uint64_t *words)
{
    for (int i = 0; i < PAGES; i++)
        h = hash_page(h, words);
    return h;
}

static DEMO_NAMED uint64_t hash_book(uint64_t h, uint64_t *words)
{
    for (int i = 0; i < CHAPTERS; i++)
        h = hash_chapter(h, words);
    return h;
}

static DEMO_NAMED uint64_t hash_library(uint64_t h, uint64_t *words)
{
    for (int i = 0; i < BOOKS; i++)
        h = hash_book(h, words);
    return h;
}

static DEMO_NAMED void route_hash(const demo_request *q, demo_reply *r)
{
    (void)q;
    uint64_t words[WORDS];
    for (int i = 0; i < WORDS; i++)
        words[i] = (uint64_t)i;
    demo_reply_add(r, "%016llx\n", (unsigned long long)hash_library(1, words));
}

/* ---- /sum?workers=N&mode=lock|channel ---- */

enum { NUMBERS = 300000, WORKERS_MAX = 64 };

/* One for all sums, as such locks are: workers of other requests wait for it too. */
static weft_mutex sum_lock = WEFT_MUTEX_INIT;

typedef struct sum_job {
    weft_wg done;
    uint64_t total;   /* under sum_lock */
    weft_chan *parts; /* NULL in mode=lock */
} sum_job;

typedef struct sum_worker {
    sum_job *job;
    uint32_t first, end;
} sum_worker;

/* What is summed: a number that takes about 5 ns to work out. The barrier keeps it from being
 * worked out by the compiler. Without this work outside the lock the workers would hardly meet: the
 * first one keeps the lock until its slice ends, and the sum is as fast as with one worker. */
static inline uint64_t sum_number(uint32_t n)
{
    uint64_t x = n;
    for (int i = 0; i < 5; i++) {
        x = x * UINT64_C(6364136223846793005) + 1442695040888963407u;
        __asm__ volatile("" : "+r"(x));
    }
    return x >> 32;
}

/* The mistake: one lock, taken for every number, around one addition. */
static DEMO_NAMED void sum_add_locked(sum_job *job, uint64_t number)
{
    weft_mutex_lock(&sum_lock);
    job->total += number;
    weft_mutex_unlock(&sum_lock);
}

static DEMO_NAMED void sum_with_lock(void *arg)
{
    sum_worker *w = arg;
    for (uint32_t n = w->first; n < w->end; n++)
        sum_add_locked(w->job, sum_number(n));
    weft_wg_done(&w->job->done);
}

/* The cure: add up alone, hand over once. The worker has its own reference, because the job may be
 * over before its send has returned. */
static DEMO_NAMED void sum_with_channel(void *arg)
{
    sum_worker *w = arg;
    weft_chan *parts = w->job->parts;
    uint64_t part = 0;
    for (uint32_t n = w->first; n < w->end; n++)
        part += sum_number(n);
    weft_chan_send(parts, &part);
    weft_chan_release(parts);
}

/* Workers that could not be started are done here, so that the sum is right all the same. */
static DEMO_NAMED void sum_start(sum_job *job, sum_worker *w, uint32_t n)
{
    void (*work)(void *) = job->parts ? sum_with_channel : sum_with_lock;
    weft_wg_add(&job->done, job->parts ? 0 : (int)n);
    for (uint32_t i = 0; i < n; i++) {
        weft_chan_retain(job->parts);
        w[i] = (sum_worker){job, NUMBERS / n * i, i + 1 < n ? NUMBERS / n * (i + 1) : NUMBERS};
        if (weft_go_opts(&(weft_opts){.name = "sum worker"}, work, &w[i]))
            work(&w[i]);
    }
}

static DEMO_NAMED void sum_collect(sum_job *job, uint32_t n)
{
    for (uint32_t i = 0; job->parts && i < n; i++) {
        uint64_t part;
        weft_chan_recv(job->parts, &part);
        job->total += part;
    }
    weft_wg_wait(&job->done);
}

static bool sum_query(const demo_request *q, uint32_t *workers, bool *channel)
{
    char text[16];
    *workers = 4;
    if (demo_query(q, "workers", text, sizeof text)) {
        char *end;
        unsigned long n = strtoul(text, &end, 10);
        if (*end || n < 1 || n > WORKERS_MAX)
            return false;
        *workers = (uint32_t)n;
    }
    *channel = demo_query(q, "mode", text, sizeof text) && strcmp(text, "channel") == 0;
    return *channel || !demo_query(q, "mode", text, sizeof text) || strcmp(text, "lock") == 0;
}

static DEMO_NAMED void route_sum(const demo_request *q, demo_reply *r)
{
    sum_worker workers[WORKERS_MAX];
    sum_job job = {.done = WEFT_WG_INIT};
    uint32_t n;
    bool channel;
    if (!sum_query(q, &n, &channel)) {
        r->status = 400;
        demo_reply_add(r, "workers is a number from 1 to %d, mode is lock or channel\n",
                       WORKERS_MAX);
        return;
    }
    if (channel && !(job.parts = weft_chan_new(sizeof(uint64_t), n))) {
        unavailable(r, "/sum");
        return;
    }
    int64_t begin = weft_now();
    sum_start(&job, workers, n);
    sum_collect(&job, n);
    weft_chan_release(job.parts);
    demo_reply_add(r, "sum=%llu workers=%u mode=%s took_us=%lld\n", (unsigned long long)job.total,
                   n, channel ? "channel" : "lock", (long long)(weft_now() - begin) / 1000);
}

/* ---- /leak: 16 KiB for ever ---- */

enum { LEAK_BYTES = 16384 };

typedef struct leaked {
    struct leaked *next;
    char bytes[LEAK_BYTES - sizeof(void *)];
} leaked;

static _Atomic(leaked *) leaks;
static _Atomic(uint64_t) leak_count;

static DEMO_NAMED leaked *leak_remember(void)
{
    leaked *l = malloc(sizeof *l);
    if (!l)
        return NULL;
    memset(l->bytes, 'L', sizeof l->bytes);
    l->next = atomic_load_explicit(&leaks, memory_order_relaxed);
    /* release: whoever takes the list's head by an acquire sees what it points to */
    while (!atomic_compare_exchange_weak_explicit(&leaks, &l->next, l, memory_order_release,
                                                  memory_order_relaxed)) {
    }
    return l;
}

static DEMO_NAMED void route_leak(const demo_request *q, demo_reply *r)
{
    (void)q;
    if (!leak_remember()) {
        unavailable(r, "/leak");
        return;
    }
    uint64_t n = atomic_fetch_add_explicit(&leak_count, 1, memory_order_relaxed) + 1;
    demo_reply_add(r, "kept %llu bytes in %llu blocks\n", (unsigned long long)n * LEAK_BYTES,
                   (unsigned long long)n);
}

/* ---- /churn: 20 pages of 100 strings of 24 bytes to 2 KiB, all freed again ---- */

enum { CHURN_PAGES = 20, CHURN_STRINGS = 100, CHURN_LONGEST = 2048 };

static DEMO_NAMED char *churn_string(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    size_t n = 24 + (*seed >> 8) % (CHURN_LONGEST - 24);
    char *s = malloc(n);
    if (s)
        memset(s, 'a' + (int)(n % 26), n);
    return s;
}

static DEMO_NAMED uint64_t churn_page(uint32_t *seed)
{
    char *strings[CHURN_STRINGS];
    uint64_t sum = 0;
    for (int i = 0; i < CHURN_STRINGS; i++) {
        strings[i] = churn_string(seed);
        sum += strings[i] ? (uint64_t)strings[i][0] : 0;
    }
    for (int i = 0; i < CHURN_STRINGS; i++)
        free(strings[i]);
    return sum;
}

static DEMO_NAMED void route_churn(const demo_request *q, demo_reply *r)
{
    (void)q;
    uint32_t seed = 1;
    uint64_t sum = 0;
    for (int i = 0; i < CHURN_PAGES; i++)
        sum += churn_page(&seed);
    demo_reply_add(r, "%d strings allocated and freed, checksum %llu\n",
                   CHURN_PAGES * CHURN_STRINGS, (unsigned long long)sum);
}

/* ---- /slow: three shards answer after 10, 20 and 30 ms ---- */

enum { SHARDS = 3, SHARD_MS = 10 };

typedef struct slow_shard {
    weft_chan *answers;
    int number;
} slow_shard;

static DEMO_NAMED void slow_shard_main(void *arg)
{
    slow_shard *s = arg;
    weft_chan *answers = s->answers;
    weft_sleep(s->number * SHARD_MS * INT64_C(1000000));
    weft_chan_send(answers, &s->number);
    weft_chan_release(answers);
}

static DEMO_NAMED int slow_wait_for_answer(weft_chan *answers)
{
    int number = 0;
    weft_chan_recv(answers, &number);
    return number;
}

static DEMO_NAMED void route_slow(const demo_request *q, demo_reply *r)
{
    (void)q;
    slow_shard shards[SHARDS];
    weft_chan *answers = weft_chan_new(sizeof(int), SHARDS);
    if (!answers) {
        unavailable(r, "/slow");
        return;
    }
    int started = 0, sum = 0;
    for (int i = 0; i < SHARDS; i++) {
        shards[i] = (slow_shard){weft_chan_retain(answers), i + 1};
        if (weft_go_opts(&(weft_opts){.name = "shard"}, slow_shard_main, &shards[i]))
            weft_chan_release(answers);
        else
            started++;
    }
    for (int i = 0; i < started; i++)
        sum += slow_wait_for_answer(answers);
    weft_chan_release(answers);
    if (started < SHARDS)
        unavailable(r, "/slow");
    else
        demo_reply_add(r, "%d shards answered, sum %d\n", started, sum);
}

/* ---- the table, and / ---- */

static void route_index(const demo_request *, demo_reply *);

static const struct route {
    const char *path;
    void (*run)(const demo_request *, demo_reply *);
    const char *link, *profile, *help;
} routes[] = {
    {"/", route_index, NULL, NULL, NULL},
    {"/hash", route_hash, "/hash", "profile", "burns CPU at the end of a deep call chain"},
    {"/sum", route_sum, "/sum?workers=4", "mutex",
     "adds numbers in parallel, and gets slower with each worker because they share one lock; "
     "<a href='/sum?workers=4&amp;mode=channel'>mode=channel</a> is the cure"},
    {"/leak", route_leak, "/leak", "heap", "keeps 16 KiB of memory for ever"},
    {"/churn", route_churn, "/churn", "allocs", "allocates and frees 2000 strings"},
    {"/slow", route_slow, "/slow", "block", "waits on a channel for three slow answers"},
};
enum { ROUTES = sizeof routes / sizeof *routes };

static void route_index(const demo_request *q, demo_reply *r)
{
    (void)q;
    r->type = "text/html; charset=utf-8";
    demo_reply_add(r, "<!DOCTYPE html>\n<html lang='en'><head><title>weft-demo</title></head>"
                      "<body>\n<h1>weft-demo</h1>\n<p>A service on Weft coroutines with five kinds "
                      "of trouble. Ask for a route a few times, then look at the profile beside "
                      "it.</p>\n<table>\n<tr><th>Route</th><th>Profile</th><th>What it does</th>"
                      "</tr>\n");
    for (int i = 0; i < ROUTES; i++)
        if (routes[i].link)
            demo_reply_add(r, "<tr><td><a href='%s'>%s</a></td><td>%s</td><td>%s</td></tr>\n",
                           routes[i].link, routes[i].path, routes[i].profile, routes[i].help);
    demo_reply_add(r, "</table>\n<p>All coroutines with their stacks are in goroutine.</p>\n"
                      "</body></html>\n");
}

void demo_route(const demo_request *q, demo_reply *r)
{
    for (int i = 0; i < ROUTES; i++) {
        if (strcmp(q->path, routes[i].path) != 0)
            continue;
        weft_labels *outer = weft_labels_swap(NULL);
        weft_label_set("route", routes[i].path);
        routes[i].run(q, r);
        weft_labels_free(weft_labels_swap(outer));
        return;
    }
    r->status = 404;
    demo_reply_add(r, "%s: no such route; / lists them\n", q->path);
}
