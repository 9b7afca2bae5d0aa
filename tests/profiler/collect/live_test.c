/* The live set: exact against a model, exact under threads and signals, bounded. */
#include "tests/check.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include "profiler/collect/heap.h"

/* Sites that heap.c takes for blocks of the overflow bucket, so that crediting one is harmless. */
static pf_site site(uint64_t i)
{
    return 1ull << 49 | i << 1 | 1;
}

static uint64_t rng = 88172645463325252ull;
static uint64_t next(void)
{
    return pf_rng_next(&rng);
}

static int filter_bits(void)
{
    int n = 0;
    for (int i = 0; i < PF_FILTER_WORDS; i++)
        n += __builtin_popcountll(pf_live_filter[i]);
    return n;
}

/* The test's own allocations must not be in the set. */
static void quiet(void)
{
    weft_pprof_heap_rate(0);
}

static void *map(size_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(p != MAP_FAILED);
    return p;
}

Test(live, equals_a_model, .init = quiet)
{
    enum { ADDRS = 100000, OPS = 2000000 };
    size_t before = pf_live_count();
    uint64_t *model = map(ADDRS * sizeof *model);
    size_t n = 0;
    for (int i = 0; i < OPS; i++) {
        uint64_t k = next() % ADDRS;
        uintptr_t addr = 0x100000000000 + k * 16;
        if (model[k] == 0) {
            pf_site old = 0;
            model[k] = site(next() >> 20);
            cr_assert_eq(pf_live_add(addr, model[k], &old), 0);
            n++;
            cr_assert(pf_live_maybe((void *)addr), "the filter rejects a live block");
        } else {
            cr_assert_eq(pf_live_take(addr), model[k], "op %d", i);
            cr_assert_eq(pf_live_take(addr), 0);
            model[k] = 0;
            n--;
        }
        cr_assert_eq(pf_live_count() - before, n);
    }
    for (uint64_t k = 0; k < ADDRS; k++)
        if (model[k])
            cr_assert_eq(pf_live_take(0x100000000000 + k * 16), model[k]);
    cr_assert_eq(pf_live_count(), before);
}

/* All in one shard and one stretch of slots: deletion has to shift over the wrap. */
Test(live, colliding_addresses, .init = quiet)
{
    enum { N = 150 };
    uintptr_t addr[N];
    int n = 0;
    for (uintptr_t a = 0x200000000000; n < N; a += 16) {
        uint64_t h = pf_live_hash(a);
        if (h >> 58 == 7 && ((h >> 24) & 255) >= 250)
            addr[n++] = a;
    }
    for (int round = 0; round < 50; round++) {
        pf_site old;
        for (int i = 0; i < N; i++)
            cr_assert_eq(pf_live_add(addr[i], site(i), &old), 0);
        for (int i = N - 1; i > 0; i--) {
            int j = (int)(next() % (uint64_t)(i + 1));
            uintptr_t t = addr[i];
            addr[i] = addr[j];
            addr[j] = t;
        }
        for (int i = 0; i < N; i++)
            cr_assert(pf_live_take(addr[i]) != 0, "round %d: %d of %d lost", round, i, N);
    }
}

Test(live, empty_again_leaves_no_bit, .init = quiet)
{
    enum { N = 200000 };
    int bits = filter_bits();
    size_t before = pf_live_count();
    pf_site old;
    for (uintptr_t i = 0; i < N; i++)
        cr_assert_eq(pf_live_add(0x300000000000 + i * 48, site(i), &old), 0);
    cr_assert_eq(pf_live_count() - before, N);
    cr_assert_gt(filter_bits(), 60000, "200000 blocks in 65536 bits");
    for (uintptr_t i = 0; i < N; i++)
        cr_assert_eq(pf_live_take(0x300000000000 + i * 48), site(i));
    cr_assert_eq(filter_bits(), bits);
}

Test(live, same_address_again_replaces, .init = quiet)
{
    pf_site old = 0;
    cr_assert_eq(pf_live_add(0x1230, site(1), &old), 0);
    cr_assert_eq(pf_live_add(0x1230, site(2), &old), -EEXIST);
    cr_assert_eq(old, site(1));
    cr_assert_eq(pf_live_take(0x1230), site(2));
    cr_assert_eq(pf_live_take(0), 0);
}

Test(live, full_says_so, .init = quiet)
{
    pf_live_limit(256);
    pf_site old;
    int full = 0;
    for (uintptr_t i = 0; i < 20000; i++)
        full += pf_live_add(0x400000000000 + i * 16, site(i), &old) == -ENOMEM;
    cr_assert_gt(full, 1000);
    cr_assert_leq(pf_live_count(), 64 * 192);
    for (uintptr_t i = 0; i < 20000; i++)
        pf_live_take(0x400000000000 + i * 16);
    cr_assert_eq(pf_live_add(0x5550, site(1), &old), 0, "there is room again");
    cr_assert_eq(pf_live_take(0x5550), site(1));
}

enum { THREADS = 8, PER_THREAD = 2000, ROUNDS = 40 };

static void *worker(void *arg)
{
    uintptr_t base = 0x500000000000 + (uintptr_t)arg * 16;
    pf_site old;
    for (int r = 0; r < ROUNDS; r++) {
        for (uintptr_t i = 0; i < PER_THREAD; i++)
            cr_assert_eq(pf_live_add(base + i * THREADS * 16, site(i), &old), 0);
        for (uintptr_t i = 0; i < PER_THREAD; i++) {
            /* never there: its neighbour's entries move while the table is searched without lock */
            cr_assert_eq(pf_live_take(base + i * THREADS * 16 + 8), 0);
            cr_assert_eq(pf_live_take(base + i * THREADS * 16), site(i));
        }
    }
    return NULL;
}

Test(live, eight_threads, .init = quiet, .timeout = 120)
{
    pthread_t t[THREADS];
    size_t before = pf_live_count();
    for (uintptr_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, worker, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(pf_live_count(), before);
}

/* Blocks that the main thread has added and a signal handler on the same thread frees. */
enum { HANDED = 8 };
static _Atomic(uintptr_t) handed[HANDED];
static atomic_int handled, stop;

static void on_signal(int sig)
{
    (void)sig;
    for (int i = 0; i < HANDED; i++) {
        uintptr_t a = atomic_exchange(&handed[i], 0);
        if (a)
            pf_live_take(a);
    }
    atomic_fetch_add(&handled, 1);
}

static void *storm(void *arg)
{
    while (!atomic_load(&stop))
        pthread_kill(*(pthread_t *)arg, SIGUSR1);
    return NULL;
}

Test(live, freed_by_a_signal_handler, .init = quiet, .timeout = 120)
{
    struct sigaction sa = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &sa, NULL);
    size_t before = pf_live_count();
    pthread_t self = pthread_self(), t;
    cr_assert_eq(pthread_create(&t, NULL, storm, &self), 0);
    pf_site old;
    for (uintptr_t i = 0; atomic_load(&handled) < 20000; i++) {
        uintptr_t a = 0x600000000000 + i % 65536 * 64;
        int slot = (int)(i % HANDED);
        if (atomic_load(&handed[slot]))
            continue;
        pf_live_take(a);
        pf_live_take(a + 32);
        pf_live_add(a, site(1), &old);
        atomic_store(&handed[slot], a);
        pf_live_add(a + 32, site(2), &old);
        pf_live_take(a + 32);
    }
    atomic_store(&stop, 1);
    pthread_join(t, NULL);
    on_signal(0);
    cr_assert_eq(pf_live_count(), before);
}
