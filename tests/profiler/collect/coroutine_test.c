/* The goroutine profile: states, reasons, stacks, running ones, many. */
#include "tests/profiler/collect/collect_check.h"
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define MS 1000000ll

static pf_raw raw;
static int result;

static void take(void *arg)
{
    (void)arg;
    pf_tls.quiet = 1;
    result = pf_coroutine_source.snapshot(&raw);
    pf_tls.quiet = 0;
}

/* A snapshot is for plain threads only. */
static void snapshot(void)
{
    cr_assert_eq(weft_blocking(take, NULL), 0);
    cr_assert_eq(result, 0);
}

static const pf_sample *by_name(const char *name)
{
    for (size_t i = 0; i < raw.nsamples; i++)
        if (!strcmp(raw.samples[i].coro->name, name))
            return &raw.samples[i];
    return NULL;
}

static void go(const char *name, void (*fn)(void *), void *arg)
{
    weft_opts opts = WEFT_OPTS_INIT;
    opts.name = name;
    cr_assert_eq(weft_go_opts(&opts, fn, arg), 0);
}

CHECK_FRAME static void receives(void *chan)
{
    weft_label_set("route", "/r");
    weft_chan_recv(chan, NULL);
    check_sink++;
}

CHECK_FRAME static void sleeps(void *arg)
{
    (void)arg;
    weft_sleep(3600000 * MS);
    check_sink++;
}

static _Atomic(int) spinning, enough;

CHECK_FRAME static void spins(void *arg)
{
    (void)arg;
    weft_label_set("route", "/s");
    spinning++;
    while (!enough)
        check_sink++;
    spinning--;
}

CHECK_FRAME static void in_system_call(void *arg)
{
    int *pipe_ends = arg;
    char c;
    weft_syscall_enter();
    while (read(pipe_ends[0], &c, 1) < 0)
        check_sink++;
    weft_syscall_exit();
    check_sink++;
}

static void check_one(const char *name, const char *frame, weft_coro_state state,
                      weft_wait_reason reason)
{
    const pf_sample *s = by_name(name);
    cr_assert_not_null(s, "%s", name);
    cr_assert_eq(s->coro->state, state, "%s", name);
    cr_assert_eq(s->coro->reason, reason, "%s", name);
    if (CHECK_PROMPT_SIGNALS || state != WEFT_CORO_RUNNING)
        cr_assert(check_has_frame(s->pcs, s->npcs, frame), "%s", name);
    cr_assert_eq(s->values[0], 1);
    cr_assert_neq(s->coro->id, 0);
    cr_assert_neq(s->coro->fn, 0);
    cr_assert_neq(s->coro->creator_id, 0);
    cr_assert(check_has_frame(&s->coro->creator_pc, 1, "go") || s->coro->creator_pc);
}

static int states(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *chan = weft_chan_new(0, 0);
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    go("receiver", receives, chan);
    go("sleeper", sleeps, NULL);
    go("caller", in_system_call, ends);
    weft_sleep(150 * MS);
    go("spinner", spins, NULL);
    while (!spinning)
        weft_yield();
    snapshot();
    enough = 1;
    check_one("receiver", "receives", WEFT_CORO_WAITING, WEFT_WAIT_CHAN_RECV);
    check_one("sleeper", "sleeps", WEFT_CORO_WAITING, WEFT_WAIT_SLEEP);
    check_one("caller", "in_system_call", WEFT_CORO_SYSCALL, WEFT_WAIT_NONE);
    check_one("spinner", "spins", WEFT_CORO_RUNNING, WEFT_WAIT_NONE);
    cr_assert_str_eq(check_label(by_name("receiver"), "route"), "/r");
    if (CHECK_PROMPT_SIGNALS) {
        cr_assert_str_eq(check_label(by_name("spinner"), "route"), "/s");
        cr_assert(by_name("spinner")->leaf_exact && !by_name("receiver")->leaf_exact);
    }
    cr_assert_geq(by_name("receiver")->coro->age_ns, 100 * MS);
    cr_assert_leq(by_name("receiver")->coro->age_ns, 60000 * MS);
    cr_assert_eq(raw.count, (int64_t)raw.nsamples);
    cr_assert_eq(check_sum(&raw, 0), 5);
    pf_raw_free(&raw);
    cr_assert_eq(write(ends[1], "x", 1), 1);
    while (spinning)
        weft_yield();
    return 7;
}

Test(coroutine, states_reasons_stacks_labels, .timeout = 60)
{
    weft_procs(4);
    cr_assert_eq(weft_run(states, 0, NULL), 7);
}

static void never(void *arg)
{
    (void)arg;
}

static int not_started(int argc, char **argv)
{
    (void)argc, (void)argv;
    go("spinner", spins, NULL); /* takes the only P, until the other thread has looked */
    while (!enough)
        weft_yield();
    return 0;
}

