/* Waiting for descriptors: one waiter and several, the end of a number's life, the scheduler. */
#include "runtime/rt_poll.h"
#include "runtime/weft_net.h"
#include "tests/runtime/together.h"
#include <fcntl.h>
#include <poll.h>
#include <sys/syscall.h>
#include <time.h>

static void pair(int s[2])
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
}

static void put(int fd, const char *text)
{
    cr_assert_eq(write(fd, text, strlen(text)), strlen(text));
}

/* Not weft_yield: while something is runnable, descriptors are looked at every 10 ms only. */
static void breathe(void)
{
    weft_sleep(10000);
}

static void await_parked(uint32_t n)
{
    while (rt_poll_waiters() != n)
        breathe();
}

static int64_t cpu_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

/* A wait for fd in a coroutine of its own. */
struct waiting {
    int fd;
    unsigned dirs;
    int64_t deadline;
    int result;
    _Atomic(int) wakes;
    _Atomic(bool) done;
};

static void wait_once(void *arg)
{
    struct waiting *w = arg;
    rt_poll_mark mark;
    rt_poll_begin(w->fd, &mark);
    do {
        w->result = 0;
        if (poll(&(struct pollfd){w->fd, POLLIN, 0}, 1, 0) > 0)
            break;
        w->result = rt_poll_wait(w->fd, w->dirs, &mark, w->deadline);
        atomic_fetch_add(&w->wakes, 1);
    } while (w->result == 0 && rt_poll_again(w->fd, &mark));
    rt_poll_pass(w->fd, w->dirs);
    atomic_store(&w->done, true);
}

static void until_done(struct waiting *w)
{
    while (!atomic_load(&w->done))
        breathe();
}

/* ---- one waiter ---- */

BODY(one_waiter)
{
    int s[2];
    rt_poll_mark mark;
    pair(s);
    rt_poll_begin(s[0], &mark);
    int r = rt_poll_wait(s[0], RT_POLL_IN, &mark, WEFT_FOREVER);
    cr_assert_eq(r, 0, "registered now, so try again");
    cr_assert(rt_poll_active());

    struct waiting w = {.fd = s[0], .dirs = RT_POLL_IN, .deadline = WEFT_FOREVER};
    cr_assert_eq(weft_go(wait_once, &w), 0);
    await_parked(1);
    cr_assert(!atomic_load(&w.done));
    put(s[1], "x");
    until_done(&w);
    cr_assert_eq(w.result, 0);
    cr_assert_eq(rt_poll_waiters(), 0);

    rt_poll_again(s[0], &mark);
    int64_t until = weft_now() + 20 * MS;
    do
        r = rt_poll_wait(s[0], RT_POLL_IN, &mark, until);
    while (r == 0 && rt_poll_again(s[0], &mark));
    cr_assert_eq(r, -ETIMEDOUT, "edges: unread data is no event");
    cr_assert_geq(weft_now(), until);
    cr_assert_eq(rt_poll_wait(s[0], RT_POLL_IN, &mark, 0), -ETIMEDOUT);
    cr_assert_eq(rt_poll_waiters(), 0);
    return 0;
}
Test(poll, one_waiter_one_proc, .timeout = 30)
{
    cr_assert(!rt_poll_active());
    RUN(1, one_waiter);
}
Test(poll, one_waiter_four_procs, .timeout = 30)
{
    RUN(4, one_waiter);
}

BODY(an_event_since_the_mark)
{
    int s[2];
    char c;
    rt_poll_mark mark;
    pair(s);
    for (int i = 0; i < 2; i++) { /* registers, and takes the first events in */
        rt_poll_begin(s[0], &mark);
        rt_poll_wait(s[0], RT_POLL_IN, &mark, weft_now() + 5 * MS);
    }
    for (int i = 0; i < SCALE(2000); i++) {
        rt_poll_begin(s[0], &mark);
        put(s[1], "x");
        cr_assert_eq(rt_poll_wait(s[0], RT_POLL_IN, &mark, WEFT_FOREVER), 0,
                     "the event came after the mark, whether collected or not");
        cr_assert_eq(read(s[0], &c, 1), 1);
    }
    return 0;
}
Test(poll, an_event_since_the_mark, .timeout = 60)
{
    RUN(2, an_event_since_the_mark);
}

/* Events between the kernel's registration and ours may be dropped: who tried before then tries
 * again. */
BODY(tried_before_the_registration)
{
    int s[2];
    rt_poll_mark first, second;
    pair(s);
    rt_poll_begin(s[0], &first);
    rt_poll_begin(s[0], &second);
    cr_assert_eq(rt_poll_wait(s[0], RT_POLL_IN, &first, WEFT_FOREVER), 0, "registers");
    cr_assert_eq(rt_poll_wait(s[0], RT_POLL_IN, &second, weft_now() + 50 * MS), 0);
    return 0;
}
Test(poll, tried_before_the_registration, .timeout = 30)
{
    RUN(2, tried_before_the_registration);
}

