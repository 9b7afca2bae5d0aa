/* Sampling of allocations: what is sampled, what one sample weighs, what the snapshot shows. */
#include "tests/profiler/collect/heap_check.h"
#include <errno.h>
#include <math.h>
#include <pthread.h>

static void all(void)
{
    weft_pprof_heap_rate(1);
}

Test(heap, sources_are_as_go_has_them)
{
    static const char *const names[] = {"alloc_objects", "alloc_space", "inuse_objects",
                                        "inuse_space"};
    cr_assert_str_eq(pf_heap_source.name, "heap");
    cr_assert_str_eq(pf_allocs_source.name, "allocs");
    cr_assert_null(pf_heap_source.default_type);
    cr_assert_str_eq(pf_allocs_source.default_type, "alloc_space");
    const pf_source *both[] = {&pf_heap_source, &pf_allocs_source};
    for (int s = 0; s < 2; s++) {
        cr_assert_eq(both[s]->ntypes, 4);
        for (int i = 0; i < 4; i++) {
            cr_assert_str_eq(both[s]->types[i].type, names[i]);
            cr_assert_str_eq(both[s]->types[i].unit, i % 2 ? "bytes" : "count");
        }
        cr_assert_str_eq(both[s]->period_type.type, "space");
        pf_raw raw;
        cr_assert_eq(both[s]->snapshot(&raw), 0);
        cr_assert(raw.source == both[s]);
        cr_assert_eq(raw.rate, 524288);
        cr_assert_eq(raw.period, 524288);
        cr_assert_eq(raw.duration_ns, 0);
        pf_raw_free(&raw);
    }
}

Test(heap, rate_returns_the_previous)
{
    cr_assert_eq(weft_pprof_heap_rate(-1), 524288);
    cr_assert_eq(weft_pprof_heap_rate(1000), 524288);
    cr_assert_eq(weft_pprof_heap_rate(-5), 1000);
    cr_assert_eq(weft_pprof_heap_rate(0), 1000);
    cr_assert_eq(weft_pprof_heap_rate(-1), 0);
}

Test(heap, thousands_of_rates)
{
    for (int64_t r = 1; r < 5000; r++)
        weft_pprof_heap_rate(r * 3);
    int64_t now = weft_pprof_heap_rate(1);
    cr_assert_gt(now, 2000, "the nearest of those known: %lld", (long long)now);
    free(keep(malloc(3331)));
    cr_assert_eq(heap_rows(3331).unscaled[ALLOC_OBJECTS], 1, "rate 1 was known before");
}

Test(heap, rate_1_sees_everything_once, .init = all)
{
    void *p[100];
    for (int i = 0; i < 100; i++)
        p[i] = keep(malloc(7001));
    heap_row r = heap_rows(7001);
    for (int k = 0; k < 4; k++) {
        cr_assert_eq(r.v[k], k % 2 ? 700100 : 100);
        cr_assert_eq(r.unscaled[k], r.v[k]);
    }
    for (int i = 0; i < 60; i++)
        free(p[i]);
    r = heap_rows(7001);
    cr_assert_eq(r.v[ALLOC_OBJECTS], 100);
    cr_assert_eq(r.v[INUSE_OBJECTS], 40);
    cr_assert_eq(r.v[INUSE_SPACE], 40 * 7001);
    for (int i = 60; i < 100; i++)
        free(p[i]);
    r = heap_rows(7001);
    cr_assert_eq(r.rows, 1, "a site whose blocks are all freed stays");
    cr_assert_eq(r.v[ALLOC_SPACE], 700100);
    cr_assert_eq(r.v[INUSE_OBJECTS], 0);
    cr_assert_eq(r.v[INUSE_SPACE], 0);
}

