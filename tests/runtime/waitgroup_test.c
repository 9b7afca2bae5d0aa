/* runtime/waitgroup.c: each line of the wait group part of weft.h, one zero for all waiters, and
 * groups that are freed the moment a wait returns. */
#include "tests/runtime/together.h"
#include <limits.h>

_Static_assert(sizeof(weft_wg) == 48 && sizeof(((weft_wg *)0)->spare) == 16, "fixed size");

static void one_caller(void)
{
    weft_wg w = WEFT_WG_INIT;
    cr_assert_eq(weft_wg_wait(&w), 0, "nothing to wait for");
    cr_assert_eq(weft_wg_wait_dl(&w, 0), 0);
    cr_assert_eq(weft_wg_done(&w), -EINVAL);
    cr_assert_eq(weft_wg_add(&w, 3), 0);
    cr_assert_eq(weft_wg_add(&w, -4), -EINVAL);
    cr_assert_eq(weft_wg_add(&w, INT_MIN), -EINVAL);
    cr_assert_eq(weft_wg_add(&w, 0), 0);
    cr_assert_eq(weft_wg_wait_dl(&w, 0), -ETIMEDOUT);
    int64_t until = weft_now() + 2 * MS;
    cr_assert_eq(weft_wg_wait_dl(&w, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    cr_assert_eq(weft_wg_done(&w), 0);
    cr_assert_eq(weft_wg_add(&w, -2), 0, "the refused ones did not count");
    cr_assert_eq(weft_wg_wait(&w), 0);
    cr_assert_eq(weft_wg_done(&w), -EINVAL);
    cr_assert_eq(weft_wg_add(&w, INT_MAX), 0);
    cr_assert_eq(weft_wg_add(&w, INT_MAX), 0);
    cr_assert_eq(weft_wg_add(&w, -INT_MAX), 0);
    cr_assert_eq(weft_wg_wait_dl(&w, 0), -ETIMEDOUT);
    cr_assert_eq(weft_wg_add(&w, -INT_MAX), 0);
    cr_assert_eq(weft_wg_wait(&w), 0);
}
BODY(one_caller_body)
{
    one_caller();
    return 0;
}
Test(waitgroup, add_done_wait_on_a_plain_thread)
{
    one_caller();
}
Test(waitgroup, add_done_wait_on_a_coroutine)
{
    RUN(1, one_caller_body);
}

Test(waitgroup, a_count_that_overflows_is_refused)
{
    weft_wg w = WEFT_WG_INIT;
    w.count = INT64_MAX - 1; /* twice the count, in the library's own form */
    cr_assert_eq(weft_wg_add(&w, 1), -EOVERFLOW);
    cr_assert_eq(w.count, INT64_MAX - 1);
}

/* ---- many waiters, one zero ---- */

struct gate {
    weft_wg w, ready;
    _Atomic(int) through, early;
    int value;
};
static void pass_gate(void *arg)
{
    struct gate *g = arg;
    weft_wg_done(&g->ready);
    cr_assert_eq(weft_wg_wait(&g->w), 0);
    atomic_fetch_add(&g->through, 1);
    if (g->value != 17)
        atomic_fetch_add(&g->early, 1);
}
static void gate_with(int coros, int threads)
{
    struct gate g = {.value = 0};
    weft_wg left = WEFT_WG_INIT;
    weft_wg_add(&g.w, 2);
    weft_wg_add(&g.ready, coros + threads);
    start(&left, coros, pass_gate, &g);
    start_threads(&left, threads, pass_gate, &g);
    join(&g.ready);
    settle();
    cr_assert_eq(weft_wg_done(&g.w), 0);
    settle();
    cr_assert_eq(g.through, 0, "the count is still 1");
    g.value = 17;
    cr_assert_eq(weft_wg_done(&g.w), 0);
    join(&left);
    cr_assert_eq(g.through, coros + threads);
    cr_assert_eq(g.early, 0);
}
BODY(gate_body)
{
    gate_with(1, 0);
    gate_with(1000, 0);
    gate_with(20, 5);
    return 0;
}
Test(waitgroup, one_zero_lets_all_waiters_through, .timeout = 60)
{
    RUN(2, gate_body);
}
Test(waitgroup, threads_wait_without_weft_run, .timeout = 60)
{
    gate_with(0, 5);
}

/* ---- the zero that a waiter waited for counts, whatever is added after it ---- */

static void wait_once(void *arg)
{
    struct gate *g = arg;
    cr_assert_eq(weft_wg_wait(&g->w), 0);
    atomic_fetch_add(&g->through, 1);
}
BODY(readded_body)
{
    struct gate g = {.value = 0};
    weft_wg left = WEFT_WG_INIT;
    weft_wg_add(&g.w, 1);
    start(&left, 3, wait_once, &g);
    settle();
    weft_wg_done(&g.w);
    weft_wg_add(&g.w, 1); /* before any of them has run: there is one processor */
    cr_assert_eq(g.through, 0);
    join(&left);
    cr_assert_eq(g.through, 3);
    start(&left, 3, wait_once, &g);
    settle();
    cr_assert_eq(g.through, 3, "the second round waits for the second zero");
    weft_wg_done(&g.w);
    join(&left);
    cr_assert_eq(g.through, 6);
    return 0;
}
Test(waitgroup, an_add_right_after_the_zero_holds_nobody_back)
{
    RUN(1, readded_body);
}

/* An add that may still hold the lock must leave the word unlike a blank one: a wait on 0 would
 * return, and its caller free the group, under the add's feet. */
BODY(marked_body)
{
    struct gate g = {.value = 0};
    weft_wg left = WEFT_WG_INIT;
    weft_wg_add(&g.w, 1);
    start(&left, 1, wait_once, &g);
    settle();
    weft_wg_done(&g.w);
    cr_assert_eq(g.w.count, 1, "count 0, marked: the next wait goes through the lock");
    cr_assert_eq(weft_wg_wait_dl(&g.w, 0), 0);
    cr_assert_eq(g.w.count, 0);
    join(&left);
    return 0;
}
Test(waitgroup, the_zero_that_woke_somebody_stays_marked)
{
    RUN(1, marked_body);
}

/* ---- storms ---- */

static void count_down(void *arg)
{
    cr_assert_eq(weft_wg_done(arg), 0);
}
static void scribble_and_free(weft_wg *w)
{
    cr_assert_leq(w->count, 1, "wait returned before the zero");
    memset(w, 0xff, sizeof *w);
    __asm__ volatile("" ::"r"(w) : "memory"); /* or the compiler drops the memset */
    free(w);
}
static void rounds(int n, int width, int64_t wait_ns, bool threads)
{
    for (int i = 0; i < n; i++) {
        /* On the heap and scribbled over, so that an add that is late would be seen. */
        weft_wg *w = calloc(1, sizeof *w);
        weft_wg left = WEFT_WG_INIT;
        weft_wg_add(w, width);
        start(&left, width - threads, count_down, w);
        start_threads(&left, threads, count_down, w);
        if (i % 3 == 0)
            weft_yield();
        if (wait_ns == 0)
            cr_assert_eq(weft_wg_wait(w), 0);
        else
            while (weft_wg_wait_dl(w, weft_now() + wait_ns) != 0)
                ;
        scribble_and_free(w);
        join(&left);
    }
}
BODY(storm_body)
{
    rounds(SCALE(8000), 4, 0, false);
    rounds(SCALE(400), 100, 0, false);
    rounds(SCALE(8000), 4, 2000, false);
    rounds(SCALE(800), 3, 2000, true);
    return 0;
}
Test(waitgroup, whoever_waited_may_free_it_1p, .timeout = 120)
{
    RUN(1, storm_body);
}
Test(waitgroup, whoever_waited_may_free_it_4p, .timeout = 120)
{
    RUN(4, storm_body);
}

struct churn {
    weft_wg w;
    int rounds;
};
static void add_and_done(void *arg)
{
    struct churn *c = arg;
    for (int i = 0; i < c->rounds; i++) {
        cr_assert_eq(weft_wg_add(&c->w, 1 + i % 3), 0);
        if (i % 16 == 0)
            weft_yield();
        cr_assert_eq(weft_wg_add(&c->w, -1 - i % 3), 0);
    }
}
static void wait_often(void *arg)
{
    struct churn *c = arg;
    for (int i = 0; i < c->rounds; i++) {
        int r = weft_wg_wait_dl(&c->w, weft_now() + i % 3 * 2000);
        cr_assert(r == 0 || r == -ETIMEDOUT, "wait: %d", r);
    }
}
BODY(churn_body)
{
    struct churn c = {.rounds = SCALE(20000)};
    weft_wg left = WEFT_WG_INIT;
    start(&left, 4, add_and_done, &c);
    start(&left, 4, wait_often, &c);
    start_threads(&left, 1, wait_often, &c);
    join(&left);
    cr_assert_eq(weft_wg_wait_dl(&c.w, 0), 0);
    cr_assert_eq(weft_wg_done(&c.w), -EINVAL);
    return 0;
}
Test(waitgroup, adds_and_waits_with_deadlines_at_the_same_time, .timeout = 120)
{
    RUN(4, churn_body);
}
