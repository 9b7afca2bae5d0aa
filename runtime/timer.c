/* Deadlines: a 4-ary heap per P, ordered by time.
 *
 * Invariants:
 *  1. A timer is in at most one heap; t->p names it and changes only under that heap's lock.
 *  2. p->timer_next is the root's time (INT64_MAX when empty), stored under the lock, so that
 *     others can look without it.
 *  3. fn runs under the heap's lock: after rt_timer_del has had the lock, fn neither runs nor will
 *     run. fn sets t->p to NULL itself and may then ready a G (ranks 3 and up), nothing else.
 *  4. Whoever goes to sleep for timers publishes its wake time, fences, and looks at all
 *     timer_next again; whoever adds a timer publishes timer_next, fences, and looks at that wake
 *     time. So one of the two sees the other (R43).
 *
 * Locks: p->timer_lock, rank 2.
 *
 * Rejected: a wheel (deadlines of minutes beside 1 ms sleeps need several levels; the heap costs
 * O(log4 n), 5 steps at 1000 timers), lazy deletion (a deadline per read would leave the heap full
 * of dead entries).
 */
#include "rt.h"
#include "tls.h"

static void heap_set(rt_p *p, uint32_t i, rt_timer *t)
{
    p->timers[i] = t;
    t->index = i;
}

static void sift_up(rt_p *p, uint32_t i)
{
    rt_timer *t = p->timers[i];
    while (i > 0) {
        uint32_t up = (i - 1) / 4;
        if (p->timers[up]->when <= t->when)
            break;
        heap_set(p, i, p->timers[up]);
        i = up;
    }
    heap_set(p, i, t);
}

static void sift_down(rt_p *p, uint32_t i)
{
    rt_timer *t = p->timers[i];
    for (;;) {
        uint32_t first = 4 * i + 1, best = i;
        int64_t when = t->when;
        for (uint32_t k = first; k < first + 4 && k < p->ntimers; k++)
            if (p->timers[k]->when < when) {
                when = p->timers[k]->when;
                best = k;
            }
        if (best == i)
            break;
        heap_set(p, i, p->timers[best]);
        i = best;
    }
    heap_set(p, i, t);
}

static void publish_next_locked(rt_p *p)
{
    int64_t next = p->ntimers ? p->timers[0]->when : INT64_MAX;
    if (load_relaxed(&p->timer_next) != next)
        atomic_store_explicit(&p->timer_next, next, memory_order_seq_cst); /* invariant 4 */
}

static void remove_locked(rt_p *p, rt_timer *t)
{
    uint32_t i = t->index;
    rt_timer *last = p->timers[--p->ntimers];
    if (last != t) {
        heap_set(p, i, last);
        sift_up(p, i);
        sift_down(p, last->index);
    }
    store_relaxed(&t->p, NULL);
}

static bool reserve_locked(rt_p *p)
{
    if (p->ntimers < p->timer_cap)
        return true;
    uint32_t cap = p->timer_cap ? 2 * p->timer_cap : 512;
    rt_timer **grown = rt_os_grow(p->timers, p->timer_cap * sizeof *p->timers, cap * sizeof *grown);
    if (!grown)
        return false;
    p->timers = grown;
    p->timer_cap = cap;
    return true;
}

/* The sleeper for timers must wake earlier than it planned. */
static void wake_sleeper(int64_t when)
{
    rt_fence(); /* invariant 4; partner: sleep_for_timers */
    if (!load_relaxed(&rt_sched.poller)) {
        rt_wake_p(); /* nobody watches the clock: an idle P will, once it finds no work */
        return;
    }
    if (when >= load_relaxed(&rt_sched.sleep_until))
        return;
    rt_m *m = load_acquire(&rt_sched.timer_sleeper); /* partner: the store before it sleeps */
    if (!m) {
        rt_poll_break();
        return;
    }
    uint32_t asleep = 0; /* only 0 -> 2: a 1 is a P that was handed over (proc.c) */
    if (atomic_compare_exchange_strong_explicit(&m->wake, &asleep, 2, memory_order_release,
                                                memory_order_relaxed))
        rt_futex_wake(&m->wake, 1);
}

void rt_timer_add(rt_timer *t, int64_t when)
{
    rt_m *m = rt_m_self();
    rt_p *p = m && m->p ? m->p : rt_sched.allp[0];
    t->when = when;
    rt_lock_acquire(&p->timer_lock);
    if (!reserve_locked(p))
        rt_throw("timer: no memory for the heap");
    store_relaxed(&t->p, p);
    p->timers[p->ntimers] = t;
    sift_up(p, p->ntimers++);
    bool earliest = p->timers[0] == t;
    publish_next_locked(p);
    rt_lock_release(&p->timer_lock);
    if (earliest)
        wake_sleeper(when);
}

void rt_timer_del(rt_timer *t)
{
    for (;;) {
        /* Acquire: partner is the release of the heap's lock by whoever fired or moved it. */
        rt_p *p = load_acquire(&t->p);
        if (!p)
            return;
        rt_lock_acquire(&p->timer_lock);
        bool here = load_relaxed(&t->p) == p;
        if (here) {
            remove_locked(p, t);
            publish_next_locked(p);
        }
        rt_lock_release(&p->timer_lock);
        if (here)
            return;
    }
}

void rt_timers_run(rt_p *p, int64_t now)
{
    if (load_relaxed(&p->timer_next) > now)
        return;
    rt_lock_acquire(&p->timer_lock);
    while (p->ntimers && p->timers[0]->when <= now) {
        rt_timer *t = p->timers[0];
        /* Taken out, but t->p still names p: a rt_timer_del meanwhile waits for the lock. fn clears
         * it, before it readies anybody who could arm the timer again. */
        rt_timer *last = p->timers[--p->ntimers];
        if (last != t) {
            heap_set(p, 0, last);
            sift_down(p, 0);
        }
        void (*fn)(rt_timer *) = t->fn;
        fn(t);
    }
    publish_next_locked(p);
    rt_lock_release(&p->timer_lock);
}

int64_t rt_timers_next(void)
{
    int64_t next = INT64_MAX;
    uint32_t n = load_acquire(&rt_sched.nalloc); /* partner: the release in proc.c's grow */
    for (uint32_t i = 0; i < n; i++) {
        int64_t t = atomic_load_explicit(&rt_sched.allp[i]->timer_next, memory_order_seq_cst);
        if (t < next)
            next = t;
    }
    return next;
}
