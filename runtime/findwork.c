/* Finding the next coroutine for an M that has a P, and going to sleep when there is none.
 *
 * Order: every 61st time the global queue first (R17); own timers; own queue; global queue;
 * descriptors, if nobody sleeps on them; then as a spinning M the others' rings, their timers, and
 * in the last pass their runnexts; then sleep.
 *
 * Invariants:
 *  1. At most half of the busy Ps spin (R9): m->spinning is counted in rt_sched.nspinning.
 *  2. Park pattern: P and spinning count are given up, then a full fence, then all queues are
 *     looked at once more (R8; partner: rt_wake_p).
 *  3. At most one M sleeps for timers and descriptors (rt_sched.poller). It publishes when it wakes
 *     and looks at the timers again before it sleeps (partner: timer.c's wake_sleeper).
 *
 * Locks: rt_sched.lock, rank 3, for the idle lists.
 */
#include "tls.h"

enum { SLOW_TICKS = 61, STEAL_PASSES = 4 };

static rt_g *from_global(rt_m *m, uint32_t max)
{
    if (!load_relaxed(&rt_sched.nrunq))
        return NULL;
    rt_lock_acquire(&rt_sched.lock);
    rt_g *g = rt_globq_get_locked(m->p, max);
    rt_lock_release(&rt_sched.lock);
    return g;
}

static rt_g *from_list(rt_glist *list)
{
    rt_g *g = list->head;
    if (!g)
        return NULL;
    list->head = g->link;
    if (!list->head)
        list->tail = NULL;
    list->n--;
    for (rt_g *k = list->head; k; k = k->link)
        store_release(&k->state, RT_RUNNABLE); /* partner: inspect.c */
    store_release(&g->state, RT_RUNNABLE);
    rt_inject(list);
    return g;
}

static rt_g *from_poll(void)
{
    if (!rt_poll_active() || !rt_poll_waiters() || load_relaxed(&rt_sched.poller))
        return NULL;
    rt_glist list = {0};
    store_relaxed(&rt_sched.last_poll, load_relaxed(&rt_sched.coarse_ns));
    rt_poll_collect(0, &list);
    return from_list(&list);
}

static int64_t tick_clock(void)
{
    int64_t now = weft_now();
    store_relaxed(&rt_sched.coarse_ns, now);
    return now;
}

static rt_g *from_others(rt_m *m)
{
    uint32_t n = load_acquire(&rt_sched.nalloc); /* partner: the release in proc.c's grow */
    int64_t now = tick_clock();
    for (int pass = 0; pass < STEAL_PASSES; pass++) {
        m->seed = m->seed * 1664525u + 1013904223u;
        uint32_t first = (m->seed >> 8) % n;
        bool last = pass == STEAL_PASSES - 1;
        for (uint32_t i = 0; i < n; i++) {
            rt_p *victim = rt_sched.allp[(first + i) % n];
            if (last && load_relaxed(&victim->timer_next) <= now) {
                rt_timers_run(victim, now);
                rt_g *g = rt_runq_get(m->p);
                if (g)
                    return g;
            }
            if (victim == m->p)
                continue;
            rt_g *g = rt_runq_steal(m->p, victim, last);
            if (g)
                return g;
        }
        if (load_relaxed(&rt_sched.nrunq))
            return from_global(m, 0);
    }
    return NULL;
}

static void stop_spinning(rt_m *m)
{
    if (!m->spinning)
        return;
    m->spinning = false;
    atomic_fetch_sub_explicit(&rt_sched.nspinning, 1, memory_order_seq_cst);
}

static void start_spinning(rt_m *m)
{
    if (m->spinning)
        return;
    m->spinning = true;
    atomic_fetch_add_explicit(&rt_sched.nspinning, 1, memory_order_seq_cst);
}

static bool any_queued(void)
{
    if (load_relaxed(&rt_sched.nrunq))
        return true;
    uint32_t n = load_acquire(&rt_sched.nalloc);
    for (uint32_t i = 0; i < n; i++)
        if (!rt_runq_empty(rt_sched.allp[i]))
            return true;
    return false;
}

/* Takes an idle P again; the M spins then, because it came for work of unknown place. */
static bool take_back_p(rt_m *m)
{
    rt_lock_acquire(&rt_sched.lock);
    rt_p *p = load_relaxed(&rt_sched.running) ? rt_p_take_idle_locked() : NULL;
    rt_lock_release(&rt_sched.lock);
    if (!p)
        return false;
    rt_p_acquire(m, p);
    start_spinning(m);
    return true;
}

/* Sleeps as the one that watches timers and descriptors, until the earliest timer, an event or a
 * break. False: somebody else does, or there is nothing to watch. */
