/* Waiter queues, the claim, deadlines against wakers, plain threads and coroutines alike. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include <string.h>

Test(wait, a_queue_keeps_order_and_lets_go_anywhere)
{
    rt_queue q = {0};
    rt_waiter w[4] = {0};
    rt_g g[4] = {0};
    for (int i = 0; i < 4; i++)
        w[i].g = &g[i], g[i].epoch = load_relaxed(&rt_sched.epoch);
    rt_queue_push(&q, &w[1]);
    rt_queue_push(&q, &w[2]);
    rt_queue_push(&q, &w[3]);
    rt_queue_push_front(&q, &w[0]);
    rt_queue_remove(&q, &w[2]);
    rt_queue_remove(&q, &w[2]); /* no effect */
    cr_assert(rt_queue_pop(&q) == &w[0] && rt_queue_pop(&q) == &w[1] && rt_queue_pop(&q) == &w[3]);
    cr_assert_null(rt_queue_pop(&q));
    cr_assert(g[3].woken == &w[3] && !w[3].queued);
}

Test(wait, whoever_lost_its_claim_is_passed_over)
{
    rt_queue q = {0};
    rt_waiter w[2] = {0};
    rt_g g[2] = {0};
    for (int i = 0; i < 2; i++) {
        w[i].g = &g[i];
        w[i].shared = true;
        g[i].epoch = load_relaxed(&rt_sched.epoch);
        rt_queue_push(&q, &w[i]);
    }
    cr_assert(rt_claim(&g[0]));
    cr_assert(!rt_claim(&g[0]), "once");
    cr_assert(rt_queue_pop(&q) == &w[1]);
    cr_assert_null(q.head);
}

/* A waiter on a bare queue with a deadline, against a waker: each wait has one outcome. */
static rt_lock lock;
static rt_queue queue;
static _Atomic(long) woken, timed_out, sent;
static _Atomic(int) stop;
static void one_wait(void)
{
    rt_g *g = rt_self();
    rt_waiter w = {.g = g, .shared = true};
    rt_wait_begin(g);
    rt_lock_acquire(&lock);
    rt_queue_push(&queue, &w);
    int r = rt_wait(g, rt_unlock_word, &lock, weft_now() + 20000, WEFT_WAIT_CHAN_RECV, &queue);
    if (r) {
        rt_lock_acquire(&lock);
        rt_queue_remove(&queue, &w);
        rt_lock_release(&lock);
        timed_out++;
    } else {
        cr_assert(g->woken == &w);
        woken++;
    }
    cr_assert(!w.queued);
}
static void waits(void *arg)
{
    (void)arg;
    for (int i = 0; i < SCALE(4000); i++)
        one_wait();
}
static void wakes(void *arg)
{
    (void)arg;
    while (!stop) {
        rt_lock_acquire(&lock);
        rt_waiter *w = rt_queue_pop(&queue);
        rt_lock_release(&lock);
        if (w) {
            sent++;
            rt_waiter_ready(w);
        } else {
            weft_sleep(15000);
        }
    }
}
BODY(deadline_races)
{
    weft_wg waiters = WEFT_WG_INIT, wakers = WEFT_WG_INIT;
    start(&wakers, 2, wakes, NULL);
    start(&waiters, 6, waits, NULL);
    start_threads(&waiters, 2, waits, NULL);
    join(&waiters);
    stop = 1;
    join(&wakers);
    cr_assert_eq(woken, sent);
    cr_assert_eq(woken + timed_out, 8 * SCALE(4000));
    cr_assert(woken > 0 && timed_out > 0, "%ld woken, %ld timed out", woken, timed_out);
    return 0;
}
/* R22, R25. */
Test(wait, deadline_against_waker, .timeout = 120)
{
    RUN(3, deadline_races);
}

Test(wait, a_plain_thread_sleeps_as_long_as_asked)
{
    int64_t from = weft_now();
    cr_assert_eq(weft_sleep(3 * MS), 0);
    cr_assert_geq(weft_now() - from, 3 * MS);
    cr_assert_eq(weft_sleep(-1), 0);
}

BODY(sleeps)
{
    for (int i = 1; i < 20; i++) {
        int64_t from = weft_now();
        weft_sleep(i * 100000);
        cr_assert_geq(weft_now() - from, i * 100000);
    }
    return 0;
}
Test(wait, a_coroutine_sleeps_as_long_as_asked)
{
    RUN(1, sleeps);
}
