/* Processors and worker threads: making, handing over, putting to sleep, retiring.
 *
 * Invariants:
 *  1. A P has one owner: an M (status RUNNING), an M in a system call that anybody may rob of it
 *     (SYSCALL, by CAS), the idle list (IDLE), or it is retired (DEAD, id >= nprocs).
 *  2. An M on the idle list sleeps until wake is 1, and next_p was written before that.
 *  3. A record of a P is published by nalloc last, complete (R16); it is never freed.
 *
 * Locks: rt_sched.lock (rank 3) for idle lists, nprocs and counts.
 *
 * Workers have 128 KiB of stack: libc sizes its alloca limits by the thread's stack, and must not
 * believe it has more than a coroutine has.
 */
#include "san.h"
#include "tls.h"
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { WORKER_STACK = 128 << 10, ALT_STACK = 64 << 10, WORKERS_MAX = 10000 };

_Atomic(int32_t) rt_own_threads;
/* Workers have the mask that weft_run's caller had, whoever starts them: sysmon, which blocks all,
 * or a pinned coroutine with a mask of its own. */
static sigset_t user_mask;

/* ---- Ps ---- */

void rt_p_acquire(rt_m *m, rt_p *p)
{
    m->p = p;
    p->m = m;
    store_release(&p->status, RT_P_RUNNING); /* partner: sysmon's acquire */
}

rt_p *rt_p_release(rt_m *m)
{
    rt_p *p = m->p;
    m->p = NULL;
    p->m = NULL;
    store_release(&p->status, RT_P_IDLE);
    return p;
}

/* A retired P's work goes to the global queue; its timers stay, others look at all heaps. */
static void retire_locked(rt_p *p)
{
    rt_glist list = {0};
    rt_g *g = atomic_exchange_explicit(&p->runnext, NULL, memory_order_acq_rel);
    if (g)
        rt_glist_push(&list, g);
    while ((g = rt_runq_get(p)))
        rt_glist_push(&list, g);
    rt_globq_put_list_locked(&list);
    store_release(&p->status, RT_P_DEAD);
}

void rt_p_idle_locked(rt_p *p)
{
    atomic_fetch_sub_explicit(&rt_sched.nout, 1, memory_order_seq_cst);
    if (p->id >= load_relaxed(&rt_sched.nprocs)) {
        retire_locked(p);
        return;
    }
    p->link = rt_sched.pidle;
    rt_sched.pidle = p;
    /* seq_cst: partner is the fence in rt_wake_p. */
    atomic_fetch_add_explicit(&rt_sched.nidle, 1, memory_order_seq_cst);
}

rt_p *rt_p_take_idle_locked(void)
{
    rt_p *p = rt_sched.pidle;
    if (!p)
        return NULL;
    rt_sched.pidle = p->link;
    atomic_fetch_sub_explicit(&rt_sched.nidle, 1, memory_order_seq_cst);
    if (atomic_fetch_add_explicit(&rt_sched.nout, 1, memory_order_seq_cst) == 0)
        rt_sysmon_wake();
    return p;
}

void rt_p_handoff(rt_p *p)
{
    if (!rt_runq_empty(p) || load_relaxed(&rt_sched.nrunq)) {
        rt_m_start(p, false);
        return;
    }
    uint32_t none = 0;
    if (load_relaxed(&rt_sched.nidle) == 0 && load_relaxed(&rt_sched.nspinning) == 0 &&
        atomic_compare_exchange_strong_explicit(&rt_sched.nspinning, &none, 1, memory_order_seq_cst,
                                                memory_order_relaxed)) {
        rt_m_start(p, true);
        return;
    }
    rt_lock_acquire(&rt_sched.lock);
    if (rt_sched.runq.n) {
        rt_lock_release(&rt_sched.lock);
        rt_m_start(p, false);
        return;
    }
    bool watch = !load_relaxed(&rt_sched.poller) &&
                 (rt_timers_next() != INT64_MAX || (rt_poll_active() && rt_poll_waiters()));
    if (!watch)
        rt_p_idle_locked(p);
    rt_lock_release(&rt_sched.lock);
    if (watch) /* nobody watches timers and descriptors: this P's new M will */
        rt_m_start(p, false);
}

static rt_p *p_new_locked(uint32_t id)
{
    rt_p *p = rt_os_alloc(sizeof *p);
    if (!p)
        return NULL;
    p->id = id;
    store_relaxed(&p->timer_next, INT64_MAX);
    store_relaxed(&p->status, RT_P_DEAD);
    rt_sched.allp[id] = p;
    store_release(&rt_sched.nalloc, id + 1); /* partner: acquires of nalloc by all who scan */
    return p;
}

/* Sets the wanted number; new and returning Ps become idle, surplus idle ones retire now and
 * running ones when they next look for work. */
