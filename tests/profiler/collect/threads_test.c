/* The registry of threads and the threadcreate profile. */
#include "tests/profiler/collect/collect_check.h"
#include "profiler/collect/threads.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int32_t own_tid(void)
{
    return (int32_t)pf_syscall4(SYS_gettid, 0, 0, 0, 0);
}

static bool known(int32_t tid)
{
    pf_lock_acquire(&pf_threads_lock);
    bool is = pf_thread_find_locked(tid, false) != NULL;
    pf_lock_release(&pf_threads_lock);
    return is;
}

static int sweep(void)
{
    pf_lock_acquire(&pf_threads_lock);
    int n = pf_threads_sweep_locked();
    pf_lock_release(&pf_threads_lock);
    return n;
}

typedef struct guest {
    pthread_barrier_t barrier;
    int32_t tid;
    bool bounds;
} guest;

static void *stay(void *arg)
{
    guest *g = arg;
    g->tid = own_tid();
    pthread_barrier_wait(&g->barrier);
    pthread_barrier_wait(&g->barrier);
    return NULL;
}

Test(threads, a_sweep_finds_the_living_and_forgets_the_dead)
{
    pthread_t t;
    guest g;
    pthread_barrier_init(&g.barrier, NULL, 2);
    pthread_create(&t, NULL, stay, &g);
    pthread_barrier_wait(&g.barrier);
    cr_assert(!known(g.tid));
    int living = sweep();
    cr_assert_geq(living, 2);
    cr_assert(known(g.tid) && known(own_tid()));
    pthread_barrier_wait(&g.barrier);
    pthread_join(t, NULL);
    while (pf_syscall4(SYS_tgkill, getpid(), g.tid, 0, 0) == 0)
        sched_yield();
    cr_assert_eq(sweep(), living - 1);
    cr_assert(!known(g.tid));
}

static void *use_labels(void *arg)
{
    guest *g = arg;
    int local;
    weft_label_set("k", "v");
    g->tid = own_tid();
    g->bounds = pf_tls.lo < (uintptr_t)&local && (uintptr_t)&local < pf_tls.hi && known(g->tid);
    return NULL;
}

Test(threads, the_first_call_registers_and_the_end_forgets)
{
    pthread_t t;
    guest g = {0};
    pthread_create(&t, NULL, use_labels, &g);
    pthread_join(t, NULL);
    cr_assert(g.bounds);
    cr_assert(!known(g.tid)); /* by the thread itself, without a sweep */
}

Test(threads, the_table_grows_and_reuses)
{
    pf_lock_acquire(&pf_threads_lock);
    for (int32_t tid = 1000000; tid < 1020000; tid++)
        cr_assert_not_null(pf_thread_find_locked(tid, true));
    for (int32_t tid = 1000000; tid < 1020000; tid++)
        cr_assert_eq(pf_thread_find_locked(tid, false)->tid, tid);
    cr_assert_null(pf_thread_find_locked(1020000, false));
    pf_threads_sweep_locked(); /* none of them lives */
    for (int32_t tid = 1000000; tid < 1020000; tid++)
        cr_assert_null(pf_thread_find_locked(tid, false));
    cr_assert_not_null(pf_thread_find_locked(own_tid(), false));
    for (int round = 0; round < 50; round++) {
        for (int32_t tid = 2000000; tid < 2001000; tid++)
            cr_assert_not_null(pf_thread_find_locked(tid + round * 1000, true));
        pf_threads_sweep_locked();
    }
    pf_lock_release(&pf_threads_lock);
}

static _Atomic(bool) checked;

static void *quiet_thread(void *arg)
{
    sigset_t blocked;
    pthread_sigmask(SIG_SETMASK, NULL, &blocked);
    pf_lock_acquire(&pf_threads_lock);
    pf_thread *t = pf_thread_find_locked(own_tid(), false);
    checked = t && t->quiet && t->timer < 0 && pf_tls.quiet && sigismember(&blocked, SIGTERM) &&
              sigismember(&blocked, SIGPROF);
    pf_lock_release(&pf_threads_lock);
    return arg;
}

Test(threads, our_own_threads_are_quiet_and_take_no_signals)
{
    unsigned long t;
    void *got;
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    cr_assert_eq(pf_thread_spawn(quiet_thread, &t, &t), 0);
    pthread_join((pthread_t)t, &got);
    cr_assert(checked);
    cr_assert_eq(got, (void *)&t);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    cr_assert_eq(sigismember(&after, SIGTERM), sigismember(&before, SIGTERM));
}

static int run_some(int argc, char **argv)
{
    (void)argc, (void)argv;
    return weft_sleep(1000000);
}

Test(threads, threadcreate_has_stacks)
{
    pf_raw raw;
    cr_assert_eq(weft_run(run_some, 0, NULL), 0);
    cr_assert_eq(pf_threads_source.snapshot(&raw), 0);
    cr_assert_geq(raw.nsamples, 1);
    for (size_t i = 0; i < raw.nsamples; i++) {
        cr_assert_geq(raw.samples[i].npcs, 1); /* pprof drops empty stacks without a word */
        cr_assert_geq(raw.samples[i].values[0], 1);
    }
    cr_assert_eq(check_sum(&raw, 0), raw.count);
    cr_assert_eq(pf_threads_source.count(), raw.count);
    cr_assert_geq(raw.count, 1);
    pf_raw_free(&raw);
}

Test(threads, a_child_knows_itself_only)
{
    sweep();
    int32_t parent = own_tid();
    pid_t pid = fork();
    if (!pid) {
        bool alone = known(own_tid()) && !known(parent);
#if !defined(__SANITIZE_THREAD__) /* its runtime starts a thread of its own */
        alone = alone && sweep() == 1;
#endif
        _exit(alone ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    cr_assert(known(parent));
}
