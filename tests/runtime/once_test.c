/* runtime/once.c: one run, and every caller returns after it. */
#include "tests/runtime/together.h"

_Static_assert(sizeof(weft_once) == 40 && sizeof(((weft_once *)0)->spare) == 16, "fixed size");

struct job {
    weft_once once;
    int runs, value; /* written by the one run only: a second one, or an early reader, would race */
    weft_chan *gate;
    bool naps;
    _Atomic(int) early, returned;
};
static void work(void *arg)
{
    struct job *j = arg;
    j->runs++;
    if (j->gate != NULL)
        cr_assert_eq(weft_chan_recv(j->gate, NULL), 0);
    if (j->naps)
        weft_sleep(MS / 10);
    j->value = 23;
}
static void call(void *arg)
{
    struct job *j = arg;
    cr_assert_eq(weft_once_do(&j->once, work, j), 0);
    if (j->value != 23)
        atomic_fetch_add(&j->early, 1);
    atomic_fetch_add(&j->returned, 1);
}
static void never(void *arg)
{
    (void)arg;
    cr_assert(false, "a second function ran");
}

Test(once, runs_the_first_function_only)
{
    struct job j = {.value = 0};
    cr_assert_eq(weft_once_do(&j.once, NULL, &j), -EINVAL);
    call(&j);
    cr_assert_eq(j.runs, 1);
    cr_assert_eq(weft_once_do(&j.once, never, NULL), 0);
    cr_assert_eq(weft_once_do(&j.once, NULL, NULL), -EINVAL);
    call(&j);
    cr_assert_eq(j.runs, 1);
}

BODY(waiters_body)
{
    struct job j = {.gate = weft_chan_new(0, 0)};
    weft_wg left = WEFT_WG_INIT;
    start(&left, 50, call, &j);
    settle();
    cr_assert_eq(j.runs, 1);
    cr_assert_eq(j.returned, 0, "all wait for the function, which is parked");
    cr_assert_eq(weft_chan_send(j.gate, NULL), 0);
    join(&left);
    cr_assert_eq(j.runs, 1);
    cr_assert_eq(j.returned, 50);
    cr_assert_eq(j.early, 0);
    weft_chan_release(j.gate);
    return 0;
}
Test(once, callers_wait_until_it_has_run)
{
    RUN(1, waiters_body);
}

static void race(int coros, int threads, bool naps)
{
    struct job j = {.naps = naps};
    weft_wg left = WEFT_WG_INIT;
    start_threads(&left, threads, call, &j);
    start(&left, coros, call, &j);
    join(&left);
    cr_assert_eq(j.runs, 1);
    cr_assert_eq(j.returned, coros + threads);
    cr_assert_eq(j.early, 0);
}
BODY(race_body)
{
    for (int i = 0; i < SCALE(2000); i++)
        race(8, 0, i % 2);
    for (int i = 0; i < SCALE(200); i++)
        race(4, 3, i % 2);
    return 0;
}
Test(once, coroutines_and_threads_race_for_it, .timeout = 120)
{
    RUN(4, race_body);
}
Test(once, threads_without_weft_run, .timeout = 60)
{
    for (int i = 0; i < SCALE(200); i++)
        race(0, 4, i % 2);
}
