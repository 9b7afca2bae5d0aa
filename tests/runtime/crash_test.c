/* The deadlock report: seven of its eight situations (the one with a profile server running is in
 * tests/e2e). A deadlock is told in well under a second; where none may be told, the program ends
 * by itself after 300 ms with 0. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include "runtime/weft_net.h"
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char said[65536];

/* Runs body in a child; returns its exit status and reads what it wrote to stderr. */
static int in_child(int procs, int (*body)(int, char **))
{
    int fds[2], status;
    cr_assert_eq(pipe(fds), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(fds[1], 2);
        close(fds[0]);
        close(fds[1]);
        weft_procs(procs);
        _exit(weft_run(body, 0, NULL));
    }
    close(fds[1]);
    size_t n = 0;
    for (ssize_t r; (r = read(fds[0], said + n, sizeof said - 1 - n)) > 0;)
        n += (size_t)r;
    said[n] = 0;
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
}
static weft_chan *gate;
#if !defined(__SANITIZE_THREAD__) /* its runtime has a thread, which counts as foreign */
#define DEADLOCK "fatal error: all coroutines are asleep - deadlock!"
static void receives(void *arg)
{
    (void)arg;
    weft_chan_recv(gate, NULL);
}
BODY(all_on_channels)
{
    gate = weft_chan_new(0, 0);
    weft_opts opts = WEFT_OPTS_INIT;
    opts.name = "the-waiter";
    weft_go_opts(&opts, receives, NULL);
    weft_case none;
    weft_select(&none, 0);
    return 0;
}
Test(crash, all_on_channels_is_told, .timeout = 60)
{
    cr_assert_eq(in_child(2, all_on_channels), 2);
    cr_assert(strstr(said, DEADLOCK), "%s", said);
    cr_assert(strstr(said, "coroutine 1 [select (no cases)]:"), "%s", said);
    cr_assert(strstr(said, "[chan receive] the-waiter:"), "%s", said);
    cr_assert(strstr(said, "+0x"), "frames are module+offset: %s", said);
}

static void *plain_receiver(void *arg)
{
    receives(arg);
    return NULL;
}
BODY(all_and_a_thread_in_weft)
{
    pthread_t t;
    gate = weft_chan_new(0, 0);
    pthread_create(&t, NULL, plain_receiver, NULL);
    receives(NULL);
    return 0;
}
Test(crash, a_thread_that_waits_in_weft_does_not_hide_it, .timeout = 60)
{
    cr_assert_eq(in_child(2, all_and_a_thread_in_weft), 2);
    cr_assert(strstr(said, DEADLOCK), "%s", said);
}

#endif

/* The rest must stay silent. `waits` returns when somebody sends; else the child would hang. */
static void expect_silence(int (*body)(int, char **))
{
    cr_assert_eq(in_child(2, body), 0, "%s", said);
    cr_assert_str_eq(said, "");
}

BODY(a_sleeper)
{
    weft_sleep(300 * MS);
    return 0;
}
static void sleeps_then_sends(void *arg)
{
    (void)arg;
    weft_sleep(300 * MS);
    weft_chan_send(gate, NULL);
}
BODY(a_timer_pending)
{
    gate = weft_chan_new(0, 0);
    weft_go(sleeps_then_sends, NULL);
    return weft_chan_recv(gate, NULL);
}
Test(crash, a_sleeper_is_none, .timeout = 60)
{
    expect_silence(a_sleeper);
}
Test(crash, a_pending_timer_is_none, .timeout = 60)
{
    expect_silence(a_timer_pending);
}

static int fds[2];
static void *writes_later(void *arg)
{
    usleep(300000);
    return write(fds[1], "x", 1) == 1 ? arg : NULL;
}
BODY(a_netpoll_waiter)
{
    char c;
    cr_assert_eq(pipe(fds), 0);
    if (fork() == 0) { /* another process will write */
        writes_later(NULL);
        _exit(0);
    }
    return weft_read(fds[0], &c, 1) == 1 ? 0 : 1;
}
Test(crash, a_netpoll_waiter_is_none, .timeout = 60)
{
    expect_silence(a_netpoll_waiter);
}

