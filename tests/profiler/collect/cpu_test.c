/* The CPU profile: amounts, attribution, sessions. Amounts are compared with the threads' own CPU
 * clocks, so that a busy machine does not matter. */
#include "tests/profiler/collect/collect_check.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#define MS 1000000ll

CHECK_FRAME static void busy_a(int64_t ns)
{
    check_burn(ns);
    check_sink++;
}

CHECK_FRAME static void busy_b(int64_t ns)
{
    check_burn(ns);
    check_sink++;
}

/* Relative difference in tenths of a percent. */
static int64_t off_by(int64_t have, int64_t want)
{
    return llabs(have - want) * 1000 / want;
}

static void stop(pf_raw *raw)
{
    cr_assert_eq(pf_cpu_stop(raw), 0);
    cr_assert_eq(raw->lost, 0);
    for (size_t i = 0; i < raw->nsamples; i++)
        cr_assert_eq(raw->samples[i].values[1], raw->samples[i].values[0] * raw->period);
}

Test(cpu, one_thread_is_measured, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(0), 0);
    int64_t before = check_clock(CLOCK_THREAD_CPUTIME_ID);
    busy_a(1000 * MS);
    int64_t used = check_clock(CLOCK_THREAD_CPUTIME_ID) - before;
    stop(&raw);
    cr_assert_eq(raw.period, 10 * MS);
    cr_assert_geq(raw.duration_ns, used);
    cr_assert_leq(off_by(check_sum(&raw, 1), used), 30);
    cr_assert_geq(check_sum_in(&raw, "busy_a", 1) * 100, check_sum(&raw, 1) * 85);
    cr_assert(raw.samples[0].leaf_exact);
    cr_assert_geq(raw.nmodules, 3);
    pf_raw_free(&raw);
}

typedef struct share {
    pthread_t thread;
    void (*fn)(int64_t);
    int64_t ns, used;
    weft_chan *done;
} share;

static void burn_share(void *arg)
{
    share *s = arg;
    weft_label_set("share", s->fn == busy_a ? "a" : "b");
    int64_t before = check_clock(CLOCK_THREAD_CPUTIME_ID);
    s->fn(s->ns);
    s->used = check_clock(CLOCK_THREAD_CPUTIME_ID) - before;
    weft_chan_send(s->done, NULL);
}

static int two_coroutines(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *done = weft_chan_new(0, 0);
    share a = {.fn = busy_a, .ns = 1200 * MS, .done = done};
    share b = {.fn = busy_b, .ns = 600 * MS, .done = done};
    weft_go(burn_share, &a);
    weft_go(burn_share, &b);
    weft_chan_recv(done, NULL);
    weft_chan_recv(done, NULL);
    return 0;
}

Test(cpu, coroutines_share_as_they_burn, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    int64_t labelled[2] = {0};
    weft_procs(2);
    cr_assert_eq(pf_cpu_start(100), 0);
    cr_assert_eq(weft_run(two_coroutines, 0, NULL), 0);
    stop(&raw);
    int64_t a = check_sum_in(&raw, "busy_a", 0), b = check_sum_in(&raw, "busy_b", 0);
    cr_assert_gt(a + b, 0);
    int64_t percent = a * 100 / (a + b);
    cr_assert(percent >= 64 && percent <= 70, "%ld %ld", (long)a, (long)b);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const char *label = check_label(&raw.samples[i], "share");
        bool in_b = check_has_frame(raw.samples[i].pcs, raw.samples[i].npcs, "busy_b");
        bool in_a = check_has_frame(raw.samples[i].pcs, raw.samples[i].npcs, "busy_a");
        if (*label)
            labelled[*label == 'b'] += raw.samples[i].values[0];
        cr_assert(!in_a || *label == 'a');
        cr_assert(!in_b || *label == 'b');
    }
    cr_assert_geq(labelled[0], a);
    cr_assert_geq(labelled[1], b);
    pf_raw_free(&raw);
}

CHECK_FRAME static void in_pool(void *arg)
{
    (void)arg;
    busy_a(300 * MS);
    check_sink++;
}

CHECK_FRAME static void calls_pool(void *done)
{
    weft_label_set("route", "/blocking");
    weft_blocking(in_pool, NULL);
    check_sink++;
    weft_chan_send(done, NULL);
}

static int blocking(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *done = weft_chan_new(0, 0);
    weft_go(calls_pool, done);
    return weft_chan_recv(done, NULL);
}

Test(cpu, a_blocking_call_is_joined_with_its_coroutine, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    int64_t joined = 0;
    cr_assert_eq(pf_cpu_start(100), 0);
    cr_assert_eq(weft_run(blocking, 0, NULL), 0);
    stop(&raw);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        if (check_has_frame(s->pcs, s->npcs, "in_pool") &&
            check_has_frame(s->pcs, s->npcs, "calls_pool") &&
            !check_has_frame(s->pcs, s->npcs, "start_thread") &&
            !strcmp(check_label(s, "route"), "/blocking"))
            joined += s->values[0];
    }
    cr_assert_geq(joined * 100, check_sum(&raw, 0) * 80);
    pf_raw_free(&raw);
}

static void *burn_thread(void *arg)
{
    share *s = arg;
    int64_t before = check_clock(CLOCK_THREAD_CPUTIME_ID);
    s->fn(s->ns);
    s->used = check_clock(CLOCK_THREAD_CPUTIME_ID) - before;
    return NULL;
}

