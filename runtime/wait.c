/* Waiting: queues of waiters, the claim that decides who wakes one, deadlines; the same for
 * coroutines and plain threads (R22, R25).
 *
 * Invariants:
 *  1. g->claim leaves 0 once per wait: to 1 by a waker (who sets g->woken), to 2 by the deadline;
 *     who moved it readies g. Waiters that are not shared have one possible waker, who need not
 *     claim.
 *  2. A coroutine's deadline is armed in the commit, off its own stack: a timer that fires at once
 *     must not ready a G whose registers are still being saved (R7).
 *  3. After rt_ready the waker touches neither the waiter nor the G: both may be gone (R22).
 *  4. A plain thread waits on its record's futex word; it is readied by storing 1 and a wake. The
 *     wake may come after the thread has gone on: futex waits loop, so a stray wake is harmless.
 *
 * Locks: none of its own; queues are guarded by their object's lock (rank 1).
 */
#include "tls.h"
#include <errno.h>
#include <time.h>

void rt_queue_push(rt_queue *q, rt_waiter *w)
{
    w->next = NULL;
    w->prev = q->tail;
    if (q->tail)
        q->tail->next = w;
    else
        q->head = w;
    q->tail = w;
    w->queued = true;
}

void rt_queue_push_front(rt_queue *q, rt_waiter *w)
{
    w->prev = NULL;
    w->next = q->head;
    if (q->head)
        q->head->prev = w;
    else
        q->tail = w;
    q->head = w;
    w->queued = true;
}

void rt_queue_remove(rt_queue *q, rt_waiter *w)
{
    if (!w->queued)
        return;
    if (w->prev)
        w->prev->next = w->next;
    else
        q->head = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        q->tail = w->prev;
    w->next = w->prev = NULL;
    w->queued = false;
}

static bool is_abandoned(const rt_g *g)
{
    return load_relaxed(&g->kind) == RT_KIND_CORO && g->epoch != load_relaxed(&rt_sched.epoch);
}

rt_waiter *rt_queue_pop(rt_queue *q)
{
    rt_waiter *w;
    while ((w = q->head)) {
        rt_queue_remove(q, w);
        if (rt_unlikely(is_abandoned(w->g))) /* it would swallow an element for nobody */
            continue;
        if (!w->shared || rt_claim(w->g)) {
            w->g->woken = w;
            return w;
        }
    }
    return NULL;
}

rt_g *rt_self(void)
{
    rt_m *m = rt_m_self();
    return m && m->cur ? m->cur : rt_g_thread();
}

void rt_unlock_word(void *lock)
{
    rt_lock_release(lock);
}

/* fn of g->timer; under the heap's lock. */
static void deadline_fire(rt_timer *t)
{
    rt_g *g = (rt_g *)((char *)t - offsetof(rt_g, timer));
    uint32_t open = 0; /* 2 tells the wait that it was the deadline; else as rt_claim */
    bool won = atomic_compare_exchange_strong_explicit(&g->claim, &open, 2, memory_order_acq_rel,
                                                       memory_order_relaxed);
    store_release(&t->p, NULL); /* partner: rt_timer_del's acquire; after it g may be gone */
    if (won)
        rt_ready(g);
}

struct wait_args {
    void (*unlock)(void *);
    void *arg;
    int64_t deadline;
};

static void commit_wait(rt_m *m, rt_g *g, void *arg)
{
    /* Copied: args lives on g's stack, which may run elsewhere once unlock or the timer ran. */
    struct wait_args a = *(struct wait_args *)arg;
    (void)m;
    store_release(&g->state, RT_WAITING); /* partner: acquire of state in inspect.c */
    if (a.deadline != WEFT_FOREVER)
        rt_timer_add(&g->timer, a.deadline);
    if (a.unlock)
        a.unlock(a.arg);
}

static int wait_thread(rt_g *g, struct wait_args *a)
{
    store_relaxed(&g->futex, 0);
    /* Release: partner is the acquire in rt_threads_waiting (crash.c). */
    store_release(&g->state, a->deadline == WEFT_FOREVER ? RT_WAITING : RT_RUNNING);
    if (a->unlock)
        a->unlock(a->arg);
    bool timed_out = false;
    while (!load_acquire(&g->futex)) { /* partner: the release in rt_ready */
        int64_t ns = -1;
        if (a->deadline != WEFT_FOREVER && !timed_out) {
            ns = a->deadline - weft_now();
            if (ns <= 0) {
                if (rt_claim(g)) {
                    store_relaxed(&g->state, RT_RUNNING);
                    return -ETIMEDOUT;
                }
                timed_out = true; /* lost the claim: the waker is on its way */
                ns = -1;
            }
        }
        rt_futex_wait(&g->futex, 0, ns);
    }
    store_relaxed(&g->state, RT_RUNNING);
    return 0;
}

static bool is_block_reason(weft_wait_reason why)
{
    return why != WEFT_WAIT_SLEEP && why != WEFT_WAIT_IO && why != WEFT_WAIT_BLOCKING;
}

int rt_wait(rt_g *g, void (*unlock)(void *), void *arg, int64_t deadline, weft_wait_reason why,
            const void *obj)
{
    struct wait_args a = {unlock, arg, deadline};
    const weft_hooks *hooks = is_block_reason(why) ? rt_hook(WEFT_HOOK_BLOCK) : NULL;
    int64_t start_ns = hooks ? weft_now() : 0;
    int result;
    g->why = (uint8_t)why;
    g->wait_obj = obj;
    g->woken = NULL;
    if (load_relaxed(&g->kind) == RT_KIND_THREAD) {
        result = wait_thread(g, &a);
    } else {
        store_relaxed(&g->since, load_relaxed(&rt_sched.coarse_ns));
        g->timer.fn = deadline_fire;
        rt_leave(commit_wait, &a);
        if (deadline != WEFT_FOREVER)
            rt_timer_del(&g->timer);
        result = load_relaxed(&g->claim) == 2 ? -ETIMEDOUT : 0;
    }
    g->why = WEFT_WAIT_NONE;
    if (hooks) {
        int64_t wait_ns = weft_now() - start_ns;
        hooks->block_end(why, wait_ns > 0 ? wait_ns : 1);
    }
    return result;
}

void rt_waiter_ready(rt_waiter *w)
{
    rt_ready(w->g);
}

void rt_waiter_ready_all(rt_waiter *list)
{
    rt_glist batch = {0};
    while (list) {
        rt_waiter *next = list->next; /* read before the waiter can go */
        rt_g *g = list->g;
        if (load_relaxed(&g->kind) == RT_KIND_THREAD)
            rt_ready(g);
        else
            rt_glist_push(&batch, g);
        list = next;
    }
    rt_ready_list(&batch);
}

int weft_sleep(int64_t ns)
{
    if (ns <= 0) {
        weft_yield();
        return 0;
    }
    rt_m *m = rt_m_self();
    if (!m || !m->cur) {
        struct timespec ts = {ns / 1000000000, ns % 1000000000};
        while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
            ;
        return 0;
    }
    rt_g *g = m->cur;
    int64_t now = weft_now();
    int64_t deadline = ns > INT64_MAX - 1 - now ? INT64_MAX - 1 : now + ns;
    rt_wait_begin(g);
    rt_wait(g, NULL, NULL, deadline, WEFT_WAIT_SLEEP, NULL);
    return 0;
}
