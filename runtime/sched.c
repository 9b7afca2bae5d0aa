/* Parking, readying and switching coroutines.
 *
 * How it works. A coroutine (G) runs on a worker thread (M) that holds a processor (P); there are
 * as many Ps as coroutines may run at once. Each P has a ring of runnable Gs and a runnext slot; an
 * M without work steals from others, looks at timers and descriptors, and then sleeps on a futex.
 *
 * To park, a coroutine takes its object's lock, queues a waiter, and calls rt_leave with a commit
 * function. rt_leave picks what runs next and switches to it; the commit runs there, on the next
 * stack, when the parked G can no longer run on its own. Only the commit marks it WAITING and
 * releases the lock. So nobody can find the waiter, ready the G and run it on another M while its
 * registers are still being saved (R6, R7). When the P's own queue has a next G, the switch goes to
 * it directly; the scheduler stack (g0) is only visited to look further, every 61st switch, and
 * when sysmon pokes.
 *
 * Waking. Whoever makes work visible and wants help follows the submit pattern: (1) publish the
 * work, (2) full fence, (3) look for an idle P and no spinning M, then wake one. Whoever goes to
 * sleep follows the park pattern: (1) give up the P and the spinning count, (2) full fence, (3)
 * look at all queues again. One of the two sees the other (R8). A G that is readied into an empty
 * runnext wakes nobody: its P is about to run it, since the waker mostly parks soon. When it does
 * not, sysmon finds the G lying there and wakes a P, and for a while (rt_sched.eager) every ready
 * wakes, as in Go. Waking at each ready costs a futex call and a cold core per message: a
 * ping-pong pair on two Ps is an order of magnitude slower that way.
 *
 * Invariants:
 *  1. m->cur is set before the switch to it, m->prev until its commit: a signal handler that knows
 *     its stack pointer finds the stack it is on among cur, prev and g0 (hook.c).
 *  2. Only the M that runs a G writes the fields that rt.h gives to the coroutine itself.
 *  3. No pointer to an M or P is used after a call that may switch; rt_m_self is asked again.
 *  4. A G whose epoch is not the running weft_run's never runs again: it was abandoned.
 *
 * Locks: none of its own.
 */
#include "san.h"
#include "switch.h"
#include "tls.h"
#include <pthread.h>
#include <sched.h>
#include <time.h>

rt_sched_state rt_sched = {.sleep_until = INT64_MAX, .epoch = 1};

/* 61 as in Go: prime, so that it does not beat with patterns of the program. */
enum { SLOW_TICKS = 61 };

int64_t weft_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* ---- switching ---- */

RT_NOINLINE static bool bind_stack(rt_m *m, rt_g *g)
{
    if (rt_stack_get(m->p, g->stack_class, &g->stack)) {
        store_relaxed(&g->state, RT_RUNNABLE);
        return false;
    }
    g->sp = rt_ctx_make(g->stack.hi);
    g->san = san_fiber_new();
    g->san_fake = NULL;
    g->started = 1;
    return true;
}

RT_NOINLINE void rt_wait_unpinned(rt_g *g)
{
    for (int i = 0; load_acquire(&g->pin); i++) /* partner: the release in inspect.c */
        if (i % 64 == 63)
            sched_yield(); /* the looker may have lost its core */
        else
            rt_pause();
}

bool rt_prepare(rt_m *m, rt_g *g)
{
    store_relaxed(&g->state, RT_RUNNING);
    /* The store above must be visible before pin is read. inspect.c pays for that order with a
     * membarrier after it sets pin, so a compiler fence is enough here. */
    atomic_signal_fence(memory_order_seq_cst);
    if (rt_unlikely(load_acquire(&g->pin)))
        rt_wait_unpinned(g);
    if (rt_unlikely(!g->started) && !bind_stack(m, g))
        return false;
    store_relaxed(&g->m, m);
    store_relaxed(&g->tid, m->tid);
    rt_p *p = m->p;
    store_relaxed(&p->tick, load_relaxed(&p->tick) + 1);
    return true;
}

void rt_arrived(rt_m *m, void *fake)
{
    san_arrived(fake);
    rt_g *prev = m->prev;
    if (prev) {
        m->prev = NULL;
        m->commit(m, prev, m->commit_arg);
    }
}

