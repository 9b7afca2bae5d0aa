/* The two doors for calls that block: the pool of weft_blocking, and weft_syscall_enter/exit.
 *
 * Invariants:
 *  1. A job is published in the commit, when its coroutine is off its stack; it lives on that
 *     stack, and its thread touches nothing of it after rt_ready.
 *  2. At most BLOCKING_MAX threads; further jobs queue (R20). An idle thread ends after 10 s.
 *  3. Between weft_syscall_enter and _exit the P's status is SYSCALL: whoever moves it away by CAS
 *     owns it. The coroutine gets it back by the same CAS, or another P, or queues (R19).
 *
 * Locks: pool lock, rank 4.
 */
#include "tls.h"
#include <errno.h>
#include <stddef.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BLOCKING_MAX = 512, POOL_STACK = 1 << 20 };
#define IDLE_NS 10000000000

struct job {
    struct job *next;
    rt_g *g;
    void (*fn)(void *);
    void *arg;
    int result;
};

static struct {
    rt_lock lock;
    struct job *head, *tail;
    uint32_t nthreads, nidle, nqueued;
    _Atomic(uint32_t) busy;   /* jobs queued or running */
    _Atomic(uint32_t) signal; /* futex: counts up with each job */
} pool;

uint32_t rt_blocking_busy(void)
{
    return load_relaxed(&pool.busy);
}

static void run_job(struct job *job)
{
    rt_g *g = job->g;
    store_relaxed(&g->tid, (int32_t)syscall(SYS_gettid));
    rt_pool_g_set(g);
    job->fn(job->arg);
    rt_pool_g_set(NULL);
    store_relaxed(&g->tid, 0);
    rt_ready(g);
    /* After the ready: the deadlock report must not see a moment without both. */
    atomic_fetch_sub_explicit(&pool.busy, 1, memory_order_release);
}

static struct job *take_job_locked(void)
{
    struct job *job = pool.head;
    if (job) {
        pool.head = job->next;
        pool.nqueued--;
        if (!pool.head)
            pool.tail = NULL;
    }
    return job;
}

static void pool_main(void *arg)
{
    (void)arg;
    const weft_hooks *hooks = rt_hook(WEFT_HOOK_THREAD);
    if (hooks) {
        uintptr_t lo, hi;
        rt_thread_bounds(&lo, &hi);
        hooks->thread_start(WEFT_THREAD_POOL, lo, hi);
    }
    for (;;) {
        uint32_t seen = load_acquire(&pool.signal); /* partner: the release in submit */
        rt_lock_acquire(&pool.lock);
        struct job *job = take_job_locked();
        if (!job)
            pool.nidle++;
        rt_lock_release(&pool.lock);
        if (job) {
            run_job(job);
            continue;
        }
        int timed_out = rt_futex_wait(&pool.signal, seen, IDLE_NS);
        rt_lock_acquire(&pool.lock);
        pool.nidle--;
        bool end = timed_out && !pool.head;
        if (end)
            pool.nthreads--;
        rt_lock_release(&pool.lock);
        if (end)
            break;
    }
    hooks = rt_hook(WEFT_HOOK_THREAD);
    if (hooks)
        hooks->thread_stop(WEFT_THREAD_POOL);
}

/* Queues the job; true: somebody will run it. */
static bool submit(struct job *job)
{
    atomic_fetch_add_explicit(&pool.busy, 1, memory_order_relaxed);
    rt_lock_acquire(&pool.lock);
    job->next = NULL;
    if (pool.tail)
        pool.tail->next = job;
    else
        pool.head = job;
    pool.tail = job;
    bool start = ++pool.nqueued > pool.nidle && pool.nthreads < BLOCKING_MAX;
    if (start)
        pool.nthreads++;
    atomic_fetch_add_explicit(&pool.signal, 1, memory_order_release);
    rt_lock_release(&pool.lock);
    if (!start) {
        rt_futex_wake(&pool.signal, 1);
        return true;
    }
    if (rt_thread_start(pool_main, NULL, POOL_STACK + (64 << 10), false) == 0)
        return true;
    rt_lock_acquire(&pool.lock);
    bool alone = --pool.nthreads == 0; /* others run: they will come to this job */
    struct job *lost = alone ? pool.head : NULL;
    if (alone) {
        pool.head = pool.tail = NULL;
        pool.nqueued = 0;
    }
    rt_lock_release(&pool.lock);
    bool mine = false; /* an older one may have trusted a thread that failed after it */
    while (lost) {
        struct job *next = lost->next;
        mine |= lost == job;
        lost->result = -ENOMEM;
        if (lost != job)
            rt_ready(lost->g);
        atomic_fetch_sub_explicit(&pool.busy, 1, memory_order_release);
        lost = next;
    }
    return !mine;
}

