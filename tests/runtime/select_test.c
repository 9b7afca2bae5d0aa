/* runtime/select.c: each line of the select part of weft.h, what is left on the queues afterwards,
 * even choice by chi-square, "none ready" as one moment, and storms in both lock orders that must
 * balance (R22 to R25). */
#include "tests/runtime/together.h"

_Static_assert(sizeof(weft_case) == 40 && sizeof(((weft_case *)0)->spare) == 16, "fixed size");

static weft_chan *chan_of(size_t cap)
{
    return weft_chan_new(sizeof(long), cap);
}

/* ---- arguments ---- */

Test(select, wrong_arguments)
{
    long v = 1;
    weft_chan *c = chan_of(1);
    weft_case cs[] = {WEFT_SEND(c, &v), WEFT_SEND(c, &v)};
    cr_assert_eq(weft_try_select(cs, -1), -EINVAL);
    cr_assert_eq(weft_select(cs, -1), -EINVAL);
    cr_assert_eq(weft_select_dl(cs, 65536, 0), -EINVAL);
    cr_assert_eq(weft_try_select(NULL, 2), -EINVAL);
    cs[1].op = 2;
    cr_assert_eq(weft_try_select(cs, 2), -EINVAL);
    cs[1].op = -1;
    cr_assert_eq(weft_select(cs, 2), -EINVAL);
    cs[1].chan = NULL;
    cr_assert_eq(weft_select(cs, 2), -EINVAL, "also where there is no channel");
    cr_assert_eq(weft_chan_len(c), 0, "nothing was done");
    weft_chan_release(c);
}