BODY(refusals)
{
    rt_poll_mark mark;
    rt_poll_begin(-1, &mark);
    cr_assert_eq(rt_poll_wait(-1, RT_POLL_IN, &mark, WEFT_FOREVER), -EBADF);
    rt_poll_begin(900, &mark);
    cr_assert_eq(rt_poll_wait(900, RT_POLL_IN, &mark, WEFT_FOREVER), -EBADF);
    rt_poll_begin(INT_MAX, &mark);
    cr_assert_eq(rt_poll_wait(INT_MAX, RT_POLL_IN, &mark, WEFT_FOREVER), -EBADF);
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    rt_poll_begin(fd, &mark);
    cr_assert_eq(rt_poll_wait(fd, RT_POLL_IN, &mark, WEFT_FOREVER), -EPERM);
    cr_assert_eq(rt_poll_close(fd), 0);
    cr_assert_eq(rt_poll_close(fd), -EBADF);
    cr_assert_eq(rt_poll_close(-1), -EBADF);
    cr_assert_eq(rt_poll_waiters(), 0);
    return 0;
}
Test(poll, refusals, .timeout = 30)
{
    RUN(2, refusals);
}

/* ---- several waiters for one direction ---- */

static _Atomic(int) eaten;
static int shared_fd;

static void eat(void *arg)
{
    char byte;
    (void)arg;
    while (weft_read(shared_fd, &byte, 1) == 1)
        atomic_fetch_add(&eaten, 1);
}

/* Bursts of bytes, one edge each or less, for eight readers of one byte: none is left lying. */
BODY(many_readers)
{
    int s[2], total = 0;
    weft_wg left = WEFT_WG_INIT;
    pair(s);
    shared_fd = s[0];
    start(&left, 8, eat, NULL);
    for (int i = 0; i < SCALE(2000); i++) {
        char burst[13] = "0123456789ab";
        size_t n = (size_t)(i % 13);
        if (i % 3 == 0)
            await_parked(8);
        cr_assert_eq(weft_write(s[1], burst, n), n);
        total += (int)n;
        while (i % 7 == 0 && atomic_load(&eaten) != total)
            breathe();
    }
    while (atomic_load(&eaten) != total)
        breathe();
    await_parked(8);
    weft_close(s[1]);
    join(&left);
    cr_assert_eq(rt_poll_waiters(), 0);
    return 0;
}
Test(poll, many_readers_one_proc, .timeout = 60)
{
    RUN(1, many_readers);
}
Test(poll, many_readers_four_procs, .timeout = 60)
{
    RUN(4, many_readers);
}

static void eat_one(void *arg)
{
    char byte;
    (void)arg;
    cr_assert_eq(weft_read(shared_fd, &byte, 1), 1);
}

/* One edge and three bytes: each reader that was woken takes one, and must pass the rest on. */
BODY(pass)
{
    int s[2];
    weft_wg left = WEFT_WG_INIT;
    pair(s);
    shared_fd = s[0];
    for (int i = 0; i < SCALE(1000); i++) {
        start(&left, 3, eat_one, NULL);
        await_parked(3);
        put(s[1], "abc");
        join(&left);
    }
    return 0;
}
Test(poll, pass, .timeout = 60)
{
    RUN(1, pass);
    RUN(3, pass);
}

/* A timeout in the middle of the queue takes nothing away from those behind it. */
BODY(timeouts_among_readers)
{
    int s[2];
    pair(s);
    for (int i = 0; i < SCALE(200); i++) {
        struct waiting w[3] = {
            {.fd = s[0], .dirs = RT_POLL_IN, .deadline = weft_now() + MS},
            {.fd = s[0], .dirs = RT_POLL_IN, .deadline = WEFT_FOREVER},
            {.fd = s[0], .dirs = RT_POLL_IN | RT_POLL_OUT, .deadline = weft_now() + 2 * MS}};
        char c;
        for (int k = 0; k < 3; k++)
            cr_assert_eq(weft_go(wait_once, &w[k]), 0);
        weft_sleep((i % 4) * MS);
        put(s[1], "x");
        until_done(&w[1]);
        cr_assert_eq(w[1].result, 0);
        until_done(&w[0]);
        until_done(&w[2]);
        cr_assert_eq(read(s[0], &c, 1), 1);
        cr_assert_eq(rt_poll_waiters(), 0);
    }
    return 0;
}
Test(poll, timeouts_among_readers, .timeout = 60)
{
    RUN(2, timeouts_among_readers);
}

/* ---- the end of a number's life ---- */

