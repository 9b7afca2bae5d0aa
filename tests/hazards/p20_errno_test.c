/* H20: the handler leaves errno alone. */
#include "tests/profiler/collect/collect_check.h"
#include <errno.h>

Test(p20, errno_survives_samples, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1000), 0);
    int64_t end = check_clock(CLOCK_THREAD_CPUTIME_ID) + 500000000;
    errno = 42;
    while (check_clock(CLOCK_THREAD_CPUTIME_ID) < end)
        for (int i = 0; i < 100000; i++) {
            check_sink++;
            cr_assert_eq(errno, 42);
        }
    cr_assert_eq(errno, 42);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    cr_assert_geq(check_sum(&raw, 1), 300000000);
    pf_raw_free(&raw);
}