/* Threads that Weft has never heard of: some before the session, some born during it. */
Test(cpu, plain_threads_are_found, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    share s[4];
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            cr_assert_eq(pf_cpu_start(100), 0);
        s[i] = (share){.fn = busy_a, .ns = 600 * MS};
        cr_assert_eq(pthread_create(&s[i].thread, NULL, burn_thread, &s[i]), 0);
    }
    int64_t used = 0;
    for (int i = 0; i < 4; i++) {
        pthread_join(s[i].thread, NULL);
        used += s[i].used;
    }
    stop(&raw);
    /* A thread burns up to a sweep's distance (100 ms) before it is armed. */
    cr_assert_leq(check_sum(&raw, 1), used * 103 / 100);
    cr_assert_geq(check_sum(&raw, 1), used - 2 * 200 * MS - used / 20);
    bool no_stack = false;
    for (size_t i = 0; i < raw.nsamples; i++)
        no_stack |= raw.samples[i].npcs == 2 && raw.samples[i].pcs[1] == PF_NO_STACK;
    cr_assert(no_stack);
    pf_raw_free(&raw);
}

Test(cpu, an_idle_process_gives_an_empty_profile)
{
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(100), 0);
    usleep(200000);
    stop(&raw);
    cr_assert_leq(check_sum(&raw, 0), 1);
    cr_assert_gt(raw.duration_ns, 190 * MS);
    cr_assert_gt(raw.time_ns, 1500000000ll * 1000000000);
    pf_raw_free(&raw);
}

Test(cpu, one_session_at_a_time)
{
    pf_raw raw;
    cr_assert_eq(pf_cpu_stop(&raw), -ENOENT);
    cr_assert_eq(pf_cpu_start(-1), -EINVAL);
    cr_assert_eq(pf_cpu_start(1001), -EINVAL);
    cr_assert_eq(pf_cpu_start(1000), 0);
    cr_assert_eq(pf_cpu_start(100), -EBUSY);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    cr_assert_eq(raw.period, MS);
    pf_raw_free(&raw);
    cr_assert_eq(pf_cpu_stop(&raw), -ENOENT);
}

/* What one session saw is not in the next. */
Test(cpu, sessions_do_not_mix, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1000), 0);
    busy_a(100 * MS);
    stop(&raw);
    cr_assert_geq(check_sum_in(&raw, "busy_a", 1), 50 * MS);
    pf_raw_free(&raw);
    cr_assert_eq(pf_cpu_start(1000), 0);
    busy_b(100 * MS);
    stop(&raw);
    cr_assert_eq(check_sum_in(&raw, "busy_a", 1), 0);
    cr_assert_geq(check_sum_in(&raw, "busy_b", 1), 50 * MS);
    pf_raw_free(&raw);
}

static void *burn_quiet(void *arg)
{
    busy_b(200 * MS);
    return arg;
}

/* Belongs to the profiler for a part of its life only. */
static void *burn_both(void *used)
{
    pf_thread_quiet(true);
    busy_b(200 * MS);
    pf_thread_quiet(false);
    int64_t before = check_clock(CLOCK_THREAD_CPUTIME_ID);
    busy_a(100 * MS);
    *(int64_t *)used = check_clock(CLOCK_THREAD_CPUTIME_ID) - before;
    return NULL;
}

Test(cpu, the_profilers_threads_are_left_out, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    unsigned long t;
    cr_assert_eq(pf_cpu_start(1000), 0);
    cr_assert_eq(pf_thread_spawn(burn_quiet, NULL, &t), 0);
    pthread_join((pthread_t)t, NULL);
    pthread_t other;
    int64_t used = 0, mine = check_clock(CLOCK_THREAD_CPUTIME_ID);
    pthread_create(&other, NULL, burn_both, &used);
    pthread_join(other, NULL);
    used += check_clock(CLOCK_THREAD_CPUTIME_ID) - mine;
    pf_thread_quiet(true);
    busy_b(100 * MS);
    pf_thread_quiet(false);
    mine = check_clock(CLOCK_THREAD_CPUTIME_ID);
    busy_a(100 * MS);
    used += check_clock(CLOCK_THREAD_CPUTIME_ID) - mine;
    stop(&raw);
    cr_assert_eq(check_sum_in(&raw, "busy_b", 0), 0);
    cr_assert_geq(check_sum_in(&raw, "busy_a", 1), 100 * MS);
    cr_assert_leq(check_sum(&raw, 1), used + 20 * MS);
    pf_raw_free(&raw);
}

#if !defined(__SANITIZE_THREAD__) /* it allows no new threads after a fork */
/* A forked child is not profiled by its parent's session, and can have one of its own. */
Test(cpu, a_child_starts_afresh, .timeout = 60)
{
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1000), 0);
    busy_a(50 * MS);
    pid_t pid = fork();
    if (!pid) {
        if (pf_cpu_stop(&raw) != -ENOENT || pf_cpu_start(1000))
            _exit(1);
        busy_b(100 * MS);
        if (pf_cpu_stop(&raw) || check_sum_in(&raw, "busy_a", 0))
            _exit(2);
        _exit(check_sum_in(&raw, "busy_b", 1) >= 50 * MS ? 0 : 3);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    stop(&raw);
    cr_assert_eq(check_sum_in(&raw, "busy_b", 0), 0);
    pf_raw_free(&raw);
}
#endif