BODY(close_wakes_both)
{
    for (int i = 0; i < SCALE(300); i++) {
        int s[2];
        pair(s);
        struct waiting in = {.fd = s[0], .dirs = RT_POLL_IN, .deadline = WEFT_FOREVER};
        struct waiting out = {.fd = s[0], .dirs = RT_POLL_OUT, .deadline = WEFT_FOREVER};
        struct waiting both = {
            .fd = s[0], .dirs = RT_POLL_IN | RT_POLL_OUT, .deadline = weft_now() + 60000 * MS};
        char full[4096] = "";
        while (write(s[0], full, sizeof full) > 0)
            continue;
        cr_assert_eq(weft_go(wait_once, &in), 0);
        cr_assert_eq(weft_go(wait_once, &out), 0);
        cr_assert_eq(weft_go(wait_once, &both), 0);
        await_parked(3);
        cr_assert_eq(rt_poll_close(s[0]), 0);
        until_done(&in);
        until_done(&out);
        until_done(&both);
        cr_assert_eq(in.result, -EBADF);
        cr_assert_eq(out.result, -EBADF);
        cr_assert_eq(both.result, -EBADF);
        close(s[1]);
    }
    return 0;
}
Test(poll, close_wakes_both, .timeout = 60)
{
    RUN(2, close_wakes_both);
}

BODY(closed_between_try_and_wait)
{
    int s[2], again[2];
    rt_poll_mark mark;
    pair(s);
    rt_poll_begin(s[0], &mark);
    cr_assert_eq(rt_poll_close(s[0]), 0);
    pair(again);
    cr_assert_eq(again[0], s[0]);
    cr_assert_eq(rt_poll_wait(s[0], RT_POLL_IN, &mark, WEFT_FOREVER), -EBADF,
                 "a call of the old life never waits in the new one");
    cr_assert(!rt_poll_again(s[0], &mark));
    return 0;
}
Test(poll, closed_between_try_and_wait, .timeout = 30)
{
    RUN(2, closed_between_try_and_wait);
}

/* Events of the old life wait in the kernel's or the collector's hands while the number is reused.
 * */
BODY(stale_events)
{
    int other;
    for (int i = 0; i < SCALE(2000); i++) {
        int s[2], again[2];
        rt_poll_mark mark;
        pair(s);
        rt_poll_begin(s[0], &mark);
        rt_poll_wait(s[0], RT_POLL_IN, &mark, WEFT_FOREVER);
        other = dup(s[0]); /* its events go on */
        put(s[1], "old");
        cr_assert_eq(i % 2 ? rt_poll_close(s[0]) : close(s[0]), 0);
        pair(again);
        cr_assert_eq(again[0], s[0]);
        struct waiting w = {.fd = again[0], .dirs = RT_POLL_IN, .deadline = WEFT_FOREVER};
        cr_assert_eq(weft_go(wait_once, &w), 0);
        await_parked(1);
        int wakes = atomic_load(&w.wakes);
        put(s[1], "old");
        breathe();
        cr_assert_eq(atomic_load(&w.wakes), wakes, "an event of the old life woke the new one");
        put(again[1], "new");
        until_done(&w);
        cr_assert_eq(w.result, 0);
        close(other);
        close(s[1]);
        rt_poll_close(again[0]);
        close(again[1]);
    }
    return 0;
}
Test(poll, stale_events, .timeout = 60)
{
    RUN(2, stale_events);
}

/* Straight to the kernel: ThreadSanitizer calls a close beside a use of the number a race, and so
 * it is, but one that we must survive. */
static void close_unseen(int fd)
{
    cr_assert_eq(syscall(SYS_close, fd), 0);
}

/* close(2) does not tell us; the next wait for the number finds out. */
BODY(closed_behind_our_back)
{
    int s[2], again[2];
    pair(s);
    struct waiting old = {.fd = s[0], .dirs = RT_POLL_IN, .deadline = WEFT_FOREVER};
    struct waiting new = old;
    cr_assert_eq(weft_go(wait_once, &old), 0);
    await_parked(1);
    int kept = s[1];
    close_unseen(s[0]);
    pair(again);
    cr_assert_eq(again[0], s[0]);
    cr_assert_eq(weft_go(wait_once, &new), 0);
    until_done(&old);
    cr_assert_eq(old.result, -EBADF);
    await_parked(1);
    put(again[1], "x");
    until_done(&new);
    cr_assert_eq(new.result, 0);
    close(kept);
    return 0;
}
Test(poll, closed_behind_our_back, .timeout = 30)
{
    RUN(2, closed_behind_our_back);
}

/* Descriptors in all epoll sets of the process. */
static int registered(void)
{
    int n = 0;
    for (int fd = 3; fd < 64; fd++) {
        char path[64], line[256];
        snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
        FILE *f = fopen(path, "re");
        while (f && fgets(line, sizeof line, f))
            n += strncmp(line, "tfd:", 4) == 0;
        if (f)
            fclose(f);
    }
    return n;
}

