/* H50: lock hooks that allocate, in an allocator whose hooks lock. Every allocation, every wait and
 * every contended unlock is recorded at once, from plain threads and coroutines: nothing stands
 * still, nothing enters itself, and the counts are whole.
 */
#include "tests/profiler/collect/heap_check.h"
#include <pthread.h>

enum { CALLERS = 16, ROUNDS = 300 };

static weft_mutex mutex = WEFT_MUTEX_INIT;
static weft_wg wg = WEFT_WG_INIT;
static int64_t guarded;

static void contend(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        void *p = keep(malloc(64001));
        weft_mutex_lock(&mutex);
        void *q = keep(realloc(keep(malloc(64002)), 64003));
        guarded++;
        if (i % 8 == 0)
            weft_yield(); /* others come while it is held */
        weft_mutex_unlock(&mutex);
        free(q);
        free(p);
    }
    if (arg)
        weft_wg_done(arg);
}

static void *thread(void *arg)
{
    contend(NULL);
    return arg;
}

static int run(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_wg_add(&wg, CALLERS);
    for (int i = 0; i < CALLERS; i++)
        weft_go(contend, &wg);
    return weft_wg_wait(&wg);
}

Test(p50, everything_recorded_at_once, .timeout = 240)
{
    pthread_t t[CALLERS];
    weft_pprof_heap_rate(1);
    weft_pprof_block_rate(1);
    weft_pprof_mutex_fraction(1);
    for (int i = 0; i < CALLERS; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, thread, NULL), 0);
    cr_assert_eq(weft_run(run, 0, NULL), 0);
    for (int i = 0; i < CALLERS; i++)
        pthread_join(t[i], NULL);
    int64_t all = 2 * CALLERS * ROUNDS;
    cr_assert_eq(guarded, all);
    for (int64_t size = 64001; size <= 64003; size++) {
        heap_row r = heap_rows(size);
        cr_assert_geq(r.v[ALLOC_OBJECTS], all - CALLERS * 2, "%lld: a thread's first 64 KiB",
                      (long long)size);
        cr_assert_eq(r.v[INUSE_OBJECTS], 0);
    }
    pf_raw raw;
    int64_t waits = 0, unlocks = 0;
    cr_assert_eq(pf_block_source.snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++)
        waits += raw.samples[i].values[0];
    pf_raw_free(&raw);
    cr_assert_eq(pf_mutex_source.snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++)
        unlocks += raw.samples[i].values[0];
    pf_raw_free(&raw);
    cr_assert_gt(waits, 0);
    cr_assert_gt(unlocks, 0);
}
