/* The scheduler's promises: everything runs, fairness (R12, R17), migration with errno intact (R1),
 * what a switch saves (R5), pinned coroutines (R2), ends, and the classic programs. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include <fenv.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic(long) ran;
static void count(void *arg)
{
    (void)arg;
    ran++;
}

BODY(all_run)
{
    for (int i = 0; i < SCALE(20000); i++) {
        cr_assert_eq(weft_go(count, NULL), 0);
        if (i % 100 == 0)
            weft_yield();
    }
    while (ran < SCALE(20000))
        weft_yield();
    return 0;
}
Test(sched, every_spawned_one_runs_1p, .timeout = 60)
{
    RUN(1, all_run);
}
Test(sched, every_spawned_one_runs_4p, .timeout = 60)
{
    RUN(4, all_run);
}

static _Atomic(int) stop, third_ran;
static weft_chan *ping, *pong;
static void pinger(void *arg)
{
    int v = 0;
    weft_chan *out = arg ? ping : pong, *in = arg ? pong : ping;
    if (arg)
        weft_chan_send(out, &v);
    while (!stop) {
        if (weft_chan_recv(in, &v) || weft_chan_send(out, &v))
            return;
    }
}
static void third(void *arg)
{
    (void)arg;
    third_ran = 1;
}
BODY(a_pair_and_a_third)
{
    ping = weft_chan_new(sizeof(int), 0);
    pong = weft_chan_new(sizeof(int), 0);
    weft_go(pinger, NULL);
    weft_go(pinger, &stop);
    weft_sleep(5 * MS);
    int64_t start_ns = weft_now();
    weft_go(third, NULL);
    while (!third_ran)
        weft_yield();
    cr_assert_lt(weft_now() - start_ns, 500 * MS, "a pair kept a third from running");
    stop = 1;
    weft_chan_close(ping);
    weft_chan_close(pong);
    return 0;
}
/* R12. The bound is generous for a loaded machine; without the cap it never ends. */
Test(sched, a_ping_pong_pair_does_not_own_its_p, .timeout = 60)
{
    RUN(1, a_pair_and_a_third);
}

static void local_producer(void *arg)
{
    (void)arg;
    while (!stop)
        weft_yield();
}
static void *inject(void *arg)
{
    (void)arg;
    weft_go(third, NULL); /* from a plain thread: the global queue */
    return NULL;
}
BODY(global_is_not_starved)
{
    weft_go(local_producer, NULL);
    weft_go(local_producer, NULL);
    weft_yield();
    pthread_t t;
    pthread_create(&t, NULL, inject, NULL);
    while (!third_ran)
        weft_yield();
    stop = 1;
    pthread_join(t, NULL);
    return 0;
}
/* R17 */
Test(sched, the_global_queue_is_not_starved, .timeout = 60)
{
    RUN(1, global_is_not_starved);
}

static _Atomic(long) migrated;
__attribute__((noinline)) static int *errno_address_elsewhere(void)
{
    __asm__ volatile("");
    return &errno;
}
static void migrant(void *arg)
{
    long mine = (long)(intptr_t)arg;
    pid_t tid = (pid_t)syscall(SYS_gettid);
    for (int i = 0; i < SCALE(20000); i++) {
        *errno_address_elsewhere() = (int)mine;
        weft_yield();
        cr_assert_eq(*errno_address_elsewhere(), (int)mine, "errno is the coroutine's");
        pid_t now = (pid_t)syscall(SYS_gettid);
        migrated += now != tid;
        tid = now;
    }
}
static weft_wg group;
static void migrant_counted(void *arg)
{
    migrant(arg);
    weft_wg_done(&group);
}
BODY(errno_travels)
{
    weft_wg_add(&group, 16);
    for (intptr_t i = 1; i <= 16; i++)
        weft_go(migrant_counted, (void *)i);
    weft_wg_wait(&group);
    return 0;
}
/* R1: without the save in rt_leave the value of whoever ran last on the thread is read. */
Test(sched, errno_travels_with_the_coroutine, .timeout = 60)
{
    RUN(4, errno_travels);
    cr_assert_gt(migrated, 0, "no coroutine changed threads: the test saw nothing");
}

static void rounding(void *arg)
{
    int mode = (int)(intptr_t)arg;
    fesetround(mode);
    volatile double one = 1, three = 3;
    volatile long double lone = 1, lthree = 3;
    double third_d = one / three;
    long double third_l = lone / lthree;
    for (int i = 0; i < 1000; i++) {
        weft_yield();
        cr_assert_eq(fegetround(), mode);
        cr_assert(one / three == third_d && lone / lthree == third_l, "rounding leaked");
    }
    weft_wg_done(&group);
}
BODY(rounding_modes)
{
    weft_wg_add(&group, 3);
    weft_go(rounding, (void *)(intptr_t)FE_UPWARD);
    weft_go(rounding, (void *)(intptr_t)FE_DOWNWARD);
    weft_go(rounding, (void *)(intptr_t)FE_TONEAREST);
    weft_wg_wait(&group);
    cr_assert_eq(fegetround(), FE_TONEAREST);
    return 0;
}
/* R5: MXCSR and the x87 control word are callee-saved. */
Test(sched, a_switch_keeps_rounding_modes)
{
    RUN(1, rounding_modes);
}