static void submit_commit(void *arg)
{
    struct job *job = arg;
    rt_g *g = job->g;
    if (!submit(job)) {
        job->result = -ENOMEM;
        rt_ready(g);
    }
}

int weft_blocking(void (*fn)(void *), void *arg)
{
    if (!fn)
        return -EINVAL;
    rt_m *m = rt_m_self();
    if (!m || !m->cur) {
        fn(arg);
        return 0;
    }
    struct job job = {.g = m->cur, .fn = fn, .arg = arg};
    rt_wait_begin(m->cur);
    rt_wait(m->cur, submit_commit, &job, WEFT_FOREVER, WEFT_WAIT_BLOCKING, NULL);
    return job.result;
}

/* ---- system calls on the coroutine's own stack ---- */

void weft_syscall_enter(void)
{
    rt_m *m = rt_m_self();
    if (!m || !m->cur || !m->p)
        return;
    rt_g *g = m->cur;
    rt_p *p = m->p;
    g->sys_pc = (uintptr_t)__builtin_return_address(0);
    g->sys_fp = *(uintptr_t *)__builtin_frame_address(0);
    g->sys_sp = (uintptr_t)__builtin_frame_address(0) + 2 * sizeof(uintptr_t);
    store_relaxed(&g->since, load_relaxed(&rt_sched.coarse_ns));
    store_release(&g->state, RT_SYSCALL); /* partner: inspect.c */
    atomic_fetch_add_explicit(&rt_sched.nsyscall, 1, memory_order_relaxed);
    store_relaxed(&p->tick, load_relaxed(&p->tick) + 1);
    m->sys_p = p;
    m->p = NULL;
    store_release(&p->status, RT_P_SYSCALL); /* partner: sysmon's CAS */
}

static void commit_syscall_exit(rt_m *m, rt_g *g, void *arg)
{
    (void)m, (void)arg;
    store_release(&g->state, RT_RUNNABLE); /* partner: inspect.c */
    rt_globq_put(g);
    atomic_fetch_sub_explicit(&rt_sched.nsyscall, 1, memory_order_relaxed);
    rt_wake_p();
}

void weft_syscall_exit(void)
{
    rt_m *m = rt_m_self();
    if (!m || !m->cur || m->p)
        return;
    rt_g *g = m->cur;
    rt_p *p = m->sys_p;
    uint32_t mine = RT_P_SYSCALL;
    int saved = rt_errno_get();
    bool back = atomic_compare_exchange_strong_explicit(&p->status, &mine, RT_P_RUNNING,
                                                        memory_order_acq_rel, memory_order_relaxed);
    if (!back) {
        rt_lock_acquire(&rt_sched.lock);
        p = rt_p_take_idle_locked();
        rt_lock_release(&rt_sched.lock);
    }
    if (p) {
        rt_p_acquire(m, p);
        store_release(&g->state, RT_RUNNING);
        atomic_signal_fence(memory_order_seq_cst); /* as in rt_prepare */
        if (rt_unlikely(load_acquire(&g->pin)))
            rt_wait_unpinned(g);
    }
    if (p)
        atomic_fetch_sub_explicit(&rt_sched.nsyscall, 1, memory_order_relaxed);
    else
        rt_leave(commit_syscall_exit, NULL);
    rt_errno_set(saved);
}