static bool sleep_as_poller(rt_m *m, rt_glist *ready)
{
    uint32_t nobody = 0;
    if (!atomic_compare_exchange_strong_explicit(&rt_sched.poller, &nobody, 1, memory_order_seq_cst,
                                                 memory_order_relaxed))
        return false;
    /* Published as "now" first, so that an adder between the two looks wakes us for nothing
     * rather than not at all. */
    store_relaxed(&m->wake, 0);
    store_release(&rt_sched.timer_sleeper, m); /* partner: wake_sleeper's acquire */
    rt_fence();                                /* partner: poll.c's tell_timer_sleeper */
    bool polls = rt_poll_active();
    if (polls)
        store_release(&rt_sched.timer_sleeper, NULL);
    int64_t next = rt_timers_next();
    for (;;) {
        atomic_store_explicit(&rt_sched.sleep_until, next, memory_order_seq_cst);
        rt_fence(); /* invariant 3 */
        int64_t again = rt_timers_next();
        if (again >= next)
            break;
        next = again;
    }
    bool useful = (polls && rt_poll_waiters()) || next != INT64_MAX;
    /* A coroutine may have parked on its first descriptor, or work arrived, since the last look. */
    if (useful && load_relaxed(&rt_sched.running) && !any_queued()) {
        int64_t ns = next == INT64_MAX ? -1 : next - weft_now();
        if (ns < 0 && next != INT64_MAX)
            ns = 0;
        if (polls)
            rt_poll_collect(ns, ready);
        else if (ns != 0)
            rt_futex_wait(&m->wake, 0, ns);
    }
    store_relaxed(&rt_sched.timer_sleeper, NULL);
    atomic_store_explicit(&rt_sched.sleep_until, INT64_MAX, memory_order_seq_cst);
    atomic_store_explicit(&rt_sched.poller, 0, memory_order_seq_cst);
    uint32_t told = 2;
    atomic_compare_exchange_strong_explicit(&m->wake, &told, 0, memory_order_relaxed,
                                            memory_order_relaxed);
    tick_clock();
    if (useful)
        return true;
    /* Whoever found the post taken meanwhile went to sleep and trusts us: look once more. */
    rt_fence();
    return rt_timers_next() != INT64_MAX || (rt_poll_active() && rt_poll_waiters());
}

static void run_all_timers(void)
{
    int64_t now = tick_clock();
    uint32_t n = load_acquire(&rt_sched.nalloc);
    for (uint32_t i = 0; i < n; i++)
        rt_timers_run(rt_sched.allp[i], now);
}

/* Gives up the P and sleeps; returns with a P, and with a G if it came with one. */
static rt_g *give_up(rt_m *m)
{
    rt_lock_acquire(&rt_sched.lock);
    bool wanted = load_relaxed(&rt_sched.running) && m->p->id < load_relaxed(&rt_sched.nprocs);
    rt_g *g = wanted ? rt_globq_get_locked(m->p, 0) : NULL;
    if (g) {
        rt_lock_release(&rt_sched.lock);
        return g;
    }
    rt_p_idle_locked(rt_p_release(m));
    rt_lock_release(&rt_sched.lock);
    stop_spinning(m);
    for (;;) {
        rt_fence(); /* invariant 2 */
        if (!load_relaxed(&rt_sched.running))
            break;
        if (any_queued()) {
            if (take_back_p(m))
                return NULL;
            break; /* all Ps run: they will find it */
        }
        rt_glist ready = {0};
        if (!sleep_as_poller(m, &ready))
            break;
        bool have_p = take_back_p(m);
        g = from_list(&ready);
        if (have_p)
            return g;
        if (g)
            rt_globq_put(g);
        run_all_timers(); /* all Ps run: what is due goes to the global queue */
    }
    rt_m_stop(m);
    return NULL;
}

static bool may_spin(rt_m *m)
{
    uint32_t busy = load_relaxed(&rt_sched.nprocs) - load_relaxed(&rt_sched.nidle);
    return m->spinning || 2 * load_relaxed(&rt_sched.nspinning) < busy;
}

static rt_g *look(rt_m *m)
{
    rt_p *p = m->p;
    rt_g *g;
    if (load_relaxed(&p->tick) % SLOW_TICKS == 0 && (g = from_global(m, 1)))
        return g;
    if (load_relaxed(&p->timer_next) != INT64_MAX)
        rt_timers_run(p, tick_clock());
    if ((g = rt_runq_get(p)) || (g = from_global(m, 0)) || (g = from_poll()))
        return g;
    if (!may_spin(m))
        return NULL;
    start_spinning(m);
    return from_others(m);
}

rt_g *rt_find_work(rt_m *m)
{
    for (;;) {
        rt_p *p = m->p;
        rt_g *g = NULL;
        store_relaxed(&p->poke, 0);
        if (load_relaxed(&rt_sched.running) && p->id < load_relaxed(&rt_sched.nprocs))
            g = look(m);
        if (!g)
            g = give_up(m);
        if (!g)
            continue;
        if (m->spinning) { /* one finds, then wakes the next looker (R11) */
            stop_spinning(m);
            rt_wake_p();
        }
        return g;
    }
}
