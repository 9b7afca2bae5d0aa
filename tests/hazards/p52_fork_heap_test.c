/* H52: fork while other threads are inside the hooks. The child finds every lock free and the live
 * set whole: it allocates, frees what it inherited, takes a snapshot, forks again and ends.
 */
#include "tests/profiler/collect/heap_check.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

#ifdef HEAP_PLAIN
enum { THREADS = 32, FORKS = 150 };
#else
enum { THREADS = 4, FORKS = 20 }; /* a sanitizer's fork copies terabytes of page tables */
#endif

static atomic_int stop, allocating;

static void *allocate(void *arg)
{
    uint64_t rng = pf_rng_seed((uintptr_t)arg);
    void *p[64] = {0};
    atomic_fetch_add(&allocating, 1);
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        uint64_t r = pf_rng_next(&rng);
#ifdef HEAP_PLAIN
        free(p[r % 64]);
        p[r % 64] = keep(malloc(64 + (r >> 20) % 1000));
#else /* gcc 12 forks with its allocator locked by other threads: the child hangs */
        (void)r;
        sched_yield();
#endif
    }
    for (int i = 0; i < 64; i++)
        free(p[i]);
    return NULL;
}

/* In the child, of which only this thread exists. The status tells what went wrong. */
static int child(void *inherited)
{
#ifdef __SANITIZE_THREAD__ /* it calls no hooks in the child of a threaded program */
    free(inherited);
    free(keep(malloc(63002)));
    return 10;
#endif
    if (heap_rows(63001).v[INUSE_OBJECTS] != 1)
        return 11;
    free(inherited);
    if (heap_rows(63001).v[INUSE_OBJECTS] != 0)
        return 12;
    void *p[500];
    for (int i = 0; i < 500; i++)
        p[i] = keep(malloc(63002));
    if (heap_rows(63002).v[INUSE_OBJECTS] != 500)
        return 13;
    for (int i = 0; i < 500; i++)
        free(p[i]);
    return heap_rows(63002).v[INUSE_OBJECTS] == 0 ? 10 : 14;
}

static void expect(pid_t pid, int status)
{
    int got;
    cr_assert_eq(waitpid(pid, &got, 0), pid);
    cr_assert(WIFEXITED(got) && WEXITSTATUS(got) == status, "child ended with %#x", got);
}

Test(p52, a_storm_of_forks, .timeout = 240)
{
    pthread_t t[THREADS];
    weft_pprof_heap_rate(1);
    void *inherited = keep(malloc(63001));
    for (uintptr_t i = 0; i < THREADS; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, allocate, (void *)(i + 1)), 0);
    while (atomic_load(&allocating) < THREADS)
        sched_yield();
    for (int i = 0; i < FORKS; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(child(inherited));
        cr_assert_gt(pid, 0);
        expect(pid, 10);
    }
    atomic_store(&stop, 1);
    for (int i = 0; i < THREADS; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(heap_rows(63001).v[INUSE_OBJECTS], 1, "children changed the parent");
    free(inherited);
    cr_assert_eq(heap_rows(63001).v[INUSE_OBJECTS], 0);
}

/* Handlers of the program's own that allocate and free around fork, inside our window. */
static void *around;
static void allocates(void)
{
    free(around);
    around = keep(malloc(63003));
}

Test(p52, other_fork_handlers_allocate, .timeout = 60)
{
    weft_pprof_heap_rate(1);
    around = keep(malloc(63003));
    cr_assert_eq(pthread_atfork(allocates, allocates, allocates), 0);
    for (int i = 0; i < 50; i++) {
        pid_t pid = fork();
        if (pid == 0)
            _exit(heap_rows(63003).v[INUSE_OBJECTS] <= 1 ? 10 : 11);
        cr_assert_gt(pid, 0);
        expect(pid, 10);
    }
    cr_assert_leq(heap_rows(63003).v[INUSE_OBJECTS], 1);
}

/* A child of a child, as a daemon makes itself. */
Test(p52, a_grandchild, .timeout = 60)
{
    weft_pprof_heap_rate(1);
    void *inherited = keep(malloc(63001));
    pid_t pid = fork();
    if (pid == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0)
            _exit(child(inherited));
        int got = 0;
        waitpid(grandchild, &got, 0);
        _exit(WIFEXITED(got) ? WEXITSTATUS(got) : 15);
    }
    cr_assert_gt(pid, 0);
    expect(pid, 10);
}

/* Children of one parent draw their gaps apart. */
Test(p52, children_sample_apart, .timeout = 60)
{
    weft_pprof_heap_rate(100000);
    free(keep(malloc(8)));
    int fds[2];
    uint64_t seen[8];
    cr_assert_eq(pipe(fds), 0);
    for (int i = 0; i < 8; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            uint64_t sum = 0;
            for (int k = 0; k < 4; k++)
                sum = sum * 31 + pf_gap_draw(pf_rng_here(), 1 << 30);
            _exit(write(fds[1], &sum, sizeof sum) == sizeof sum ? 10 : 11);
        }
        expect(pid, 10);
        cr_assert_eq(read(fds[0], &seen[i], sizeof seen[i]), (ssize_t)sizeof seen[i]);
        for (int k = 0; k < i; k++)
            cr_assert_neq(seen[k], seen[i]);
    }
}
