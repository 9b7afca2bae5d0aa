/* How many Ps: defaults, the environment, resizing while running. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include <sched.h>

Test(proc, the_default_is_the_affinity_mask)
{
    cpu_set_t set;
    unsetenv("WEFT_PROCS");
    sched_getaffinity(0, sizeof set, &set);
    int n = weft_procs(0);
    cr_assert_geq(n, 1);
    cr_assert_leq(n, CPU_COUNT(&set));
}
Test(proc, the_environment_decides)
{
    setenv("WEFT_PROCS", "7", 1);
    cr_assert_eq(weft_procs(0), 7);
}
Test(proc, a_bad_environment_is_said_and_ignored)
{
    setenv("WEFT_PROCS", "seven", 1);
    int n = weft_procs(0);
    cr_assert_neq(n, 7);
    cr_assert_geq(n, 1);
}
Test(proc, setting_returns_the_previous)
{
    weft_procs(3);
    cr_assert_eq(weft_procs(5), 3);
    cr_assert_eq(weft_procs(-1), 5);
    cr_assert_eq(weft_procs(1000000), 5);
    cr_assert_eq(weft_procs(0), (int)RT_PROCS_MAX);
}

static _Atomic(int) stop;
static _Atomic(long) turns;
static void churn(void *arg)
{
    (void)arg;
    for (int i = 0; !stop; i++) {
        turns++;
        if (i % 100 == 0)
            weft_sleep(10000);
        else
            weft_yield();
    }
}
BODY(resizes)
{
    weft_wg left = WEFT_WG_INIT;
    start(&left, 50, churn, NULL);
    for (int i = 0; i < 300; i++) {
        weft_procs(1 + (i * 7) % 6);
        weft_sleep(200000);
    }
    stop = 1;
    join(&left); /* timers and queues of retired Ps were not lost (R43) */
    cr_assert_gt(turns, 1000);
    return 0;
}
Test(proc, resizing_under_load_loses_nothing, .timeout = 120)
{
    RUN(2, resizes);
}

static _Atomic(int) now_running, most;
static void overlap(void *arg)
{
    (void)arg;
    int n = ++now_running;
    for (int old = most; n > old && !atomic_compare_exchange_weak(&most, &old, n);)
        ;
    for (int64_t end = weft_now() + MS; weft_now() < end;)
        ;
    now_running--;
}
BODY(never_more_than_procs)
{
    weft_wg left = WEFT_WG_INIT;
    start(&left, 60, overlap, NULL);
    join(&left);
    return 0;
}
Test(proc, never_more_run_than_procs_says, .timeout = 60)
{
    RUN(2, never_more_than_procs);
    cr_assert_leq(most, 2);
}
