/* Deadlines: order, removal, the race of a stop with a fire (R44), a deadline of another P that is
 * earlier than the sleeper's (R43), precision. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"

enum { N = 500 };
static int64_t fired[N];
static int nfired;
struct one {
    rt_timer t;
    int64_t key;
};

static void note(rt_timer *t)
{
    fired[nfired++] = ((struct one *)t)->key;
    store_relaxed(&t->p, NULL);
}

Test(timer, fires_in_order_and_only_what_is_due)
{
    static struct one timers[N];
    weft_procs(1);
    rt_p *p = rt_sched.allp[0];
    for (int i = 0; i < N; i++) {
        timers[i].key = (i * 7919) % N;
        timers[i].t.fn = note;
        rt_timer_add(&timers[i].t, timers[i].key);
    }
    for (int i = 0; i < N; i++)
        if (timers[i].key % 5 == 0)
            rt_timer_del(&timers[i].t);
    cr_assert_eq(rt_timers_next(), 1);
    rt_timers_run(p, 250);
    cr_assert_eq(nfired, 200);
    for (int i = 1; i < nfired; i++)
        cr_assert_lt(fired[i - 1], fired[i]);
    cr_assert_eq(rt_timers_next(), 251);
    rt_timers_run(p, INT64_MAX - 1);
    cr_assert_eq(nfired, 400);
    cr_assert_eq(rt_timers_next(), INT64_MAX);
    rt_timer_del(&timers[0].t); /* of one that has fired: no effect */
}

static weft_chan *never;
static _Atomic(int) results[2];

static void race(void *arg)
{
    (void)arg;
    for (int i = 0; i < SCALE(20000); i++) {
        int v;
        int r = weft_chan_recv_dl(never, &v, weft_now() + i % 3 * 1000);
        cr_assert(r == 0 || r == -ETIMEDOUT, "recv_dl: %d", r);
        results[r != 0]++;
    }
}

static void feed(void *arg)
{
    (void)arg;
    for (int i = 0; i < SCALE(20000); i++)
        weft_chan_try_send(never, &i), weft_yield();
}

BODY(stop_against_fire)
{
    weft_wg left = WEFT_WG_INIT;
    never = weft_chan_new(sizeof(int), 0);
    start(&left, 8, race, NULL);
    start(&left, 4, feed, NULL);
    join(&left);
    cr_assert_eq(results[0] + results[1], 8 * SCALE(20000));
    return 0;
}
/* A deadline that has lost must neither wake nor time out the next wait of the same coroutine. */
Test(timer, stop_against_fire, .timeout = 120)
{
    RUN(2, stop_against_fire);
}

static _Atomic(int64_t) woke_ns;
static void short_sleep(void *arg)
{
    weft_sleep(1 * MS);
    woke_ns = weft_now();
    weft_wg_done(arg);
}
static void long_sleep(void *arg)
{
    weft_sleep(3600 * 1000 * MS);
    weft_wg_done(arg);
}
static _Atomic(int) may_spin_on;
static void hog(void *arg)
{
    while (may_spin_on)
        ;
    weft_wg_done(arg);
}

BODY(earlier_than_the_sleeper)
{
    weft_wg left = WEFT_WG_INIT;
    weft_go(long_sleep, &left);
    weft_sleep(20 * MS); /* now somebody sleeps for an hour */
    weft_wg_add(&left, 2);
    int64_t from = weft_now();
    may_spin_on = 1;
    weft_go(short_sleep, &left);
    weft_yield(); /* it has armed its timer, on this P */
    weft_go(hog, &left);
    int64_t give_up = from + 5000 * MS;
    while (!woke_ns && weft_now() < give_up) /* this P is busy: the sleeper has to see it */
        ;
    may_spin_on = 0;
    cr_assert(woke_ns, "the 1 ms sleeper did not wake while the P that holds its timer was busy");
    weft_wg_wait(&left);
    return 0;
}
/* R43. Three Ps: one computes here, one runs the hog, one must wake from its hour. */
Test(timer, earlier_than_the_sleeper, .timeout = 60)
{
    RUN(3, earlier_than_the_sleeper);
}

BODY(deadline_in_the_past_tries_once)
{
    weft_chan *c = weft_chan_new(sizeof(int), 1);
    int v = 5;
    cr_assert_eq(weft_chan_send_dl(c, &v, 0), 0);
    cr_assert_eq(weft_chan_send_dl(c, &v, 0), -ETIMEDOUT);
    cr_assert_eq(weft_chan_recv_dl(c, &v, 0), 0);
    cr_assert_eq(weft_chan_recv_dl(c, &v, 0), -ETIMEDOUT);
    int64_t t = weft_now();
    cr_assert_eq(weft_chan_recv_dl(c, &v, t + 2 * MS), -ETIMEDOUT);
    cr_assert_geq(weft_now() - t, 2 * MS);
    weft_chan_release(c);
    return 0;
}
Test(timer, deadline_in_the_past_tries_once)
{
    RUN(1, deadline_in_the_past_tries_once);
}