Test(heap, rate_0_sees_nothing)
{
    weft_pprof_heap_rate(0);
    int64_t before = heap_rows(-1).unscaled[ALLOC_OBJECTS];
    for (int i = 0; i < 100000; i++)
        free(keep(malloc(100000)));
    cr_assert_eq(heap_rows(-1).unscaled[ALLOC_OBJECTS], before);
}

__attribute__((noinline)) static void *site_a(size_t n)
{
    void *p = keep(malloc(n));
    return keep(p);
}

__attribute__((noinline)) static void *site_b(size_t n)
{
    void *p = keep(malloc(n));
    return keep(p);
}

Test(heap, a_bucket_is_a_stack_and_a_size, .init = all)
{
    for (int i = 0; i < 10; i++) {
        free(site_a(7002));
        free(site_b(7002));
        free(site_a(7003));
    }
    heap_row two = heap_rows(7002), one = heap_rows(7003);
    cr_assert_eq(two.rows, 2);
    cr_assert_eq(two.v[ALLOC_OBJECTS], 20);
    cr_assert_eq(one.rows, 1);
    uintptr_t fn = (uintptr_t)site_a;
    cr_assert(one.leaf > fn && one.leaf < fn + 200, "leaf is the return address into the caller");
}

/* The stack of the caller, and its caller, up to the test: by frame pointers. */
__attribute__((noinline)) static void *outer(size_t n)
{
    void *p = site_b(n);
    return keep(p);
}

Test(heap, has_the_callers, .init = all)
{
    free(outer(7004));
    pf_raw raw;
    bool found = false;
    cr_assert_eq(pf_heap_source.snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        if (s->block_bytes != 7004)
            continue;
        cr_assert(!s->leaf_exact);
        cr_assert_gt(s->npcs, 2);
        cr_assert(s->pcs[0] - (uintptr_t)site_b < 200);
        cr_assert(s->pcs[1] - (uintptr_t)outer < 200);
        cr_assert_null(s->labels);
        found = true;
    }
    cr_assert(found);
    pf_raw_free(&raw);
}

/* In a coroutine the bounds come from the runtime; it changes threads between the two. */
static void allocating_coroutine(void *arg)
{
    for (int i = 0; i < 200; i++) {
        void *p = outer(7010);
        weft_yield();
        free(p);
    }
    weft_wg_done(arg);
}

static weft_wg wg = WEFT_WG_INIT;

static int spawn_allocators(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_procs(4);
    weft_wg_add(&wg, 50);
    for (int i = 0; i < 50; i++)
        weft_go(allocating_coroutine, &wg);
    return weft_wg_wait(&wg);
}

Test(heap, coroutines_on_many_threads, .init = all, .timeout = 120)
{
    cr_assert_eq(weft_run(spawn_allocators, 0, NULL), 0);
    heap_row r = heap_rows(7010);
    cr_assert_eq(r.v[ALLOC_OBJECTS], 10000);
    cr_assert_eq(r.v[INUSE_OBJECTS], 0);
    cr_assert_eq(r.rows, 1, "one place, one stack, whatever coroutine and thread");
}

Test(heap, an_estimate_is_unbiased_and_keeps_its_weight)
{
    pf_heap_seed(7);
    weft_pprof_heap_rate(4096);
    enum { N = 20000 };
    static void *p[N];
    for (int i = 0; i < N; i++)
        p[i] = keep(malloc(701));
    double chance = -expm1(-702 / 4096.0);
    heap_row r = heap_rows(701);
    double sd = sqrt(N * chance * (1 - chance)) / chance;
    cr_assert(fabs((double)r.v[ALLOC_OBJECTS] - N) < 3.5 * sd, "%lld of %d, sd %.0f",
              (long long)r.v[ALLOC_OBJECTS], N, sd);
    cr_assert(fabs((double)r.v[INUSE_SPACE] - 701.0 * N) < 3.5 * sd * 701);
    cr_assert(fabs((double)r.v[ALLOC_OBJECTS] - (double)r.unscaled[ALLOC_OBJECTS] / chance) <= 1);

    /* Another rate later changes nothing of what was sampled, and frees cancel exactly. */
    weft_pprof_heap_rate(1 << 20);
    heap_row again = heap_rows(701);
    for (int k = 0; k < 4; k++)
        cr_assert_eq(again.v[k], r.v[k]);
    for (int i = 0; i < N; i++)
        free(p[i]);
    again = heap_rows(701);
    cr_assert_eq(again.v[INUSE_OBJECTS], 0);
    cr_assert_eq(again.v[INUSE_SPACE], 0);
    cr_assert_eq(again.v[ALLOC_SPACE], r.v[ALLOC_SPACE]);
}

