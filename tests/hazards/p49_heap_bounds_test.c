/* H49: stack bounds asked for inside malloc. pthread_getattr_np allocates, reads /proc/self/maps
 * and takes the thread's lock; a hook that called it would enter itself or stand still. With every
 * allocation sampled the program's own calls go through, on all threads at once, and threads that
 * Weft does not know get their direct caller and a frame that says so.
 */
#include "tests/profiler/collect/heap_check.h"
#include <pthread.h>

static void *asks(void *arg)
{
    for (int i = 0; i < 50; i++) {
        pthread_attr_t attr;
        void *lo;
        size_t n;
        cr_assert_eq(pthread_getattr_np(pthread_self(), &attr), 0);
        cr_assert_eq(pthread_attr_getstack(&attr, &lo, &n), 0);
        cr_assert(lo && n);
        pthread_attr_destroy(&attr);
    }
    return arg;
}

Test(p49, everybody_asks_at_rate_1, .timeout = 120)
{
    pthread_t t[8];
    weft_pprof_heap_rate(1);
    for (int i = 0; i < 8; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, asks, NULL), 0);
    asks(NULL);
    for (int i = 0; i < 8; i++)
        pthread_join(t[i], NULL);
}

static void *unknown_thread(void *arg)
{
    free(keep(malloc(62001)));
    return arg;
}

Test(p49, an_unknown_thread_has_its_caller_alone, .timeout = 60)
{
    pthread_t t;
    weft_pprof_heap_rate(1);
    cr_assert_eq(pthread_create(&t, NULL, unknown_thread, NULL), 0);
    pthread_join(t, NULL);
    pf_raw raw;
    int rows = 0;
    cr_assert_eq(pf_heap_source.snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        if (s->block_bytes != 62001)
            continue;
        rows++;
        cr_assert(s->pcs[0] - (uintptr_t)unknown_thread < 400);
#ifdef HEAP_PLAIN
        cr_assert_eq(s->npcs, 2);
        cr_assert_eq(s->pcs[1], PF_NO_STACK);
#endif
    }
    cr_assert_eq(rows, 1);
    pf_raw_free(&raw);
}
