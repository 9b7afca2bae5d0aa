/* The contract of the backend: edges, tags, hang-ups, waits of the asked length, breaks. */
#include "runtime/rt_poll.h"
#include "tests/check.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>

static const int64_t ms = 1000000;

static void start(void)
{
    cr_assert_eq(rt_backend_init(), 0);
}

static void pair(int s[2])
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
}

/* Exactly one event, with this tag; its bits. */
static uint32_t one_event(uint64_t tag)
{
    rt_event e[RT_EV_BATCH];
    cr_assert_eq(rt_backend_wait(5000 * ms, e), 1);
    cr_assert_eq(e[0].tag, tag);
    return e[0].bits;
}

static int look(void)
{
    rt_event e[RT_EV_BATCH];
    return rt_backend_wait(0, e);
}

Test(poll_epoll, registers_once, .timeout = 30)
{
    int s[2];
    uint64_t tag = UINT64_C(0x1234567800000005);
    start();
    pair(s);
    cr_assert_eq(rt_backend_add(s[0], tag), 1);
    cr_assert_eq(one_event(tag), RT_EV_OUT, "what is ready at registration counts");
    cr_assert_eq(look(), 0, "an edge comes once");
    cr_assert_eq(rt_backend_add(s[0], 99), 0);
    cr_assert_eq(look(), 0, "asking again brings no event");
    cr_assert_eq(write(s[1], "x", 1), 1);
    cr_assert(one_event(tag) & RT_EV_IN, "the first tag stays");
    cr_assert_eq(look(), 0);
    cr_assert_eq(write(s[1], "x", 1), 1);
    cr_assert(one_event(tag) & RT_EV_IN, "more data is a new edge though none was read");
    rt_backend_del(s[0]);
    cr_assert_eq(write(s[1], "x", 1), 1);
    cr_assert_eq(look(), 0);
    cr_assert_eq(rt_backend_add(s[0], 7), 1, "registered anew after del");
}

Test(poll_epoll, refuses)
{
    char name[] = "/tmp/weft-poll-XXXXXX";
    start();
    int fd = mkstemp(name);
    cr_assert_geq(fd, 0);
    unlink(name);
    cr_assert_eq(rt_backend_add(fd, 1), -EPERM);
    cr_assert_eq(rt_backend_add(-1, 1), -EBADF);
    cr_assert_eq(rt_backend_add(1000, 1), -EBADF);
}

Test(poll_epoll, knows_a_reused_number)
{
    int s[2], again[2];
    start();
    pair(s);
    cr_assert_eq(rt_backend_add(s[0], 1), 1);
    int kept = dup(s[0]); /* keeps the old registration alive */
    close(s[0]);
    pair(again);
    cr_assert_eq(again[0], s[0]);
    cr_assert_eq(rt_backend_add(again[0], 2), 1);
    close(kept);
}

Test(poll_epoll, hangups_wake_all, .timeout = 30)
{
    int s[2], p[2];
    start();
    pair(s);
    rt_backend_add(s[0], 1);
    one_event(1);
    shutdown(s[1], SHUT_WR);
    cr_assert_eq(one_event(1) & (RT_EV_IN | RT_EV_ALL), RT_EV_IN, "half closed: readers only");
    close(s[1]);
    cr_assert_eq(one_event(1), RT_EV_IN | RT_EV_OUT | RT_EV_ALL);

    cr_assert_eq(pipe(p), 0);
    rt_backend_add(p[1], 2);
    one_event(2);
    close(p[0]);
    cr_assert_eq(one_event(2), RT_EV_IN | RT_EV_OUT | RT_EV_ALL, "a pipe's writer has ERR only");
}

Test(poll_epoll, waits_as_long_as_asked, .timeout = 30)
{
    rt_event e[RT_EV_BATCH];
    static const int64_t ns[] = {1, 200000, 1500000, 20000000};
    start();
    for (size_t i = 0; i < sizeof ns / sizeof ns[0]; i++) {
        int64_t before = weft_now();
        cr_assert_eq(rt_backend_wait(ns[i], e), 0);
        cr_assert_geq(weft_now() - before, ns[i]);
    }
}

Test(poll_epoll, finer_than_a_millisecond, .timeout = 30)
{
    rt_event e[RT_EV_BATCH];
    int64_t best = INT64_MAX;
    start();
    for (int i = 0; i < 100 && best > 600000; i++) {
        int64_t before = weft_now();
        rt_backend_wait(100000, e);
        if (weft_now() - before < best)
            best = weft_now() - before;
    }
    cr_assert_lt(best, 1000000, "100 us asked: the best of 100 waits took a millisecond");
}

Test(poll_epoll, a_break_waits_for_its_wait, .timeout = 30)
{
    rt_event e[RT_EV_BATCH];
    start();
    for (int i = 0; i < 10; i++)
        rt_backend_break();
    int64_t before = weft_now();
    cr_assert_eq(rt_backend_wait(-1, e), 0);
    cr_assert_eq(rt_backend_wait(20 * ms, e), 0);
    cr_assert_geq(weft_now() - before, 20 * ms, "ten breaks end one wait");
    for (int i = 0; i < 3; i++)
        cr_assert_eq(look(), 0);
    rt_backend_break();
    for (int i = 0; i < 3; i++)
        cr_assert_eq(look(), 0, "a look does not use a break up");
    cr_assert_eq(rt_backend_wait(-1, e), 0);
}

enum { BREAKS = 5000 };
static _Atomic(int) rounds, stop_looking;

static void *blocked_waits(void *arg)
{
    rt_event e[RT_EV_BATCH];
    (void)arg;
    while (atomic_load(&rounds) < BREAKS) {
        rt_backend_wait(-1, e);
        atomic_fetch_add(&rounds, 1);
    }
    return NULL;
}

static void *lookers(void *arg)
{
    (void)arg;
    while (!atomic_load(&stop_looking))
        look();
    return NULL;
}

/* Each break must end a wait though another thread takes edges away all the time. */
Test(poll_epoll, lookers_take_no_break_away, .timeout = 60)
{
    pthread_t waiter, looker;
    start();
    pthread_create(&looker, NULL, lookers, NULL);
    pthread_create(&waiter, NULL, blocked_waits, NULL);
    while (atomic_load(&rounds) < BREAKS) {
        int seen = atomic_load(&rounds);
        rt_backend_break();
        while (atomic_load(&rounds) == seen)
            sched_yield();
    }
    pthread_join(waiter, NULL);
    atomic_store(&stop_looking, 1);
    pthread_join(looker, NULL);
}

Test(poll_epoll, descriptors_do_not_survive_exec)
{
    start();
    int seen = 0;
    for (int fd = 3; fd < 64; fd++) {
        char link[64], to[64] = "";
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        if (readlink(link, to, sizeof to - 1) < 0 ||
            (!strstr(to, "eventpoll") && !strstr(to, "eventfd")))
            continue;
        seen++;
        cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC, "%s", to);
    }
    cr_assert_geq(seen, 2);
}