/* Half of the blocks under one rate and half under another: the sum still estimates both. */
Test(heap, a_change_of_rate_is_exact)
{
    pf_heap_seed(11);
    double got = 0, variance = 0;
    enum { N = 200000 };
    static const int64_t rates[] = {1000, 30000, 7000};
    for (int i = 0; i < N; i++) {
        int64_t rate = rates[i / 100 % 3];
        if (i % 100 == 0)
            weft_pprof_heap_rate(rate);
        free(keep(malloc(702)));
        double chance = -expm1(-703.0 / (double)rate);
        variance += (1 - chance) / chance;
    }
    got = (double)heap_rows(702).v[ALLOC_OBJECTS];
    cr_assert(fabs(got - N) < 3 * sqrt(variance), "%.0f of %d, sd %.0f", got, N, sqrt(variance));
}

/* Thousands of buckets with a sample or two each of weight 1.3: rounding down would lose 20 %. */
Test(heap, rounding_does_not_drift)
{
    pf_heap_seed(13);
    weft_pprof_heap_rate(4000);
    double variance = 0;
    int64_t before = heap_rows(-1).v[ALLOC_OBJECTS];
    enum { N = 4000 };
    for (int i = 0; i < N; i++) {
        size_t n = 5000 + (size_t)i;
        free(keep(malloc(n)));
        double chance = -expm1(-(double)(n + 1) / 4000);
        variance += (1 - chance) / chance;
    }
    double got = (double)(heap_rows(-1).v[ALLOC_OBJECTS] - before);
    double sd = sqrt(variance + N / 4.0); /* a rounded bucket varies by a quarter at most */
    cr_assert(fabs(got - N) < 4 * sd, "%.0f of %d, sd %.0f", got, N, sd);
}

static atomic_int go;

static void *allocate_after_go(void *arg)
{
    free(keep(malloc(64)));
    atomic_store(&go, 1);
    while (atomic_load(&go) != 2)
        sched_yield();
    for (int i = 0; i < 70; i++)
        free(keep(malloc(1024)));
    for (int i = 0; i < 100; i++)
        free(keep(malloc(7005)));
    return arg;
}

Test(heap, another_thread_sees_a_new_rate_within_64k, .timeout = 60)
{
    pthread_t t;
    weft_pprof_heap_rate(0);
    cr_assert_eq(pthread_create(&t, NULL, allocate_after_go, NULL), 0);
    while (atomic_load(&go) != 1)
        sched_yield();
    weft_pprof_heap_rate(1);
    atomic_store(&go, 2);
    pthread_join(t, NULL);
    cr_assert_eq(heap_rows(7005).v[ALLOC_OBJECTS], 100);
}

Test(heap, a_quiet_thread_is_not_seen, .init = all)
{
    free(keep(malloc(7006)));
    pf_tls.quiet = 1;
    for (int i = 0; i < 100; i++)
        free(keep(malloc(7006)));
    pf_tls.quiet = 0;
    free(keep(malloc(7006)));
    cr_assert_eq(heap_rows(7006).v[ALLOC_OBJECTS], 2);
}