/* The next G to switch to without a visit to g0, prepared; or NULL. */
static inline rt_g *pick_direct(rt_m *m, rt_g *g)
{
    rt_p *p = m->p;
    if (rt_unlikely(!p || (g->flags & WEFT_PINNED) || load_relaxed(&p->tick) % SLOW_TICKS == 0 ||
                    load_relaxed(&p->poke)))
        return NULL;
    rt_g *next = rt_runq_get(p);
    if (!next)
        return NULL;
    if (rt_unlikely((next->flags & WEFT_PINNED) || next->epoch != load_relaxed(&rt_sched.epoch) ||
                    !rt_prepare(m, next))) {
        m->picked = next;
        return NULL;
    }
    return next;
}

void rt_leave(rt_commit commit, void *arg)
{
    rt_m *m = rt_m_self();
    rt_g *g = m->cur;
    g->saved_errno = rt_errno_get();
    rt_g *next = pick_direct(m, g);
    m->commit = commit;
    m->commit_arg = arg;
    m->prev = g;
    m->cur = next;
    if (next) {
        san_switch(&g->san_fake, next->san, next->stack.lo, next->stack.hi);
        rt_switch(&g->sp, next->sp);
    } else {
        san_switch(&g->san_fake, m->san, m->g0_lo, m->g0_hi);
        rt_switch(&g->sp, m->g0_sp);
    }
    m = rt_m_self();
    rt_arrived(m, g->san_fake);
    rt_errno_set(g->saved_errno);
}

/* The last switch of a coroutine: as rt_leave, but its fake stack is given up. */
static void commit_exit(rt_m *m, rt_g *g, void *arg)
{
    (void)arg;
    const weft_hooks *hooks = g->labels ? rt_hook(WEFT_HOOK_LABEL) : NULL;
    if (hooks)
        hooks->label_drop(g->labels);
    g->labels = NULL;
    if (g->flags & WEFT_PINNED)
        m->dying = true;
    san_fiber_free(g->san);
    g->san = NULL;
    g->started = 0;
    rt_stack stack = g->stack;
    g->stack = (rt_stack){0};
    rt_g_free(m->p, g);
    rt_stack_put(m->p, &stack);
}

void weft_exit(void)
{
    rt_m *m = rt_m_self();
    if (!m || !m->cur)
        pthread_exit(NULL);
    rt_g *g = m->cur;
    rt_g *next = pick_direct(m, g);
    m->commit = commit_exit;
    m->prev = g;
    m->cur = next;
    void *never;
    if (next) {
        san_switch(NULL, next->san, next->stack.lo, next->stack.hi);
        rt_switch(&never, next->sp);
    } else {
        san_switch(NULL, m->san, m->g0_lo, m->g0_hi);
        rt_switch(&never, m->g0_sp);
    }
    rt_throw("sched: a coroutine ran after its end");
}

/* Called by rt_coro_start, on a stack that has never run. */
RT_HIDDEN void rt_coro_main(void);
void rt_coro_main(void)
{
    rt_m *m = rt_m_self();
    rt_g *g = m->cur;
    rt_arrived(m, NULL);
    rt_errno_set(0);
    g->fn(g->arg);
    weft_exit();
}

/* ---- making runnable ---- */

void rt_ready(rt_g *g)
{
    if (load_relaxed(&g->kind) == RT_KIND_THREAD) {
        atomic_fetch_add_explicit(&rt_thread_wakes, 1, memory_order_relaxed);
        store_relaxed(&g->state, RT_RUNNING);
        store_release(&g->futex, 1); /* partner: the acquire in wait_thread */
        rt_futex_wake(&g->futex, 1);
        return;
    }
    if (rt_unlikely(g->epoch != load_relaxed(&rt_sched.epoch)))
        return;                            /* abandoned by the end of its weft_run */
    store_release(&g->state, RT_RUNNABLE); /* partner: inspect.c */
    rt_m *m = rt_m_self();
    rt_p *p = m ? m->p : NULL;
    if (!p) {
        rt_globq_put(g);
        rt_wake_p();
        return;
    }
    rt_runq_put(p, g, true);
    if (load_relaxed(&rt_sched.nidle) && (rt_runq_excess(p) || load_relaxed(&rt_sched.eager)))
        rt_wake_p();
}

void rt_ready_list(rt_glist *list)
{
    for (rt_g *g = list->head; g; g = g->link)
        store_release(&g->state, RT_RUNNABLE); /* partner: inspect.c */
    rt_inject(list);
}

void rt_inject(rt_glist *list)
{
    uint32_t n = list->n;
    if (!n)
        return;
    rt_m *m = rt_m_self();
    rt_p *p = m ? m->p : NULL;
    uint32_t idle = load_relaxed(&rt_sched.nidle);
    bool local = p && n <= RT_RING / 2;
    if (local) {
        while (list->head) {
            rt_g *g = list->head;
            list->head = g->link;
            rt_runq_put(p, g, false);
        }
        *list = (rt_glist){0};
    } else {
        rt_lock_acquire(&rt_sched.lock);
        rt_globq_put_list_locked(list);
        rt_lock_release(&rt_sched.lock);
    }
    if (idle || !local)
        rt_wake_p(); /* one: it wakes the next when it finds work (R11) */
}