static void no_cases(void)
{
    weft_case none[] = {WEFT_RECV(NULL, NULL), WEFT_SEND(NULL, NULL)};
    cr_assert_eq(weft_try_select(NULL, 0), -EAGAIN);
    cr_assert_eq(weft_try_select(none, 2), -EAGAIN);
    cr_assert_eq(weft_select_dl(none, 2, 0), -ETIMEDOUT);
    int64_t until = weft_now() + 2 * MS;
    cr_assert_eq(weft_select_dl(NULL, 0, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    until = weft_now() + 2 * MS;
    cr_assert_eq(weft_select_dl(none, 2, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
}
BODY(no_cases_body)
{
    no_cases();
    return 0;
}
Test(select, no_cases_on_a_coroutine)
{
    RUN(1, no_cases_body);
}
Test(select, no_cases_on_a_plain_thread)
{
    no_cases();
}

static void wait_for_ever(void *arg)
{
    *(int *)arg = 1;
    weft_select(NULL, 0);
    *(int *)arg = 2;
}
BODY(for_ever_body)
{
    static int stage;
    cr_assert_eq(weft_go(wait_for_ever, &stage), 0);
    settle();
    cr_assert_eq(stage, 1);
    weft_sleep(5 * MS);
    cr_assert_eq(stage, 1);
    return 0;
}
Test(select, no_cases_waits_for_ever)
{
    RUN(1, for_ever_body);
}

/* ---- what is ready ---- */

Test(select, one_ready_case_is_done_and_named)
{
    long v = 5, got = -1;
    weft_chan *a = chan_of(1), *b = chan_of(1);
    weft_chan_send(b, &v);
    weft_case cs[] = {WEFT_RECV(a, &got), WEFT_RECV(NULL, NULL), WEFT_RECV(b, &got)};
    cs[2].result = 77;
    cr_assert_eq(weft_select(cs, 3), 2);
    cr_assert_eq(cs[2].result, 0);
    cr_assert_eq(got, 5);
    cr_assert_eq(weft_try_select(cs, 3), -EAGAIN);
    cr_assert_eq(weft_select_dl(cs, 3, 0), -ETIMEDOUT);
    weft_case put[] = {WEFT_SEND(a, &v), WEFT_RECV(b, &got)};
    cr_assert_eq(weft_select_dl(put, 2, 0), 0, "ready goes before the deadline");
    cr_assert_eq(weft_try_select(put, 2), -EAGAIN, "a is full now, b empty");
    cr_assert_eq(weft_chan_len(a), 1);
    weft_chan_release(a);
    weft_chan_release(b);
}

Test(select, one_case_is_a_plain_operation)
{
    long v = 5, got = -1;
    weft_chan *a = chan_of(1);
    weft_case recv[] = {WEFT_RECV(a, &got)}, send[] = {WEFT_SEND(a, &v)};
    cr_assert_eq(weft_try_select(recv, 1), -EAGAIN);
    cr_assert_eq(weft_select_dl(recv, 1, weft_now() + MS), -ETIMEDOUT);
    cr_assert_eq(weft_select(send, 1), 0);
    cr_assert_eq(weft_try_select(send, 1), -EAGAIN);
    cr_assert_eq(weft_select_dl(send, 1, 0), -ETIMEDOUT);
    cr_assert_eq(weft_select(recv, 1), 0);
    cr_assert_eq(got, 5);
    weft_chan_close(a);
    cr_assert_eq(weft_select(recv, 1), 0);
    cr_assert_eq(recv[0].result, -EPIPE);
    cr_assert_eq(got, 0);
    cr_assert_eq(weft_try_select(send, 1), 0);
    cr_assert_eq(send[0].result, -EPIPE);
    weft_chan_release(a);
}

Test(select, a_closed_channel_is_ready_both_ways)
{
    long v = 5, got = -1;
    weft_chan *a = chan_of(0), *b = chan_of(1);
    weft_chan_send(b, &v);
    weft_chan_close(b);
    weft_case recv[] = {WEFT_RECV(a, &got), WEFT_RECV(b, &got)};
    weft_case send[] = {WEFT_RECV(a, &got), WEFT_SEND(b, &v)};
    cr_assert_eq(weft_try_select(send, 2), 1);
    cr_assert_eq(send[1].result, -EPIPE);
    cr_assert_eq(v, 5);
    cr_assert_eq(weft_select(recv, 2), 1, "the rest is drained first");
    cr_assert_eq(recv[1].result, 0);
    cr_assert_eq(got, 5);
    cr_assert_eq(weft_select(recv, 2), 1);
    cr_assert_eq(recv[1].result, -EPIPE);
    cr_assert_eq(got, 0);
    weft_chan_release(a);
    weft_chan_release(b);
}

/* ---- parked, then woken ---- */

struct waiting {
    weft_case cs[3];
    int index;
    int64_t deadline;
    bool back;
};
static void select_and_say(void *arg)
{
    struct waiting *w = arg;
    w->index = weft_select_dl(w->cs, 3, w->deadline);
    w->back = true;
}
static void woken_by(int64_t deadline)
{
    weft_chan *a = chan_of(0), *b = chan_of(1), *c = chan_of(0);
    long out = 31, got = -1, v = 30;
    weft_chan_send(b, &v);
    for (int which = 0; which < 4; which++) {
        struct waiting w = {.cs = {WEFT_RECV(a, &got), WEFT_SEND(b, &out), WEFT_RECV(c, &got)},
                            .deadline = deadline};
        weft_wg left = WEFT_WG_INIT;
        got = -1;
        start(&left, 1, select_and_say, &w);
        settle();
        cr_assert(!w.back, "nothing was ready");
        if (which == 0) {
            v = 7;
            cr_assert_eq(weft_chan_try_send(a, &v), 0);
        } else if (which == 1) {
            cr_assert_eq(weft_chan_try_recv(b, &v), 0);
            cr_assert_eq(v, 30);
            cr_assert_eq(weft_chan_len(b), 1, "the parked send went in behind");
        } else {
            cr_assert_eq(weft_chan_close(which == 2 ? c : a), 0);
        }
        join(&left);
        cr_assert_eq(w.index, which == 3 ? 0 : which);
        cr_assert_eq(w.cs[w.index].result, which >= 2 ? -EPIPE : 0);
        cr_assert_eq(got, which == 0 ? 7 : which >= 2 ? 0 : -1);
        /* The others are off their queues: nobody there to serve. */
        cr_assert(a->recvq.head == NULL && b->sendq.head == NULL && c->recvq.head == NULL);
        if (which < 2)
            cr_assert_eq(weft_chan_try_send(c, &v), -EAGAIN);
        if (which == 2) { /* a fresh c, so that only a can wake the last one */
            weft_chan_release(c);
            c = chan_of(0);
        }
        if (which == 1)
            cr_assert_eq(weft_chan_try_recv(b, &v) == 0 && v == 31, 1);
        if (which == 1)
            cr_assert_eq(weft_chan_try_send(b, &v), 0);
    }
    weft_chan_release(a);
    weft_chan_release(b);
    weft_chan_release(c);
}
BODY(woken_body)
{
    woken_by(WEFT_FOREVER);
    woken_by(weft_now() + 600000 * MS);
    return 0;
}
Test(select, a_parked_select_is_woken_by_each_of_its_cases)
{
    RUN(1, woken_body);
}

static void timed_out(void)
{
    weft_chan *a = chan_of(0), *b = chan_of(1);
    long v = 1, got = -1;
    weft_chan_send(b, &v);
    weft_case cs[] = {WEFT_RECV(a, &got), WEFT_SEND(b, &v), WEFT_SEND(a, &v)};
    int64_t until = weft_now() + 2 * MS;
    cr_assert_eq(weft_select_dl(cs, 3, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    cr_assert(a->recvq.head == NULL && a->sendq.head == NULL && b->sendq.head == NULL);
    cr_assert_eq(weft_chan_try_send(a, &v), -EAGAIN);
    cr_assert_eq(weft_chan_try_recv(a, &got), -EAGAIN);
    cr_assert_eq(weft_chan_len(b), 1);
    cr_assert_eq(got, -1);
    weft_chan_release(a);
    weft_chan_release(b);
}
BODY(timed_out_body)
{
    timed_out();
    return 0;
}
Test(select, a_timeout_leaves_nothing_behind_on_a_coroutine)
{
    RUN(1, timed_out_body);
}
Test(select, a_timeout_leaves_nothing_behind_on_a_plain_thread)
{
    timed_out();
}

/* ---- one channel many times ---- */

BODY(twice_body)
{
    weft_chan *c = chan_of(0);
    long got = -1, v = 6;
    struct waiting w = {.cs = {WEFT_RECV(c, &got), WEFT_RECV(c, &got), WEFT_RECV(c, &got)},
                        .deadline = WEFT_FOREVER};
    weft_wg left = WEFT_WG_INIT;
    start(&left, 1, select_and_say, &w);
    settle();
    cr_assert_eq(weft_chan_try_send(c, &v), 0);
    cr_assert_eq(weft_chan_try_send(c, &v), -EAGAIN, "three cases, but one receiver");
    join(&left);
    cr_assert(w.index >= 0 && w.index < 3);
    cr_assert_eq(got, 6);
    cr_assert_null(c->recvq.head);
    weft_chan_release(c);
    return 0;
}
Test(select, the_same_channel_in_several_cases)
{
    RUN(1, twice_body);
}

static void meets_nobody(void)
{
    weft_chan *c = chan_of(0);
    long in = -1, out = 4;
    weft_case cs[] = {WEFT_SEND(c, &out), WEFT_RECV(c, &in)};
    cr_assert_eq(weft_try_select(cs, 2), -EAGAIN);
    cr_assert_eq(weft_select_dl(cs, 2, weft_now() + MS), -ETIMEDOUT);
    cr_assert_eq(in, -1);
    weft_chan_release(c);
}
BODY(meets_nobody_body)
{
    meets_nobody();
    return 0;
}
Test(select, send_and_receive_of_one_select_do_not_meet)
{
    meets_nobody();
    RUN(1, meets_nobody_body);
}

struct both {
    weft_chan *c;
    int rounds;
    _Atomic(long) sent, received, nsent, nreceived;
};
static void send_or_receive(void *arg)
{
    struct both *b = arg;
    long in, out = 0;
    for (int i = 0; i < b->rounds; i++) {
        out = i + 1;
        weft_case cs[] = {WEFT_SEND(b->c, &out), WEFT_RECV(b->c, &in)};
        int r = weft_select_dl(cs, 2, weft_now() + 600000 * MS);
        if (cs[r].result == -EPIPE)
            return;
        cr_assert(r == 0 || r == 1, "select: %d", r);
        atomic_fetch_add(r == 0 ? &b->nsent : &b->nreceived, 1);
        atomic_fetch_add(r == 0 ? &b->sent : &b->received, r == 0 ? out : in);
        if (atomic_load(&b->nsent) + atomic_load(&b->nreceived) >= b->rounds)
            weft_chan_close(b->c);
    }
}
static void both_ways(int threads)
{
    struct both b = {.c = chan_of(0), .rounds = SCALE(threads ? 4000 : 40000)};
    weft_wg left = WEFT_WG_INIT;
    start(&left, 6, send_or_receive, &b);
    start_threads(&left, threads, send_or_receive, &b);
    join(&left);
    cr_assert_eq(b.nsent, b.nreceived);
    cr_assert_eq(b.sent, b.received);
    weft_chan_release(b.c);
}
BODY(both_ways_body)
{
    both_ways(0);
    both_ways(2);
    return 0;
}
Test(select, selects_in_both_directions_pair_up_once, .timeout = 120)
{
    RUN(4, both_ways_body);
}

/* ---- numbers of cases ---- */

static void many(int n, int ready)
{
    weft_case *cs = calloc((size_t)n, sizeof *cs);
    weft_chan **c = calloc((size_t)n, sizeof *c);
    long v = 3, got = 0;
    for (int i = 0; i < n; i++) {
        c[i] = chan_of(1);
        cs[i] = (weft_case)WEFT_RECV(c[i], &got);
    }
    cr_assert_eq(weft_try_select(cs, n), -EAGAIN);
    cr_assert_eq(weft_select_dl(cs, n, weft_now() + MS), -ETIMEDOUT);
    weft_chan_send(c[ready], &v);
    cr_assert_eq(weft_select(cs, n), ready);
    cr_assert_eq(got, 3);
    for (int i = 0; i < n; i++) {
        cr_assert_null(c[i]->recvq.head);
        weft_chan_release(c[i]);
    }
    free(c);
    free(cs);
}
BODY(many_body)
{
    static const int sizes[] = {2, 3, 8, 63, 64, 65, 100, 1000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int at = 0; at < 3; at++)
            many(sizes[i], at == 0 ? 0 : at == 1 ? sizes[i] / 2 : sizes[i] - 1);
    return 0;
}
Test(select, from_2_to_1000_cases, .timeout = 60)
{
    RUN(2, many_body);
}

Test(select, the_most_cases, .timeout = 60)
{
    enum { N = 65535 };
    weft_case *cs = calloc(N, sizeof *cs);
    weft_chan *c[3] = {chan_of(1), chan_of(1), chan_of(1)};
    long v = 3, got = 0;
    for (int i = 0; i < N; i++)
        cs[i] = (weft_case)WEFT_RECV(c[i % 2], &got);
    cs[N - 1].chan = c[2];
    cr_assert_eq(weft_try_select(cs, N), -EAGAIN);
    weft_chan_send(c[2], &v);
    cr_assert_eq(weft_select(cs, N), N - 1);
    cr_assert_eq(got, 3);
    for (int i = 0; i < 3; i++)
        weft_chan_release(c[i]);
    free(cs);
}

/* ---- fairness ---- */

/* Chi-square of n counts that should be even. */
static double chi_square(const long *count, int n)
{
    double total = 0, sum = 0;
    for (int i = 0; i < n; i++)
        total += (double)count[i];
    for (int i = 0; i < n; i++) {
        double d = (double)count[i] - total / n;
        sum += d * d / (total / n);
    }
    return sum;
}
/* Passed once in a million times by chance: 3 degrees of freedom 30.7, 4 33.4, 65 139. */

BODY(fair_body)
{
    weft_chan *c[6];
    weft_case cs[6];
    long count[6] = {0}, v = 0, got;
    for (int i = 0; i < 6; i++) { /* 1 and 4 are never ready */
        c[i] = chan_of(1);
        cs[i] = (weft_case)WEFT_RECV(c[i], &got);
        if (i != 1 && i != 4)
            weft_chan_send(c[i], &v);
    }
    for (int i = 0; i < SCALE(1000000); i++) {
        int r = weft_select(cs, 6);
        count[r]++;
        weft_chan_send(c[r], &v);
    }
    cr_assert_eq(count[1] + count[4], 0);
    long ready[4] = {count[0], count[2], count[3], count[5]};
    cr_assert(chi_square(ready, 4) < 30.7, "%ld %ld %ld %ld", ready[0], ready[1], ready[2],
              ready[3]);
    for (int i = 0; i < 6; i++)
        weft_chan_release(c[i]);
    return 0;
}
Test(select, a_million_choices_among_ready_cases_are_even, .timeout = 120)
{
    RUN(1, fair_body);
}

/* More than 64 cases take the shuffled walk under all locks. */
Test(select, choices_by_the_shuffled_walk_are_even, .timeout = 120)
{
    enum { N = 66 };
    weft_chan *c[N];
    weft_case cs[N];
    long count[N] = {0}, v = 0, got;
    for (int i = 0; i < N; i++) {
        c[i] = chan_of(1);
        cs[i] = (weft_case)WEFT_RECV(c[i], &got);
        weft_chan_send(c[i], &v);
    }
    for (int i = 0; i < SCALE(100000); i++) {
        int r = weft_try_select(cs, N);
        count[r]++;
        weft_chan_send(c[r], &v);
    }
    cr_assert(chi_square(count, N) < 139, "chi-square %f", chi_square(count, N));
    for (int i = 0; i < N; i++)
        weft_chan_release(c[i]);
}

Test(select, first_choices_on_fresh_channels_are_even, .timeout = 120)
{
    long count[5] = {0}, v = 0, got;
    for (int turn = 0; turn < SCALE(100000); turn++) {
        weft_chan *c[5];
        weft_case cs[5];
        for (int i = 0; i < 5; i++) {
            c[i] = chan_of(1);
            cs[i] = (weft_case)WEFT_RECV(c[i], &got);
            weft_chan_send(c[i], &v);
        }
        count[weft_select(cs, 5)]++;
        for (int i = 0; i < 5; i++)
            weft_chan_release(c[i]);
    }
    cr_assert(chi_square(count, 5) < 33.4, "%ld %ld %ld %ld %ld", count[0], count[1], count[2],
              count[3], count[4]);
}

/* ---- "none is ready" is said of one moment ---- */

enum { TOKEN_CASES = 48 };
struct token {
    weft_chan *c[TOKEN_CASES]; /* the token is in the first or the last, the others stay empty */
    _Atomic(bool) over;
};
/* Puts a second token down before it takes the first up: at each moment one channel has one. */
static void move_token(void *arg)
{
    struct token *t = arg;
    weft_chan *a = t->c[0], *b = t->c[TOKEN_CASES - 1];
    long v = 1;
    for (int i = 0; !atomic_load(&t->over); i++) {
        weft_chan_send(i % 2 ? a : b, &v);
        weft_chan_recv(i % 2 ? b : a, &v);
    }
}
BODY(token_body)
{
    struct token t = {.over = false};
    weft_case cs[TOKEN_CASES];
    long v = 1;
    for (int i = 0; i < TOKEN_CASES; i++) {
        t.c[i] = chan_of(4);
        cs[i] = (weft_case)WEFT_RECV(t.c[i], &v);
    }
    weft_chan_send(t.c[0], &v);
    weft_wg left = WEFT_WG_INIT;
    start_threads(&left, 1, move_token, &t);
    for (int i = 0; i < SCALE(200000); i++) {
        int r = weft_try_select(cs, TOKEN_CASES);
        cr_assert(r >= 0, "there was always a token: %d", r);
        weft_chan_send(t.c[r], &v);
    }
    atomic_store(&t.over, true);
    join(&left);
    for (int i = 0; i < TOKEN_CASES; i++)
        weft_chan_release(t.c[i]);
    return 0;
}
Test(select, try_select_looks_at_all_channels_at_once, .timeout = 120)
{
    RUN(2, token_body);
}

/* ---- storms ---- */

struct storm {
    weft_chan *a, *b;
    int rounds;
    int64_t wait_ns; /* 0: no deadline */
    _Atomic(long) sent, received, nsent, nreceived, timeouts;
};
static int64_t storm_deadline(const struct storm *s, int i)
{
    return s->wait_ns == 0 ? WEFT_FOREVER : weft_now() + i % 4 * s->wait_ns;
}
static void storm_send(struct storm *s, weft_chan *x, weft_chan *y)
{
    for (int i = 0; i < s->rounds; i++) {
        long v = i + 1, w = i + 1000000;
        weft_case cs[] = {WEFT_SEND(x, &v), WEFT_SEND(y, &w)};
        int r = weft_select_dl(cs, 2, storm_deadline(s, i));
        if (r < 0) {
            cr_assert_eq(r, -ETIMEDOUT);
            atomic_fetch_add(&s->timeouts, 1);
            continue;
        }
        cr_assert_eq(cs[r].result, 0);
        atomic_fetch_add(&s->nsent, 1);
        atomic_fetch_add(&s->sent, r == 0 ? v : w);
    }
}
static void storm_recv(struct storm *s, weft_chan *x, weft_chan *y)
{
    long v, w;
    weft_case cs[] = {WEFT_RECV(x, &v), WEFT_RECV(y, &w)};
    for (int i = 0;; i++) {
        int r = weft_select_dl(cs, 2, storm_deadline(s, i));
        if (r < 0) {
            cr_assert_eq(r, -ETIMEDOUT);
            continue;
        }
        if (cs[r].result == -EPIPE) {
            cs[r].chan = NULL;
            if (cs[1 - r].chan == NULL)
                return;
            continue;
        }
        atomic_fetch_add(&s->nreceived, 1);
        atomic_fetch_add(&s->received, r == 0 ? v : w);
    }
}
static void send_ab(void *arg)
{
    struct storm *s = arg;
    storm_send(s, s->a, s->b);
}
static void send_ba(void *arg)
{
    struct storm *s = arg;
    storm_send(s, s->b, s->a);
}
static void recv_ab(void *arg)
{
    struct storm *s = arg;
    storm_recv(s, s->a, s->b);
}
static void recv_ba(void *arg)
{
    struct storm *s = arg;
    storm_recv(s, s->b, s->a);
}
static void storm(size_t cap, int coros, int threads, int rounds, int64_t wait_ns)
{
    struct storm s = {.a = chan_of(cap), .b = chan_of(cap), .rounds = rounds, .wait_ns = wait_ns};
    weft_wg senders = WEFT_WG_INIT, receivers = WEFT_WG_INIT;
    start(&receivers, coros, recv_ab, &s);
    start(&receivers, coros, recv_ba, &s);
    start_threads(&receivers, threads, recv_ab, &s);
    start(&senders, coros, send_ab, &s);
    start(&senders, coros, send_ba, &s);
    start_threads(&senders, threads, send_ba, &s);
    join(&senders);
    weft_chan_close(s.a);
    weft_chan_close(s.b);
    join(&receivers);
    cr_assert_eq(s.nsent, s.nreceived);
    cr_assert_eq(s.sent, s.received);
    cr_assert_eq(s.nsent + s.timeouts, (long)(2 * coros + threads) * rounds);
    weft_chan_release(s.a);
    weft_chan_release(s.b);
}
BODY(storm_body)
{
    storm(0, 3, 0, SCALE(10000), 0);
    storm(1, 3, 0, SCALE(10000), 0);
    storm(0, 200, 0, 20, 0);
    storm(0, 2, 1, SCALE(2000), 0);
    return 0;
}
BODY(storm_dated_body)
{
    storm(0, 3, 0, SCALE(4000), 3000);
    storm(1, 3, 0, SCALE(4000), 3000);
    storm(0, 2, 1, SCALE(2000), 20000);
    return 0;
}
Test(select, ab_against_ba_1p, .timeout = 120)
{
    RUN(1, storm_body);
}
Test(select, ab_against_ba_4p, .timeout = 120)
{
    RUN(4, storm_body);
}
Test(select, ab_against_ba_with_timeouts, .timeout = 120)
{
    RUN(4, storm_dated_body);
}
