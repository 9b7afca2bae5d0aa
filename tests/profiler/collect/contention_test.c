/* Block and mutex profiles: Go's arithmetic, and who is charged where. */
#include "tests/check.h"
#include <math.h>
#include <stdlib.h>
#include "profiler/collect/heap.h"

enum { CONTENTIONS, DELAY };

/* A function in a section of its own: its addresses are told from its neighbours'. */
#define MARKED(name)                                                                               \
    extern const char __start_own_##name[], __stop_own_##name[];                                   \
    __attribute__((noinline, section("own_" #name)))
#define THROUGH(source, name) through(source, __start_own_##name, __stop_own_##name)
#define ALL(source)           through(source, NULL, NULL)

typedef struct sums {
    int64_t v[2];
    int rows;
} sums;

/* Of the rows whose stack goes through [from, to) (NULL: all). */
static sums through(const pf_source *source, const char *from, const char *to)
{
    sums sum = {{0, 0}, 0};
    pf_raw raw;
    cr_assert_eq(source->snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        bool has = !from;
        for (uint32_t k = 0; k < s->npcs; k++)
            has |= s->pcs[k] > (uintptr_t)from && s->pcs[k] <= (uintptr_t)to;
        if (!has)
            continue;
        sum.rows++;
        sum.v[CONTENTIONS] += s->values[CONTENTIONS];
        sum.v[DELAY] += s->values[DELAY];
        cr_assert(!s->leaf_exact && s->block_bytes == 0);
    }
    pf_raw_free(&raw);
    return sum;
}

Test(contention, sources_are_as_go_has_them)
{
    const pf_source *both[] = {&pf_block_source, &pf_mutex_source};
    for (int i = 0; i < 2; i++) {
        cr_assert_str_eq(both[i]->name, i ? "mutex" : "block");
        cr_assert_eq(both[i]->ntypes, 2);
        cr_assert_str_eq(both[i]->types[0].type, "contentions");
        cr_assert_str_eq(both[i]->types[0].unit, "count");
        cr_assert_str_eq(both[i]->types[1].type, "delay");
        cr_assert_str_eq(both[i]->types[1].unit, "nanoseconds");
        pf_raw raw;
        cr_assert_eq(both[i]->snapshot(&raw), 0);
        cr_assert_eq(raw.period, 1);
        cr_assert_eq(raw.rate, 0);
        cr_assert_eq(raw.nsamples, 0);
        pf_raw_free(&raw);
    }
}

Test(contention, off_by_default_and_the_mask_follows)
{
    cr_assert_eq(weft_hook_mask(0, 0) & (WEFT_HOOK_BLOCK | WEFT_HOOK_UNLOCK), 0);
    cr_assert_eq(weft_pprof_block_rate(5000), 0);
    cr_assert_eq(weft_pprof_mutex_fraction(3), 0);
    cr_assert_neq(weft_hook_mask(0, 0) & WEFT_HOOK_BLOCK, 0);
    cr_assert_neq(weft_hook_mask(0, 0) & WEFT_HOOK_UNLOCK, 0);
    cr_assert_eq(weft_pprof_block_rate(-1), 5000);
    cr_assert_eq(weft_pprof_mutex_fraction(-7), 3);
    cr_assert_eq(weft_pprof_block_rate(0), 5000);
    cr_assert_eq(weft_pprof_mutex_fraction(0), 3);
    cr_assert_eq(weft_hook_mask(0, 0) & (WEFT_HOOK_BLOCK | WEFT_HOOK_UNLOCK), 0);
    pf_block_end(WEFT_WAIT_MUTEX, 1000000000);
    pf_unlock_end(1000000000);
    cr_assert_eq(ALL(&pf_block_source).rows, 0);
    cr_assert_eq(ALL(&pf_mutex_source).rows, 0);
}

MARKED(wait_of) static void wait_of(int64_t ns)
{
    pf_block_end(WEFT_WAIT_CHAN_RECV, ns);
    __asm__ volatile("" : : : "memory");
}

MARKED(unlock_of) static void unlock_of(int64_t ns)
{
    pf_unlock_end(ns);
    __asm__ volatile("" : : : "memory");
}

Test(contention, rate_1_is_everything)
{
    weft_pprof_block_rate(1);
    weft_pprof_mutex_fraction(1);
    for (int i = 0; i < 1000; i++) {
        wait_of(100 + i);
        unlock_of(200 + i);
    }
    sums b = THROUGH(&pf_block_source, wait_of), m = THROUGH(&pf_mutex_source, unlock_of);
    cr_assert_eq(b.rows, 1);
    cr_assert_eq(b.v[CONTENTIONS], 1000);
    cr_assert_eq(b.v[DELAY], 100000 + 999 * 500);
    cr_assert_eq(m.v[CONTENTIONS], 1000);
    cr_assert_eq(m.v[DELAY], 200000 + 999 * 500);
}

Test(contention, waits_over_the_rate_are_exact)
{
    weft_pprof_block_rate(1000);
    for (int i = 0; i < 500; i++)
        wait_of(1000 + i);
    sums b = THROUGH(&pf_block_source, wait_of);
    cr_assert_eq(b.v[CONTENTIONS], 500);
    cr_assert_eq(b.v[DELAY], 500000 + 499 * 250);
}

/* A wait of t < rate stands for rate/t waits of together rate ns. */
Test(contention, shorter_waits_are_unbiased)
{
    static const int64_t lengths[] = {1, 10, 300, 700, 999};
    for (int k = 0; k < 5; k++) {
        pf_heap_seed(100 + (uint64_t)k);
        weft_pprof_block_rate(1000);
        sums before = THROUGH(&pf_block_source, wait_of);
        int64_t t = lengths[k], n = 400000;
        for (int64_t i = 0; i < n; i++)
            wait_of(t);
        sums after = THROUGH(&pf_block_source, wait_of);
        double chance = (double)t / 1000, sd = sqrt((double)n * chance * (1 - chance)) / chance;
        double count = (double)(after.v[CONTENTIONS] - before.v[CONTENTIONS]);
        double delay = (double)(after.v[DELAY] - before.v[DELAY]);
        cr_assert(fabs(count - (double)n) < 3 * sd + 2, "t %lld: %.0f waits, sd %.0f", (long long)t,
                  count, sd);
        cr_assert(fabs(delay - (double)(n * t)) < 3 * sd * (double)t + 2, "t %lld: %.0f ns",
                  (long long)t, delay);
    }
}

Test(contention, a_fraction_of_unlocks_stands_for_all)
{
    pf_heap_seed(5);
    weft_pprof_mutex_fraction(50);
    enum { N = 500000 };
    for (int i = 0; i < N; i++)
        unlock_of(1000);
    sums m = THROUGH(&pf_mutex_source, unlock_of);
    double sd = sqrt(N * 49.0);
    cr_assert(fabs((double)m.v[CONTENTIONS] - N) < 3 * sd, "%lld", (long long)m.v[CONTENTIONS]);
    cr_assert_eq(m.v[DELAY], m.v[CONTENTIONS] * 1000);

    weft_pprof_mutex_fraction(1);
    unlock_of(1000);
    sums again = THROUGH(&pf_mutex_source, unlock_of);
    cr_assert_eq(again.v[CONTENTIONS], m.v[CONTENTIONS] + 1, "a new fraction spoils nothing");
}

Test(contention, a_wait_inside_the_profiler_is_not_charged)
{
    weft_pprof_block_rate(1);
    weft_pprof_mutex_fraction(1);
    cr_assert(pf_enter());
    wait_of(1000);
    unlock_of(1000);
    pf_leave();
    pf_tls.quiet = 1;
    wait_of(1000);
    pf_tls.quiet = 0;
    cr_assert_eq(ALL(&pf_block_source).rows, 0);
    cr_assert_eq(ALL(&pf_mutex_source).rows, 0);
}

/* ---- through the runtime ---- */

enum { MS = 1000000 };

MARKED(receiver) static void receiver(void *arg)
{
    int v;
    weft_chan_recv(arg, &v);
    __asm__ volatile("" : : : "memory");
}

MARKED(sleeper) static void sleeper(void *arg)
{
    weft_sleep(20 * MS);
    weft_wg_done(arg);
    __asm__ volatile("" : : : "memory");
}

static weft_wg wg = WEFT_WG_INIT;
static weft_chan *chan;

static void receive_and_done(void *arg)
{
    receiver(arg);
    weft_wg_done(&wg);
}

static int wait_main(int argc, char **argv)
{
    (void)argc, (void)argv;
    chan = weft_chan_new(sizeof(int), 0);
    weft_wg_add(&wg, 2);
    weft_go(sleeper, &wg);
    weft_go(receive_and_done, chan);
    weft_sleep(60 * MS);
    int v = 1;
    weft_chan_send(chan, &v);
    weft_wg_wait(&wg);
    return 0;
}

Test(contention, a_waiter_is_charged_where_it_waits, .timeout = 60)
{
    weft_pprof_block_rate(1);
    cr_assert_eq(weft_run(wait_main, 0, NULL), 0);
    sums r = THROUGH(&pf_block_source, receiver);
    cr_assert_eq(r.v[CONTENTIONS], 1);
    cr_assert(r.v[DELAY] > 30 * MS, "%lld ns", (long long)r.v[DELAY]);
    cr_assert_eq(THROUGH(&pf_block_source, sleeper).rows, 0, "a sleep is no contention");
}

static weft_mutex mutex = WEFT_MUTEX_INIT;

MARKED(unlocker) static void unlocker(void)
{
    weft_mutex_unlock(&mutex);
    __asm__ volatile("" : : : "memory");
}

static void holder(void *arg)
{
    weft_mutex_lock(&mutex);
    weft_sleep(arg ? 50 * MS : MS);
    unlocker();
    weft_wg_done(&wg);
}

static int lock_main(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_wg_add(&wg, 6);
    weft_go(holder, &wg);
    weft_sleep(10 * MS);
    for (int i = 0; i < 5; i++)
        weft_go(holder, NULL);
    weft_wg_wait(&wg);
    return 0;
}

Test(contention, an_unlocker_is_charged_for_the_wait_it_caused, .timeout = 60)
{
    weft_pprof_mutex_fraction(1);
    cr_assert_eq(weft_run(lock_main, 0, NULL), 0);
    sums u = THROUGH(&pf_mutex_source, unlocker);
    cr_assert(u.v[CONTENTIONS] >= 1 && u.v[CONTENTIONS] <= 6, "%lld", (long long)u.v[CONTENTIONS]);
    cr_assert(u.v[DELAY] > 20 * MS, "%lld ns", (long long)u.v[DELAY]);
    cr_assert_eq(ALL(&pf_block_source).rows, 0);
}
