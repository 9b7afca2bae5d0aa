/* weft_run and weft_go: values, nesting, repetition, abandonment, spawns before and after. */
#include "tests/runtime/together.h"
#include <string.h>
#include <unistd.h>

static int seven(int argc, char **argv)
{
    cr_assert_eq(argc, 2);
    cr_assert_str_eq(argv[1], "x");
    return 7;
}
Test(run, passes_arguments_and_returns_the_value)
{
    char prog[] = "prog", x[] = "x", *args[] = {prog, x, NULL};
    cr_assert_eq(weft_run(seven, 2, args), 7);
}

static int inner(int argc, char **argv)
{
    (void)argc, (void)argv;
    return 1;
}
BODY(nests)
{
    cr_assert_eq(weft_run(inner, 0, NULL), 125);
    return 0;
}
Test(run, a_nested_call_gives_125)
{
    RUN(1, nests);
}
Test(run, no_function_gives_125)
{
    cr_assert_eq(weft_run(NULL, 0, NULL), 125);
}

static _Atomic(int) early;
static void mark(void *arg)
{
    early += (int)(intptr_t)arg;
}
BODY(waits_for_early)
{
    while (!early)
        weft_yield();
    return 0;
}
Test(run, a_spawn_before_it_is_queued)
{
    cr_assert_eq(weft_go(mark, (void *)1), 0);
    cr_assert_eq(early, 0);
    RUN(1, waits_for_early);
}

BODY(nothing)
{
    return 0;
}
Test(run, a_spawn_after_it_is_refused)
{
    RUN(1, nothing);
    cr_assert_eq(weft_go(mark, (void *)1), -ESHUTDOWN);
    RUN(1, nothing);
    cr_assert_eq(early, 0);
}

Test(run, bad_spawns)
{
    weft_opts opts = WEFT_OPTS_INIT;
    cr_assert_eq(weft_go(NULL, NULL), -EINVAL);
    opts.flags = 4;
    cr_assert_eq(weft_go_opts(&opts, mark, NULL), -EINVAL);
    opts.flags = 0;
    opts.stack_bytes = (size_t)1 << 31;
    cr_assert_eq(weft_go_opts(&opts, mark, NULL), -EINVAL);
}

static _Atomic(long) turns;
static void forever(void *arg)
{
    (void)arg;
    for (;;) {
        turns++;
        weft_yield();
    }
}
static weft_chan *gate;
static void parked(void *arg)
{
    (void)arg;
    weft_chan_recv(gate, NULL);
    early = 99;
}
static void sleeps(void *arg)
{
    (void)arg;
    weft_sleep(30 * MS);
    early = 98;
}
BODY(leaves_others)
{
    gate = weft_chan_new(0, 0);
    weft_go(forever, NULL);
    weft_go(parked, NULL);
    weft_go(sleeps, NULL);
    await_recv_parked(gate);
    while (turns < 10)
        weft_yield();
    return 3;
}
BODY(second)
{
    long before = turns;
    cr_assert_eq(weft_chan_try_send(gate, NULL), -EAGAIN, "an abandoned receiver took it");
    weft_sleep(60 * MS);
    cr_assert_eq(turns, before, "an abandoned coroutine ran");
    cr_assert_eq(early, 0, "an abandoned coroutine woke");
    return 4;
}
/* When fn returns no other coroutine runs again, and a later weft_run starts clean. */
Test(run, the_others_are_abandoned, .timeout = 60)
{
    weft_procs(2);
    cr_assert_eq(weft_run(leaves_others, 0, NULL), 3);
    struct timespec ts = {0, 20000000};
    nanosleep(&ts, NULL); /* one that was running has come to its next yield */
    cr_assert_eq(weft_run(second, 0, NULL), 4);
}

static int rounds;
BODY(one_round)
{
    weft_wg left = WEFT_WG_INIT;
    weft_wg_add(&left, 0);
    start(&left, 10, mark, (void *)1);
    join(&left);
    rounds++;
    return 0;
}
Test(run, may_be_repeated, .timeout = 60)
{
    for (int i = 0; i < 200; i++)
        RUN(1 + i % 3, one_round);
    cr_assert_eq(rounds, 200);
    cr_assert_eq(early, 2000);
}

static void quit(void *arg)
{
    (void)arg;
    exit(17);
}
BODY(exits_inside)
{
    weft_go(quit, NULL);
    weft_sleep(60000 * MS);
    return 0;
}
Test(run, exit_from_any_coroutine_is_legal, .exit_code = 17)
{
    RUN(2, exits_inside);
}

static pthread_t main_thread;
BODY(not_here)
{
    cr_assert(!pthread_equal(pthread_self(), main_thread));
    return 0;
}
Test(run, coroutines_never_run_on_the_calling_thread)
{
    main_thread = pthread_self();
    RUN(1, not_here);
}

Test(run, version_is_the_headers)
{
    cr_assert_str_eq(weft_version(), WEFT_VERSION);
}