static __thread int tls_mark;
static void pinned(void *arg)
{
    pid_t tid = (pid_t)syscall(SYS_gettid);
    cr_assert_eq(tls_mark, 0, "a pinned coroutine's thread is new");
    tls_mark = 1;
    for (int i = 0; i < SCALE(1000); i++) {
        if (i % 2)
            weft_yield();
        else
            weft_sleep(1000);
        cr_assert_eq((pid_t)syscall(SYS_gettid), tid);
    }
    weft_wg_done(arg);
}
BODY(pins)
{
    weft_opts opts = WEFT_OPTS_INIT;
    opts.flags = WEFT_PINNED;
    weft_wg_add(&group, 6);
    for (int i = 0; i < 6; i++)
        cr_assert_eq(weft_go_opts(&opts, pinned, &group), 0);
    start(&group, 8, local_producer, NULL);
    weft_sleep(20 * MS);
    stop = 1;
    weft_wg_wait(&group);
    return 0;
}
/* R2 */
Test(sched, a_pinned_coroutine_never_changes_threads, .timeout = 120)
{
    RUN(2, pins);
}

struct child {
    weft_chan *out;
    long num, size;
};
static void skynet(void *arg)
{
    struct child me = *(struct child *)arg;
    free(arg);
    long sum = me.num;
    if (me.size > 1) {
        weft_chan *in = weft_chan_new(sizeof(long), 10);
        for (int i = 0; i < 10; i++) {
            struct child *c = malloc(sizeof *c);
            *c = (struct child){in, me.num + i * (me.size / 10), me.size / 10};
            cr_assert_eq(weft_go(skynet, c), 0);
        }
        sum = 0;
        for (int i = 0; i < 10; i++) {
            long v;
            cr_assert_eq(weft_chan_recv(in, &v), 0);
            sum += v;
        }
        weft_chan_release(in);
    }
    weft_chan_send(me.out, &sum);
}
static long skynet_size;
BODY(skynet_body)
{
    weft_chan *out = weft_chan_new(sizeof(long), 1);
    struct child *c = malloc(sizeof *c);
    *c = (struct child){out, 0, skynet_size};
    weft_go(skynet, c);
    long sum;
    weft_chan_recv(out, &sum);
    cr_assert_eq(sum, skynet_size * (skynet_size - 1) / 2);
    return 0;
}
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
/* 499999500000; under sanitizers fewer (gcc's libtsan holds about 8000 fibers). */
Test(sched, skynet_with_a_million, .timeout = 120)
{
    skynet_size = 1000000;
    RUN(2, skynet_body);
}
#endif
Test(sched, skynet_with_a_thousand, .timeout = 120)
{
    skynet_size = 1000;
    RUN(4, skynet_body);
}

struct stage {
    weft_chan *in, *out;
    int prime;
};
static void filter(void *arg)
{
    struct stage s = *(struct stage *)arg;
    free(arg);
    for (int v; weft_chan_recv(s.in, &v) == 0;)
        if (v % s.prime && weft_chan_send(s.out, &v))
            break;
}
static void numbers(void *arg)
{
    for (int i = 2; weft_chan_send(arg, &i) == 0; i++)
        ;
}
BODY(sieve)
{
    weft_chan *c = weft_chan_new(sizeof(int), 0);
    weft_go(numbers, c);
    int prime = 0;
    for (int i = 0; i < 200; i++) {
        weft_chan_recv(c, &prime);
        struct stage *s = malloc(sizeof *s);
        *s = (struct stage){c, weft_chan_new(sizeof(int), 0), prime};
        c = s->out;
        weft_go(filter, s);
    }
    cr_assert_eq(prime, 1223);
    return 0;
}
Test(sched, prime_sieve_finds_the_200th_prime, .timeout = 120)
{
    RUN(2, sieve);
}

static void leaves_early(void *arg)
{
    ran++;
    if (arg)
        weft_exit();
    ran += 1000000;
}
BODY(exits)
{
    weft_go(leaves_early, &ran);
    while (!ran)
        weft_yield();
    settle();
    cr_assert_eq(ran, 1);
    return 0;
}
Test(sched, exit_ends_the_calling_coroutine)
{
    RUN(1, exits);
}

BODY(ids)
{
    cr_assert_eq(weft_self(), 1u);
    return 0;
}
Test(sched, the_first_coroutine_is_number_one)
{
    cr_assert_eq(weft_self(), 0u);
    RUN(2, ids);
    cr_assert_eq(weft_self(), 0u);
}