static int resize_locked(uint32_t n)
{
    for (uint32_t id = load_relaxed(&rt_sched.nalloc); id < n; id++)
        if (!p_new_locked(id))
            return -ENOMEM;
    store_relaxed(&rt_sched.nprocs, n);
    rt_p *list = rt_sched.pidle;
    rt_sched.pidle = NULL;
    store_relaxed(&rt_sched.nidle, 0);
    while (list) {
        rt_p *p = list;
        list = p->link;
        atomic_fetch_add_explicit(&rt_sched.nout, 1, memory_order_seq_cst);
        rt_p_idle_locked(p);
    }
    for (uint32_t id = 0; id < n; id++) {
        rt_p *p = rt_sched.allp[id];
        uint32_t dead = RT_P_DEAD;
        if (atomic_compare_exchange_strong_explicit(&p->status, &dead, RT_P_IDLE,
                                                    memory_order_acq_rel, memory_order_relaxed)) {
            atomic_fetch_add_explicit(&rt_sched.nout, 1, memory_order_seq_cst);
            rt_p_idle_locked(p);
        }
    }
    return 0;
}

/* CPUs by the cgroup's cpu.max ("max 100000" or "150000 100000"), rounded up; 0 unlimited. */
static long cgroup_cpus(void)
{
    char line[PATH_MAX], path[PATH_MAX + 32];
    long cpus = 0;
    FILE *f = fopen("/proc/self/cgroup", "re");
    if (!f)
        return 0;
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "0::", 3))
            continue;
        line[strcspn(line, "\n")] = 0;
        snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", line + 3);
        FILE *max = fopen(path, "re");
        long quota, period;
        if (max && fscanf(max, "%ld %ld", &quota, &period) == 2 && period > 0)
            cpus = (quota + period - 1) / period;
        if (max)
            fclose(max);
    }
    fclose(f);
    return cpus;
}

static uint32_t default_procs(void)
{
    cpu_set_t set;
    long n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set)
                                                         : sysconf(_SC_NPROCESSORS_ONLN);
    long limit = cgroup_cpus();
    if (limit > 0 && limit < n)
        n = limit;
    if (n < 1)
        n = 1;
    if (n > (long)RT_PROCS_MAX)
        n = RT_PROCS_MAX;
    const char *env = getenv("WEFT_PROCS");
    if (env && *env) {
        char *end;
        long v = strtol(env, &end, 10);
        if (*end == 0 && v > 0 && v <= (long)RT_PROCS_MAX)
            return (uint32_t)v;
        fprintf(stderr, "weft: WEFT_PROCS=%s: not a number from 1 to %u; using %ld\n", env,
                RT_PROCS_MAX, n);
    }
    return (uint32_t)n;
}

int weft_procs(int n)
{
    rt_lock_acquire(&rt_sched.lock);
    if (!load_relaxed(&rt_sched.nprocs))
        resize_locked(default_procs());
    int before = (int)load_relaxed(&rt_sched.nprocs);
    if (n > (int)RT_PROCS_MAX)
        n = (int)RT_PROCS_MAX;
    if (n > 0 && n != before)
        resize_locked((uint32_t)n);
    rt_lock_release(&rt_sched.lock);
    if (n > 0 && n != before)
        rt_wake_p();
    return before;
}

int rt_proc_start(void)
{
    pthread_sigmask(SIG_SETMASK, NULL, &user_mask);
    weft_procs(0);
    if (!load_relaxed(&rt_sched.nprocs))
        return -ENOMEM;
    return rt_sysmon_start();
}

/* ---- Ms ---- */

void rt_thread_bounds(uintptr_t *lo, uintptr_t *hi)
{
    pthread_attr_t attr;
    void *base = NULL;
    size_t bytes = 0;
    if (pthread_getattr_np(pthread_self(), &attr) == 0) {
        pthread_attr_getstack(&attr, &base, &bytes);
        pthread_attr_destroy(&attr);
    }
    *lo = (uintptr_t)base;
    *hi = (uintptr_t)base + bytes;
}

/* Handlers with SA_ONSTACK run here: a coroutine's stack may have less left than a signal frame
 * with AVX-512 state takes. */
static void m_altstack(rt_m *m)
{
    void *mem = rt_os_alloc(ALT_STACK);
    if (!mem)
        return; /* handlers then run on the coroutine's stack, as without sigaltstack */
    stack_t ss = {.ss_sp = mem, .ss_size = ALT_STACK};
    if (sigaltstack(&ss, NULL) == 0)
        m->altstack = mem;
}

static void *m_main(void *arg)
{
    rt_m *m = arg;
    m->tid = (int32_t)syscall(SYS_gettid);
    m->seed = (uint32_t)m->tid * 2654435761u;
    m->san = san_fiber_self();
    rt_thread_bounds(&m->g0_lo, &m->g0_hi);
    m_altstack(m);
    rt_m_set(m);
    const weft_hooks *hooks = rt_hook(WEFT_HOOK_THREAD);
    if (hooks)
        hooks->thread_start(WEFT_THREAD_WORKER, m->g0_lo, m->g0_hi);
    if (!m->pinned) /* else wait_for_own takes it, by m->wake */
        rt_p_acquire(m, m->next_p);
    rt_schedule(m);
}

