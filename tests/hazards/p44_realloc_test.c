/* H44: realloc's edges. A failed realloc leaves the old block live; realloc to 0 frees; an address
 * that two threads pass between them is never credited twice; after millions of operations what is
 * in use is exactly what is in use.
 */
#include "tests/profiler/collect/heap_check.h"
#include <pthread.h>
#include <sys/resource.h>

static void all(void)
{
    weft_pprof_heap_rate(1);
}

#ifdef HEAP_PLAIN
Test(p44, a_failed_realloc_keeps_the_block, .init = all)
{
    struct rlimit lim;
    volatile size_t huge = (size_t)1 << 46, most = (size_t)-1;
    char *volatile p =
        keep(malloc(60001)); /* volatile: the compiler takes p as gone after realloc */
    memset(p, 7, 60001);
    cr_assert_null(keep(realloc(p, huge)));
    cr_assert_null(keep(reallocarray(p, huge, 2)));
    cr_assert_null(keep(reallocarray(p, most, 8)));
    getrlimit(RLIMIT_AS, &lim);
    struct rlimit small = {(size_t)1 << 20, lim.rlim_max};
    setrlimit(RLIMIT_AS, &small);
    cr_assert_null(keep(realloc(p, huge >> 16)));
    setrlimit(RLIMIT_AS, &lim);
    heap_row r = heap_rows(60001);
    cr_assert_eq(r.v[ALLOC_OBJECTS], 1);
    cr_assert_eq(r.v[INUSE_OBJECTS], 1, "a failed realloc frees nothing");
    cr_assert_eq(p[60000], 7);
    free(p);
    cr_assert_eq(heap_rows(60001).v[INUSE_OBJECTS], 0);
}

Test(p44, to_zero_frees, .init = all)
{
    volatile size_t zero = 0;
    for (int i = 0; i < 100; i++)
        cr_assert_null(realloc(keep(malloc(60002)), zero));
    cr_assert_eq(heap_rows(60002).v[ALLOC_OBJECTS], 100);
    cr_assert_eq(heap_rows(60002).v[INUSE_OBJECTS], 0);
}
#endif

Test(p44, growing_and_shrinking_in_place, .init = all)
{
    char *p = NULL;
    for (size_t n = 60100; n < 60200; n++)
        p = keep(realloc(p, n));
    for (size_t n = 60199; n >= 60150; n--)
        p = keep(realloc(p, n));
    for (int64_t n = 60100; n < 60200; n++)
        cr_assert_eq(heap_rows(n).v[INUSE_OBJECTS], n == 60150, "size %lld", (long long)n);
    free(p);
    cr_assert_eq(heap_rows(60150).v[INUSE_OBJECTS], 0);
}

/* Two threads that free and allocate the same size at once: the allocator hands one's address to
 * the other within nanoseconds. */
enum { PAIRS = 200000 };

static void *ping_pong(void *arg)
{
    void *p = keep(malloc(60003));
    for (int i = 0; i < PAIRS; i++) {
        p = keep(realloc(p, i & 1 ? 60003 : 61003));
        if (i % 7 == 0) {
            free(p);
            p = keep(malloc(60003));
        }
    }
    free(p);
    return arg;
}

Test(p44, two_threads_one_address, .init = all, .timeout = 120)
{
    pthread_t t[2];
    for (int i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, ping_pong, NULL), 0);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(heap_rows(60003).v[INUSE_OBJECTS], 0);
    cr_assert_eq(heap_rows(61003).v[INUSE_OBJECTS], 0);
    cr_assert_geq(heap_rows(61003).v[ALLOC_OBJECTS], PAIRS);
}

/* Blocks that one thread allocates and another reallocates and frees. */
enum { SLOTS = 512, OPS = 400000 };
static _Atomic(void *) slot[SLOTS];

static void *exchange(void *arg)
{
    uint64_t rng = pf_rng_seed((uintptr_t)arg);
    for (int i = 0; i < OPS; i++) {
        uint64_t r = pf_rng_next(&rng);
        void *mine = r & 4 ? keep(malloc(60004)) : NULL;
        mine = atomic_exchange(&slot[(r >> 8) % SLOTS], mine);
        if (r & 2)
            mine = keep(realloc(mine, 60005));
        free(mine);
    }
    return NULL;
}

Test(p44, blocks_that_change_hands, .init = all, .timeout = 120)
{
    pthread_t t[4];
    for (uintptr_t i = 0; i < 4; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, exchange, (void *)(i + 1)), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    int64_t live = 0;
    for (int i = 0; i < SLOTS; i++)
        live += slot[i] != NULL;
    cr_assert_eq(heap_rows(60004).v[INUSE_OBJECTS], live);
    cr_assert_eq(heap_rows(60005).v[INUSE_OBJECTS], 0);
    for (int i = 0; i < SLOTS; i++)
        free(slot[i]);
    cr_assert_eq(heap_rows(60004).v[INUSE_OBJECTS], 0);
}
