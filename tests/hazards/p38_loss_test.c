/* H38: samples that find no room are counted, and the profile itself shows them. More ticks than
 * the buffer holds are forged here, faster than they are drained. */
#include "tests/profiler/collect/collect_check.h"
#include <signal.h>
#include <unistd.h>

/* As the kernel queues a tick of a timer of the first session, of no thread's meter. */
static void tick(int overrun)
{
    siginfo_t si;
    memset(&si, 0, sizeof(si));
    si.si_signo = SIGPROF;
    si.si_code = SI_TIMER;
    si.si_overrun = overrun;
    si.si_value.sival_ptr = (void *)(1ul << 32 | UINT32_MAX);
    int32_t tid = (int32_t)pf_syscall4(SYS_gettid, 0, 0, 0, 0);
    cr_assert_eq(pf_syscall4(SYS_rt_tgsigqueueinfo, getpid(), tid, SIGPROF, (long)&si), 0);
}

Test(p38, what_is_lost_is_shown, .timeout = 60)
{
    check_needs_prompt_signals();
    enum { TICKS = 200000 };
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1), 0);
    for (int i = 0; i < TICKS; i++)
        tick(2);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    int64_t shown = 0, sum = check_sum(&raw, 0);
    for (size_t i = 0; i < raw.nsamples; i++)
        if (raw.samples[i].npcs == 1 && raw.samples[i].pcs[0] == PF_LOST_FULL)
            shown += raw.samples[i].values[0];
    cr_assert_gt(shown, 0);
    cr_assert_eq(shown, raw.lost);
    cr_assert_geq(sum, 3 * TICKS); /* and a real tick or two */
    cr_assert_leq(sum, 3 * TICKS + 100);
    pf_raw_free(&raw);
}

/* A tick of a session that is over counts nowhere. */
Test(p38, old_ticks_are_dropped)
{
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1), 0);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    pf_raw_free(&raw);
    cr_assert_eq(pf_cpu_start(1), 0);
    for (int i = 0; i < 100; i++)
        tick(0);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    cr_assert_leq(check_sum(&raw, 0), 2);
    pf_raw_free(&raw);
}