static void *sends_later(void *arg)
{
    usleep(300000);
    weft_chan_send(gate, NULL);
    return arg;
}
BODY(a_foreign_thread)
{
    pthread_t t;
    gate = weft_chan_new(0, 0);
    pthread_create(&t, NULL, sends_later, NULL);
    pthread_detach(t);
    return weft_chan_recv(gate, NULL);
}
Test(crash, a_foreign_thread_that_may_send_is_none, .timeout = 60)
{
    expect_silence(a_foreign_thread);
}

static void blocks(void *arg)
{
    (void)arg;
    usleep(300000);
}
BODY(a_blocking_call)
{
    return weft_blocking(blocks, NULL);
}
Test(crash, a_blocking_call_is_none, .timeout = 60)
{
    expect_silence(a_blocking_call);
}

static void computes_then_sends(void *arg)
{
    (void)arg;
    for (int64_t end = weft_now() + 300 * MS; weft_now() < end;)
        ;
    weft_chan_send(gate, NULL);
}
BODY(a_pinned_one_computes)
{
    weft_opts opts = WEFT_OPTS_INIT;
    opts.flags = WEFT_PINNED;
    gate = weft_chan_new(0, 0);
    weft_go_opts(&opts, computes_then_sends, NULL);
    return weft_chan_recv(gate, NULL);
}
Test(crash, a_pinned_coroutine_that_computes_is_none, .timeout = 60)
{
    expect_silence(a_pinned_one_computes);
}

BODY(a_system_call)
{
    weft_syscall_enter();
    usleep(300000);
    weft_syscall_exit();
    return 0;
}
Test(crash, a_system_call_is_none, .timeout = 60)
{
    expect_silence(a_system_call);
}

BODY(computes_on_a_surplus_p)
{
    weft_procs(1); /* this coroutine may run on a P that is now too many */
    for (int64_t end = weft_now() + 150 * MS; weft_now() < end;)
        ;
    return 0;
}
static int after_a_spread(int argc, char **argv)
{
    weft_wg left = WEFT_WG_INIT;
    start(&left, 8, blocks, NULL); /* workers on all four Ps */
    for (int i = 0; i < 30; i++) {
        weft_procs(4);
        weft_sleep(MS);
        computes_on_a_surplus_p(argc, argv);
    }
    join(&left);
    return 0;
}
/* "All Ps idle" once meant nidle == nprocs, which a shrink makes true while a surplus P runs. */
Test(crash, a_shrink_beside_a_computing_coroutine_is_none, .timeout = 60)
{
    cr_assert_eq(in_child(4, after_a_spread), 0, "%s", said);
}

static weft_chan *there, *back;
static void *serves_ball(void *arg)
{
    int v = 0;
    for (int64_t end = weft_now() + 5000 * MS; weft_now() < end;) {
        weft_chan_send(there, &v);
        weft_chan_recv(back, &v);
    }
    weft_chan_close(there);
    weft_chan_send(gate, NULL);
    return arg;
}
static void *returns_ball(void *arg)
{
    for (int v; weft_chan_recv(there, &v) == 0;)
        weft_chan_send(back, &v);
    return arg;
}
BODY(two_threads_bounce)
{
    pthread_t t[2];
    gate = weft_chan_new(0, 0);
    there = weft_chan_new(sizeof(int), 0);
    back = weft_chan_new(sizeof(int), 0);
    pthread_create(&t[0], NULL, serves_ball, NULL);
    pthread_create(&t[1], NULL, returns_ball, NULL);
    weft_chan_recv(gate, NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    return 0;
}
/* A thread that was readied and has not run yet is no waiter. */
Test(crash, threads_that_wake_each_other_are_none, .timeout = 60)
{
    cr_assert_eq(in_child(2, two_threads_bounce), 0, "%s", said);
}
