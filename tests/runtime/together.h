/* What the tests of channels, select and the locks share: bodies that run under weft_run, groups of
 * coroutines and threads, and waits for "the other one is parked" that look instead of sleeping. */
#ifndef WEFT_TESTS_TOGETHER_H
#define WEFT_TESTS_TOGETHER_H

#include "runtime/chan.h"
#include "runtime/weft.h"
#include "tests/check.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#if defined(__SANITIZE_THREAD__)
#define SCALE(n) ((n) / 20)
#elif defined(__SANITIZE_ADDRESS__)
#define SCALE(n) ((n) / 4)
#else
#define SCALE(n) (n)
#endif

#define MS ((int64_t)1000000)

/* Runs fn as the first coroutine on `procs` processors. */
#define RUN(procs, fn)                                                                             \
    do {                                                                                           \
        weft_procs(procs);                                                                         \
        cr_assert_eq(weft_run(fn, 0, NULL), 0, "weft_run");                                        \
    } while (0)
#define BODY(name)                                                                                 \
    static int name(int argc __attribute__((unused)), char **argv __attribute__((unused)))

/* With one processor: every other coroutine has run until it parked or yielded. */
__attribute__((unused)) static void settle(void)
{
    for (int i = 0; i < 100; i++)
        weft_yield();
}

__attribute__((unused)) static void await_recv_parked(weft_chan *c)
{
    while (!atomic_load(&c->has_recvs))
        weft_yield();
}
__attribute__((unused)) static void await_send_parked(weft_chan *c)
{
    while (!atomic_load(&c->has_sends))
        weft_yield();
}

/* n runs of fn(arg), as coroutines or threads, to be joined by all. */
typedef struct party {
    void (*fn)(void *);
    void *arg;
    weft_wg *left;
} party;
__attribute__((unused)) static void party_run(void *arg)
{
    party p = *(party *)arg;
    free(arg);
    p.fn(p.arg);
    weft_wg_done(p.left);
}
__attribute__((unused)) static void *party_thread(void *arg)
{
    party_run(arg);
    return NULL;
}
__attribute__((unused)) static party *party_new(weft_wg *left, void (*fn)(void *), void *arg)
{
    party *p = malloc(sizeof *p);
    *p = (party){fn, arg, left};
    weft_wg_add(left, 1);
    return p;
}
__attribute__((unused)) static void start(weft_wg *left, int n, void (*fn)(void *), void *arg)
{
    for (int i = 0; i < n; i++)
        cr_assert_eq(weft_go(party_run, party_new(left, fn, arg)), 0, "weft_go");
}
__attribute__((unused)) static void start_threads(weft_wg *left, int n, void (*fn)(void *),
                                                  void *arg)
{
    for (int i = 0; i < n; i++) {
        pthread_t t;
        cr_assert_eq(pthread_create(&t, NULL, party_thread, party_new(left, fn, arg)), 0,
                     "pthread_create");
        pthread_detach(t);
    }
}
__attribute__((unused)) static void join(weft_wg *left)
{
    cr_assert_eq(weft_wg_wait(left), 0, "join");
}

#endif