void rt_wake_p(void)
{
    /* Submit pattern, step 2; partner: the fence in findwork.c's give_up. */
    rt_fence();
    uint32_t none = 0;
    if (!load_relaxed(&rt_sched.nidle) || load_relaxed(&rt_sched.nspinning) ||
        !load_relaxed(&rt_sched.running) ||
        !atomic_compare_exchange_strong_explicit(&rt_sched.nspinning, &none, 1,
                                                 memory_order_seq_cst, memory_order_relaxed))
        return;
    rt_lock_acquire(&rt_sched.lock);
    rt_p *p = rt_p_take_idle_locked();
    rt_lock_release(&rt_sched.lock);
    if (!p)
        atomic_fetch_sub_explicit(&rt_sched.nspinning, 1, memory_order_seq_cst);
    else
        rt_m_start(p, true);
}

/* ---- yielding ---- */

static void commit_yield(rt_m *m, rt_g *g, void *arg)
{
    (void)arg;
    store_release(&g->state, RT_RUNNABLE); /* partner: inspect.c */
    rt_runq_put(m->p, g, false);
}

void weft_yield(void)
{
    rt_m *m = rt_m_self();
    if (!m || !m->cur) {
        sched_yield();
        return;
    }
    rt_p *p = m->p;
    /* Nothing to yield to here: but every 61st time, and when poked, look further (R10, R17). */
    if (rt_runq_empty(p) && !load_relaxed(&p->poke)) {
        uint32_t tick = load_relaxed(&p->tick) + 1;
        store_relaxed(&p->tick, tick);
        if (tick % SLOW_TICKS)
            return;
    }
    rt_leave(commit_yield, NULL);
}

uint64_t weft_self(void)
{
    rt_m *m = rt_m_self();
    return m && m->cur ? load_relaxed(&m->cur->id) : 0;
}

/* ---- a worker's life ---- */

/* A G that is pinned to another M: that M gets our P. */
static void give_to_pinned(rt_m *m, rt_g *g)
{
    rt_p *p = rt_p_release(m);
    rt_m *target = load_relaxed(&g->m);
    if (!target) {
        if (!rt_m_new_pinned(g, p)) { /* no thread to be had now: later, when some have ended */
            rt_p_acquire(m, p);
            rt_globq_put(g);
            struct timespec ms = {0, 1000000};
            nanosleep(&ms, NULL);
            return;
        }
    } else {
        target->next_p = p;
        store_release(&target->wake, 1); /* partner: the acquire in wait_for_own */
        rt_futex_wake(&target->wake, 1);
    }
    rt_m_stop(m);
}

/* An M with a pinned coroutine is back on g0: it gives its P away and sleeps until the coroutine
 * is runnable again. */
static rt_g *wait_for_own(rt_m *m)
{
    if (m->p)
        rt_p_handoff(rt_p_release(m));
    if (m->dying)
        rt_m_end(m);
    while (load_acquire(&m->wake) != 1) /* partner: the release in give_to_pinned */
        rt_futex_wait(&m->wake, 0, -1);
    store_relaxed(&m->wake, 0);
    rt_p_acquire(m, m->next_p);
    return m->pinned;
}

static rt_g *next_g(rt_m *m)
{
    if (m->pinned)
        return wait_for_own(m);
    if (!m->p)
        rt_m_stop(m);
    rt_g *g = m->picked;
    m->picked = NULL;
    return g ? g : rt_find_work(m);
}

void rt_schedule(rt_m *m)
{
    for (;;) {
        rt_g *g = next_g(m);
        if (g->epoch != load_relaxed(&rt_sched.epoch))
            continue;
        if ((g->flags & WEFT_PINNED) && g != m->pinned) {
            give_to_pinned(m, g);
            continue;
        }
        if (!rt_prepare(m, g)) { /* no stack: others may end and leave theirs */
            if (m->pinned)       /* so that it is given to us again, not to a thread of its own */
                store_relaxed(&g->m, m);
            rt_globq_put(g);
            struct timespec ms = {0, 1000000};
            nanosleep(&ms, NULL);
            continue;
        }
        m->cur = g;
        san_switch(&m->san_fake, g->san, g->stack.lo, g->stack.hi);
        rt_switch(&m->g0_sp, g->sp);
        rt_arrived(m, m->san_fake);
    }
}