BODY(dup_then_close)
{
    int s[2];
    char c;
    pair(s);
    struct waiting w = {.fd = s[0], .dirs = RT_POLL_IN, .deadline = weft_now() + 5 * MS};
    wait_once(&w);
    int kept = dup(s[0]), before = registered();
    cr_assert_eq(rt_poll_close(s[0]), 0);
    cr_assert_eq(registered(), before - 1, "the dup keeps no registration alive");
    struct waiting on = {.fd = kept, .dirs = RT_POLL_IN, .deadline = WEFT_FOREVER};
    cr_assert_eq(weft_go(wait_once, &on), 0);
    await_parked(1);
    int64_t cpu = cpu_now();
    weft_sleep(200 * MS);
    cr_assert_lt(cpu_now() - cpu, 100 * MS, "nothing happens, and nobody is busy with it");
    put(s[1], "x");
    until_done(&on);
    cr_assert_eq(read(kept, &c, 1), 1);
    return 0;
}
Test(poll, dup_then_close, .timeout = 30)
{
    RUN(2, dup_then_close);
}

/* ---- with the scheduler ---- */

static void long_sleep(void *arg)
{
    (void)arg;
    weft_sleep(20000 * MS);
}

static int late_fd;
static void *late_writer(void *arg)
{
    (void)arg;
    nanosleep(&(struct timespec){0, 100000000}, NULL);
    put(late_fd, "x");
    return NULL;
}

/* The worker that sleeps for a far timer must watch descriptors that come later. */
BODY(after_a_timer_sleeper)
{
    int s[2];
    char c;
    pthread_t t;
    pair(s);
    late_fd = s[1];
    for (int i = 0; i < 2; i++) { /* before and after the first registration */
        cr_assert_eq(weft_go(long_sleep, NULL), 0);
        nanosleep(&(struct timespec){0, 50000000}, NULL); /* keeps this P: another one sleeps */
        cr_assert_eq(pthread_create(&t, NULL, late_writer, NULL), 0);
        int64_t before = weft_now();
        cr_assert_eq(weft_read(s[0], &c, 1), 1);
        cr_assert_lt(weft_now() - before, 5000 * MS);
        pthread_join(t, NULL);
    }
    return 0;
}
Test(poll, after_a_timer_sleeper, .timeout = 60)
{
    RUN(2, after_a_timer_sleeper);
}

static int kept_fds[2];
static void read_for_ever(void *arg)
{
    char c;
    (void)arg;
    weft_read(kept_fds[0], &c, 1);
}
BODY(leaves_waiters)
{
    for (int i = 0; i < 3; i++)
        cr_assert_eq(weft_go(read_for_ever, NULL), 0);
    await_parked(3);
    return 0;
}
BODY(next_run)
{
    char c;
    weft_wg left = WEFT_WG_INIT;
    cr_assert_eq(rt_poll_waiters(), 0, "the abandoned are not counted");
    shared_fd = kept_fds[0];
    start(&left, 1, eat, NULL);
    await_parked(1);
    put(kept_fds[1], "x");
    while (atomic_load(&eaten) != 1)
        breathe();
    await_parked(1);
    cr_assert_eq(weft_close(kept_fds[0]), 0);
    join(&left);
    cr_assert_eq(read(kept_fds[0], &c, 1), -1);
    cr_assert_eq(rt_poll_waiters(), 0);
    return 0;
}
Test(poll, a_second_run, .timeout = 30)
{
    pair(kept_fds);
    RUN(2, leaves_waiters);
    cr_assert_eq(rt_poll_waiters(), 0);
    RUN(2, next_run);
}

/* The race of R37: the other side writes at any moment between a try and its park. */
enum { TURNS = 10000 };
static void *ping_thread(void *arg)
{
    int fd = *(int *)arg;
    char c;
    uint32_t seed = 1;
    for (int i = 0; i < SCALE(TURNS); i++) {
        if (weft_read(fd, &c, 1) != 1)
            return NULL;
        seed = seed * 1664525u + 1013904223u;
        for (uint32_t k = seed >> 22; k; k--)
            rt_pause();
        put(fd, "x");
    }
    return NULL;
}
BODY(events_while_parking)
{
    int s[2];
    char c;
    pthread_t t;
    pair(s);
    cr_assert_eq(pthread_create(&t, NULL, ping_thread, &s[1]), 0);
    for (int i = 0; i < SCALE(TURNS); i++) {
        put(s[0], "x");
        cr_assert_eq(weft_read(s[0], &c, 1), 1);
    }
    pthread_join(t, NULL);
    return 0;
}
Test(poll, events_while_parking, .timeout = 100)
{
    RUN(2, events_while_parking);
}
