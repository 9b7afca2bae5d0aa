/* The two doors for blocking calls: pool size and queueing (R19, R20), P hand-over, big stacks. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include <dirent.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static int threads(void)
{
    int n = 0;
    DIR *d = opendir("/proc/self/task");
    for (struct dirent *e; (e = readdir(d));)
        n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static int fds[2];
static _Atomic(int) got, most;
static void read_one(void *arg)
{
    char c;
    int n = threads();
    for (int old = most; n > old && !atomic_compare_exchange_weak(&most, &old, n);)
        ;
    *(ssize_t *)arg = read(fds[0], &c, 1);
}
static void reader(void *arg)
{
    (void)arg;
    ssize_t n = 0;
    cr_assert_eq(weft_blocking(read_one, &n), 0);
    cr_assert_eq(n, 1);
    got++;
}
enum { READERS = 1000 };
BODY(a_thousand_reads)
{
    weft_wg left = WEFT_WG_INIT;
    cr_assert_eq(pipe(fds), 0);
    start(&left, READERS, reader, NULL);
    while (threads() < 512) /* the P is free meanwhile, or this would not come back */
        weft_sleep(MS);
    cr_assert_eq(got, 0);
    for (int i = 0; i < READERS; i++)
        cr_assert_eq(write(fds[1], "x", 1), 1);
    join(&left);
    cr_assert_eq(got, READERS);
    return 0;
}
Test(block, a_thousand_blocking_reads_on_one_p, .timeout = 120)
{
    RUN(1, a_thousand_reads);
    cr_assert_leq(most, 512 + 20, "the pool is capped");
    cr_assert_gt(most, 400);
}

static void eat(void *arg)
{
    volatile char big[900 << 10];
    memset((void *)big, 1, sizeof big);
    *(int *)arg = big[sizeof big - 1];
}
BODY(big_stack)
{
    int one = 0;
    cr_assert_eq(weft_blocking(eat, &one), 0);
    cr_assert_eq(one, 1);
    cr_assert_eq(weft_blocking(NULL, NULL), -EINVAL);
    return 0;
}
Test(block, pool_threads_have_a_megabyte)
{
    RUN(1, big_stack);
}
Test(block, on_a_plain_thread_it_runs_in_place)
{
    int one = 0;
    cr_assert_eq(weft_blocking(eat, &one), 0);
    cr_assert_eq(one, 1);
}

static weft_chan *back;
static void sends(void *arg)
{
    int v = 5;
    cr_assert_eq(weft_self(), 0u, "a pool thread is a plain thread");
    cr_assert_eq(weft_chan_send(arg, &v), 0);
}
static void takes(void *arg)
{
    int v = 0;
    cr_assert_eq(weft_chan_recv(back, &v), 0);
    *(int *)arg = v;
}
BODY(uses_weft_inside)
{
    back = weft_chan_new(sizeof(int), 0);
    weft_wg left = WEFT_WG_INIT;
    int v = 0;
    start(&left, 1, takes, &v);
    cr_assert_eq(weft_blocking(sends, back), 0);
    join(&left);
    cr_assert_eq(v, 5);
    return 0;
}
Test(block, a_blocking_call_may_use_channels)
{
    RUN(1, uses_weft_inside);
}

static _Atomic(int) progressed;
static void other(void *arg)
{
    (void)arg;
    progressed = 1;
    cr_assert_eq(write(fds[1], "y", 1), 1);
}
BODY(p_is_retaken)
{
    char c;
    cr_assert_eq(pipe(fds), 0);
    weft_go(other, NULL);
    weft_syscall_enter();
    ssize_t n = read(fds[0], &c, 1); /* only `other` ends it, and there is one P */
    weft_syscall_exit();
    cr_assert_eq(n, 1);
    cr_assert_eq(progressed, 1);
    return 0;
}
Test(block, the_p_of_a_long_system_call_is_retaken, .timeout = 60)
{
    RUN(1, p_is_retaken);
}

/* Not inlined: a compiler keeps &errno over calls, also over one that changes threads. */
__attribute__((noinline)) static int *errno_here(void)
{
    __asm__ volatile("");
    return &errno;
}
static void in_and_out(void *arg)
{
    (void)arg;
    for (int i = 0; i < SCALE(5000); i++) {
        *errno_here() = 77;
        weft_syscall_enter();
        if (i % 50 == 0)
            usleep(100);
        weft_syscall_exit();
        cr_assert_eq(*errno_here(), 77);
        if (i % 10 == 0)
            weft_yield();
    }
    got++;
}
BODY(syscall_storm)
{
    weft_wg left = WEFT_WG_INIT;
    start(&left, 20, in_and_out, NULL);
    join(&left);
    cr_assert_eq(got, 20);
    cr_assert_eq(load_relaxed(&rt_sched.nsyscall), 0u);
    return 0;
}
/* R19: whoever lost its P in the kernel queues again, none is lost. */
Test(block, syscall_storm, .timeout = 120)
{
    RUN(2, syscall_storm);
}

static void reads_pair(void *arg)
{
    char c;
    *(ssize_t *)arg = read(fds[0], &c, 1);
}
static void writes_pair(void *arg)
{
    *(ssize_t *)arg = write(fds[1], "x", 1);
}
static void one_side(void *arg)
{
    ssize_t n = 0;
    cr_assert_eq(weft_blocking(arg ? reads_pair : writes_pair, &n), 0);
    cr_assert_eq(n, 1);
}
BODY(pairs)
{
    weft_wg left = WEFT_WG_INIT;
    int one;
    cr_assert_eq(pipe(fds), 0);
    weft_blocking(eat, &one); /* one thread, idle afterwards */
    usleep(20000);
    start(&left, 1, one_side, NULL);
    start(&left, 1, one_side, &one); /* the last spawned runs first: it reads */
    join(&left);
    return 0;
}
/* The first waits for the second: one idle thread must not be counted for both. */
Test(block, two_calls_that_need_each_other, .timeout = 60)
{
    RUN(1, pairs);
}

static void mask_is_open(void *arg)
{
    sigset_t now;
    pthread_sigmask(SIG_SETMASK, NULL, &now);
    cr_assert(!sigismember(&now, SIGPROF), "a worker is deaf to signals");
    usleep(2000);
    weft_wg_done(arg);
}
static void deaf(void *arg)
{
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, NULL);
    for (int i = 0; i < 50; i++) {
        weft_go(mask_is_open, arg); /* may start a worker from this thread */
        weft_sleep(100000);
    }
    weft_wg_done(arg);
}
BODY(masks)
{
    weft_wg left = WEFT_WG_INIT;
    weft_opts opts = WEFT_OPTS_INIT;
    opts.flags = WEFT_PINNED;
    weft_wg_add(&left, 51);
    weft_go_opts(&opts, deaf, &left);
    weft_wg_wait(&left);
    return 0;
}
/* R4: a worker has the mask of weft_run's caller, not that of who happened to start it. */
Test(block, workers_do_not_inherit_a_mask, .timeout = 60)
{
    RUN(4, masks);
}
