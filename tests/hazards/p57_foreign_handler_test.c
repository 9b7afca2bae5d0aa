/* H57: SIGPROF belongs to the program already, or it takes it during a profile. */
#include "tests/profiler/collect/collect_check.h"
#include <errno.h>
#include <signal.h>
#include <unistd.h>

static _Atomic(int) theirs;

static void on_prof(int signo)
{
    (void)signo;
    theirs++;
}

Test(p57, a_handler_of_the_programs_own_stays)
{
    struct sigaction sa = {.sa_handler = on_prof}, now;
    pf_raw raw;
    sigaction(SIGPROF, &sa, NULL);
    cr_assert_eq(pf_cpu_start(100), -EEXIST);
    cr_assert_eq(pf_cpu_stop(&raw), -ENOENT);
    sigaction(SIGPROF, NULL, &now);
    cr_assert(now.sa_handler == on_prof);
    raise(SIGPROF);
    cr_assert_eq(theirs, 1);
    cr_assert_eq(pf_coroutine_source.snapshot(&raw), 0); /* works without it */
    pf_raw_free(&raw);
}

Test(p57, taken_during_a_profile, .timeout = 60)
{
    struct sigaction sa = {.sa_handler = on_prof, .sa_flags = SA_RESTART};
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1000), 0);
    check_burn(100000000);
    sigaction(SIGPROF, &sa, NULL);
    check_burn(100000000);
    int seen;
    do { /* until the timers are gone: a burn without a tick */
        seen = theirs;
        check_burn(300000000);
    } while (theirs != seen);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    cr_assert_geq(check_sum(&raw, 1), 50000000);
    pf_raw_free(&raw);
    cr_assert_eq(pf_cpu_start(100), -EEXIST);
}