static void *look_from_outside(void *arg)
{
    (void)arg;
    while (!spinning)
        usleep(1000);
    go("waiting for its turn", never, NULL);
    take(NULL);
    const pf_sample *s = by_name("waiting for its turn");
    cr_assert_eq(result, 0);
    cr_assert_not_null(s);
    cr_assert_eq(s->coro->state, WEFT_CORO_RUNNABLE);
    cr_assert_eq(s->npcs, 1);
    cr_assert_eq(s->pcs[0], (uintptr_t)&never);
    cr_assert(s->leaf_exact);
    pf_raw_free(&raw);
    enough = 1;
    return NULL;
}

Test(coroutine, one_that_has_not_run_shows_its_function, .timeout = 60)
{
    unsigned long t;
    weft_procs(1);
    cr_assert_eq(pf_thread_spawn(look_from_outside, NULL, &t), 0);
    cr_assert_eq(weft_run(not_started, 0, NULL), 0);
    while (!enough)
        usleep(1000);
}

/* Coroutines that run, park and end as fast as they can while they are looked at: no crash, no
 * duplicates, and stacks that have a root. */
static _Atomic(int) ended;

CHECK_FRAME static void echoes(void *chan)
{
    for (int i = 0; i < 3000; i++) {
        weft_chan_send(chan, NULL);
        weft_chan_recv(chan, NULL);
    }
    ended++;
}

static int compare_ids(const void *a, const void *b)
{
    uint64_t x = (*(const pf_sample *const *)a)->coro->id;
    uint64_t y = (*(const pf_sample *const *)b)->coro->id;
    return x < y ? -1 : x > y;
}

static int churn(int argc, char **argv)
{
    (void)argc, (void)argv;
    for (int i = 0; i < 16; i++) {
        weft_chan *chan = weft_chan_new(0, 1);
        go("echo", echoes, chan);
        go("echo", echoes, chan);
    }
    for (int round = 0; round < 100 && ended < 32; round++) {
        snapshot();
        const pf_sample **order = calloc(raw.nsamples, sizeof(*order));
        for (size_t i = 0; i < raw.nsamples; i++) {
            order[i] = &raw.samples[i];
            cr_assert_geq(raw.samples[i].npcs, 1);
        }
        qsort(order, raw.nsamples, sizeof(*order), compare_ids);
        for (size_t i = 1; i < raw.nsamples; i++)
            cr_assert_neq(order[i - 1]->coro->id, order[i]->coro->id);
        free(order);
        pf_raw_free(&raw);
    }
    while (ended < 32)
        weft_sleep(MS);
    return 0;
}

Test(coroutine, a_moving_target, .timeout = 120)
{
    weft_procs(2);
    cr_assert_eq(weft_run(churn, 0, NULL), 0);
}

#if defined(__SANITIZE_THREAD__)
enum { MANY = 1000 };
#else
enum { MANY = 20000 };
#endif

static int many(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *chan = weft_chan_new(0, 0);
    for (int i = 0; i < MANY; i++)
        go("many", receives, chan);
    do {
        weft_sleep(10 * MS);
        snapshot();
        /* The scheduler has a few ways to leave a coroutine, so there are a few stacks. */
        const uintptr_t *distinct[8];
        size_t parked = 0, n = 0;
        for (size_t i = 0; i < raw.nsamples; i++) {
            const pf_sample *s = &raw.samples[i];
            if (s->coro->state != WEFT_CORO_WAITING || s->coro->reason != WEFT_WAIT_CHAN_RECV)
                continue;
            parked++;
            size_t k = 0;
            while (k < n && distinct[k] != s->pcs)
                k++;
            cr_assert_lt(k, sizeof(distinct) / sizeof(*distinct));
            distinct[k] = s->pcs;
            n = k == n ? n + 1 : n;
        }
        cr_assert_eq(raw.nsamples, MANY + 1);
        pf_raw_free(&raw);
        if (parked == MANY)
            return 0;
    } while (true);
}

Test(coroutine, many_share_few_stacks, .timeout = 120)
{
    cr_assert_eq(weft_run(many, 0, NULL), 0);
}

/* A signal for a request that nobody waits for any more is ignored. */
Test(coroutine, late_signals_are_ignored)
{
    cr_assert_eq(pf_signal_ready(), 0);
    for (uintptr_t value = 0; value < 1000; value++) {
        union sigval v = {.sival_ptr = (void *)(value * 977)};
        cr_assert_eq(sigqueue(getpid(), SIGPROF, v), 0);
    }
    cr_assert_eq(pf_coroutine_source.snapshot(&raw), 0);
    cr_assert_eq(raw.nsamples, 0);
    pf_raw_free(&raw);
}