static bool thread_new(void *(*fn)(void *), void *arg, size_t stack_bytes, bool signals_off)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, old;
    if (pthread_attr_init(&attr))
        return false;
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, stack_bytes + SAN_STACK_EXTRA);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, signals_off ? &all : &user_mask, &old);
    int err = pthread_create(&thread, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return err == 0;
}

static rt_m *m_new(rt_p *p, bool spinning, rt_g *pinned)
{
    if (load_relaxed(&rt_sched.nm) >= WORKERS_MAX)
        return NULL;
    rt_m *m = rt_os_alloc(sizeof *m);
    if (!m)
        return NULL;
    m->next_p = p;
    m->spinning = spinning;
    m->pinned = pinned;
    store_relaxed(&m->wake, pinned ? 1 : 0);
    atomic_fetch_add_explicit(&rt_sched.nm, 1, memory_order_relaxed);
    if (thread_new(m_main, m, WORKER_STACK, false))
        return m;
    atomic_fetch_sub_explicit(&rt_sched.nm, 1, memory_order_relaxed);
    munmap(m, sizeof *m);
    return NULL;
}

rt_m *rt_m_new_pinned(rt_g *g, rt_p *p)
{
    return m_new(p, false, g);
}

bool rt_m_start(rt_p *p, bool spinning)
{
    rt_lock_acquire(&rt_sched.lock);
    rt_m *m = rt_sched.midle;
    if (m) {
        rt_sched.midle = m->link;
        atomic_fetch_sub_explicit(&rt_sched.nmidle, 1, memory_order_relaxed);
    }
    rt_lock_release(&rt_sched.lock);
    if (m) {
        m->next_p = p;
        m->spinning = spinning;
        atomic_store_explicit(&m->wake, 1, memory_order_release); /* partner: rt_m_stop */
        rt_futex_wake(&m->wake, 1);
        return true;
    }
    if (m_new(p, spinning, NULL))
        return true;
    rt_lock_acquire(&rt_sched.lock);
    rt_p_idle_locked(p);
    rt_lock_release(&rt_sched.lock);
    if (spinning)
        atomic_fetch_sub_explicit(&rt_sched.nspinning, 1, memory_order_seq_cst);
    return false;
}

void rt_m_stop(rt_m *m)
{
    rt_lock_acquire(&rt_sched.lock);
    m->link = rt_sched.midle;
    rt_sched.midle = m;
    atomic_fetch_add_explicit(&rt_sched.nmidle, 1, memory_order_relaxed);
    rt_lock_release(&rt_sched.lock);
    uint32_t word;
    while ((word = load_acquire(&m->wake)) != 1) { /* partner: rt_m_start */
        if (word == 2) /* a late word for a sleeper that it no longer is */
            atomic_compare_exchange_strong_explicit(&m->wake, &word, 0, memory_order_relaxed,
                                                    memory_order_relaxed);
        else
            rt_futex_wait(&m->wake, 0, -1);
    }
    store_relaxed(&m->wake, 0);
    rt_p_acquire(m, m->next_p);
}

/* The thread of a pinned coroutine ends with it: its thread-local state, signal mask and so on are
 * the coroutine's and must not meet another. */
void rt_m_end(rt_m *m)
{
    const weft_hooks *hooks = rt_hook(WEFT_HOOK_THREAD);
    if (hooks)
        hooks->thread_stop(WEFT_THREAD_WORKER);
    stack_t off = {.ss_flags = SS_DISABLE}, now;
    if (m->altstack && sigaltstack(NULL, &now) == 0 && now.ss_sp == m->altstack)
        sigaltstack(&off, NULL);
    if (m->altstack)
        munmap(m->altstack, ALT_STACK);
    rt_m_set(NULL);
    atomic_fetch_sub_explicit(&rt_sched.nm, 1, memory_order_relaxed);
    munmap(m, sizeof *m);
    pthread_exit(NULL);
}

/* ---- threads of Weft's own ---- */

struct start {
    void (*fn)(void *);
    void *arg;
};

static void *own_main(void *arg)
{
    struct start s = *(struct start *)arg;
    munmap(arg, sizeof s);
    s.fn(s.arg);
    atomic_fetch_sub_explicit(&rt_own_threads, 1, memory_order_relaxed);
    return NULL;
}

int rt_thread_start(void (*fn)(void *), void *arg, size_t stack_bytes, bool signals_off)
{
    struct start *s = rt_os_alloc(sizeof *s);
    if (!s)
        return -ENOMEM;
    *s = (struct start){fn, arg};
    atomic_fetch_add_explicit(&rt_own_threads, 1, memory_order_relaxed);
    if (thread_new(own_main, s, stack_bytes, signals_off))
        return 0;
    atomic_fetch_sub_explicit(&rt_own_threads, 1, memory_order_relaxed);
    munmap(s, sizeof *s);
    return -EAGAIN;
}

uint32_t rt_threads_own(void)
{
    return load_relaxed(&rt_sched.nm) + (uint32_t)load_relaxed(&rt_own_threads);
}

void weft_hook_own_threads(int n)
{
    atomic_fetch_add_explicit(&rt_own_threads, n, memory_order_relaxed);
}
