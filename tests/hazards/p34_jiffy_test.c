/* H34: a period shorter than the kernel's tick loses nothing: the overrun is in the weight. */
#include "tests/profiler/collect/collect_check.h"
#include <stdlib.h>

static void measure(int hz)
{
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(hz), 0);
    int64_t before = check_clock(CLOCK_THREAD_CPUTIME_ID);
    check_burn(1200000000);
    int64_t used = check_clock(CLOCK_THREAD_CPUTIME_ID) - before;
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    cr_assert_eq(raw.period, 1000000000 / hz);
    /* 1 %, and what one period and one kernel tick (at most 10 ms) may leave open at the end */
    int64_t sum = check_sum(&raw, 1), allowed = used / 100 + raw.period + 10000000;
    cr_assert_leq(llabs(sum - used), allowed, "%d Hz: %ld of %ld", hz, (long)sum, (long)used);
    pf_raw_free(&raw);
}

Test(p34, weights_add_up_to_cpu_time, .timeout = 120)
{
    check_needs_prompt_signals();
    measure(100);
    measure(250);
    measure(1000);
}