/* Memory that a quiet thread frees for another is still freed. */
Test(heap, a_quiet_thread_frees, .init = all)
{
    void *p = keep(malloc(7007));
    pf_tls.quiet = 1;
    free(p);
    pf_tls.quiet = 0;
    cr_assert_eq(heap_rows(7007).v[INUSE_OBJECTS], 0);
}

#ifdef HEAP_PLAIN /* a sanitizer knows its stacks itself */
Test(heap, unknown_bounds_give_the_caller_alone, .init = all)
{
    uintptr_t hi = pf_tls.hi;
    pf_tls.hi = 0;
    void *p = outer(7008);
    pf_tls.hi = hi;
    free(p);
    pf_raw raw;
    cr_assert_eq(pf_heap_source.snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++) {
        if (raw.samples[i].block_bytes == 7008) {
            cr_assert_eq(raw.samples[i].npcs, 2);
            cr_assert_eq(raw.samples[i].pcs[1], PF_NO_STACK);
        }
    }
    pf_raw_free(&raw);
}
#endif

Test(heap, counts_only_grow_and_errno_stays, .init = all)
{
    heap_row last = {0};
    for (int i = 0; i < 50; i++) {
        errno = 77;
        free(keep(malloc(7009)));
        cr_assert_eq(errno, 77);
        heap_row r = heap_rows(7009);
        cr_assert(r.v[ALLOC_OBJECTS] == last.v[ALLOC_OBJECTS] + 1);
        cr_assert(r.v[ALLOC_SPACE] > last.v[ALLOC_SPACE]);
        last = r;
    }
}

/* What the live set has no room for counts as allocated, not as in use, and is told. */
Test(heap, too_many_live_blocks_are_told)
{
    enum { N = 30000 };
    static void *p[N];
    pf_live_limit(256);
    weft_pprof_heap_rate(1);
    for (int i = 0; i < N; i++)
        p[i] = keep(malloc(33));
    pf_raw raw;
    cr_assert_eq(pf_heap_source.snapshot(&raw), 0);
    cr_assert_gt(raw.lost, 1000);
    pf_raw_free(&raw);
    heap_row r = heap_rows(33);
    cr_assert_eq(r.v[ALLOC_OBJECTS], N);
    cr_assert_lt(r.v[INUSE_OBJECTS], 64 * 192 + 1);
    for (int i = 0; i < N; i++)
        free(p[i]);
    cr_assert_eq(heap_rows(33).v[INUSE_OBJECTS], 0);
}

#ifdef HEAP_PLAIN /* 700 000 blocks of 350 KB: minutes in a sanitizer's allocator */
/* More (stack, size) pairs than the table holds: bytes are still counted, in a row that says so. */
Test(heap, too_many_sites_are_told, .timeout = 120)
{
    enum { N = 700000 };
    weft_pprof_heap_rate(1);
    int64_t before = heap_rows(-1).v[ALLOC_SPACE], bytes = 0;
    void *last[64] = {0};
    for (int i = 0; i < N; i++) {
        size_t n = 100 + (size_t)i;
        free(last[i % 64]);
        last[i % 64] = keep(malloc(n));
        bytes += (int64_t)n;
    }
    pf_raw raw;
    int64_t lost_space = 0, lost_inuse = 0;
    cr_assert_eq(pf_heap_source.snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++)
        if (raw.samples[i].pcs[0] == PF_LOST_MEMORY) {
            lost_space = raw.samples[i].values[ALLOC_SPACE];
            lost_inuse = raw.samples[i].values[INUSE_SPACE];
            cr_assert_eq(raw.samples[i].values[INUSE_OBJECTS], 64);
        }
    cr_assert_gt(raw.lost, 0);
    cr_assert_gt(lost_space, 0, "the table should have been full");
    cr_assert_gt(lost_inuse, 64 * (N - 64));
    pf_raw_free(&raw);
    cr_assert_eq(heap_rows(-1).v[ALLOC_SPACE] - before, bytes);
    for (int i = 0; i < 64; i++)
        free(last[i]);
}
#endif
