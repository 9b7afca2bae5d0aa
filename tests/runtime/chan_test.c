/* runtime/chan.c: each line of the channel part of weft.h, hand-off and ring for every element
 * size, close and deadlines with parked parties, and traffic of coroutines and plain threads that
 * must balance: what was sent came out, once (R22, R26). */
#include "tests/runtime/together.h"

/* ---- arguments ---- */

Test(chan, null_channel_is_invalid)
{
    int v = 0;
    cr_assert_eq(weft_chan_send(NULL, &v), -EINVAL);
    cr_assert_eq(weft_chan_send_dl(NULL, &v, 0), -EINVAL);
    cr_assert_eq(weft_chan_try_send(NULL, &v), -EINVAL);
    cr_assert_eq(weft_chan_recv(NULL, &v), -EINVAL);
    cr_assert_eq(weft_chan_recv_dl(NULL, &v, 0), -EINVAL);
    cr_assert_eq(weft_chan_try_recv(NULL, &v), -EINVAL);
    cr_assert_eq(weft_chan_close(NULL), -EINVAL);
    cr_assert_eq(weft_chan_len(NULL), 0);
    cr_assert_eq(weft_chan_cap(NULL), 0);
    cr_assert_null(weft_chan_retain(NULL));
    weft_chan_release(NULL);
}

Test(chan, sizes_that_overflow_give_null)
{
    cr_assert_null(weft_chan_new(SIZE_MAX, 2));
    cr_assert_null(weft_chan_new(2, SIZE_MAX));
    cr_assert_null(weft_chan_new(SIZE_MAX / 2 + 1, 2));
    cr_assert_null(weft_chan_new(1, SIZE_MAX));
    cr_assert_null(weft_chan_new(1, SIZE_MAX - 130));
    cr_assert_null(weft_chan_new(1, (size_t)PTRDIFF_MAX));
}

Test(chan, elements_of_no_bytes_need_no_memory)
{
    weft_chan *c = weft_chan_new(0, SIZE_MAX);
    cr_assert_not_null(c);
    cr_assert_eq(weft_chan_cap(c), SIZE_MAX);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(weft_chan_send(c, NULL), 0);
    cr_assert_eq(weft_chan_len(c), 5);
    for (int i = 0; i < 5; i++)
        cr_assert_eq(weft_chan_recv(c, NULL), 0);
    cr_assert_eq(weft_chan_try_recv(c, NULL), -EAGAIN);
    weft_chan_release(c);
}

Test(chan, a_retained_channel_outlives_one_release)
{
    weft_chan *c = weft_chan_new(sizeof(int), 1);
    cr_assert_eq(weft_chan_retain(c), c);
    weft_chan_release(c);
    int v = 7, got = 0;
    cr_assert_eq(weft_chan_send(c, &v), 0);
    cr_assert_eq(weft_chan_recv(c, &got), 0);
    cr_assert_eq(got, 7);
    weft_chan_release(c);
}

/* ---- the ring ---- */

Test(chan, ring_is_first_in_first_out_and_bounded)
{
    weft_chan *c = weft_chan_new(sizeof(int), 3);
    cr_assert_eq(weft_chan_cap(c), 3);
    int next_in = 0, next_out = 0, got;
    for (int round = 0; round < 7; round++) {
        while (weft_chan_try_send(c, &next_in) == 0)
            next_in++;
        cr_assert_eq(weft_chan_len(c), 3);
        cr_assert_eq(weft_chan_try_send(c, &next_in), -EAGAIN);
        for (int i = 0; i <= round % 3; i++) {
            cr_assert_eq(weft_chan_try_recv(c, &got), 0);
            cr_assert_eq(got, next_out);
            next_out++;
        }
    }
    while (weft_chan_try_recv(c, &got) == 0) {
        cr_assert_eq(got, next_out);
        next_out++;
    }
    cr_assert_eq(next_out, next_in);
    cr_assert_eq(weft_chan_len(c), 0);
    weft_chan_release(c);
}

Test(chan, try_on_an_unbuffered_channel_without_a_peer)
{
    weft_chan *c = weft_chan_new(sizeof(int), 0);
    int v = 3;
    cr_assert_eq(weft_chan_try_send(c, &v), -EAGAIN);
    cr_assert_eq(weft_chan_try_recv(c, &v), -EAGAIN);
    cr_assert_eq(v, 3, "a receive that fails leaves the element alone");
    weft_chan_release(c);
}

Test(chan, null_elements_send_zeros_and_discard)
{
    weft_chan *c = weft_chan_new(sizeof(long), 2);
    long v = -1;
    cr_assert_eq(weft_chan_send(c, &v), 0);
    cr_assert_eq(weft_chan_send(c, NULL), 0);
    cr_assert_eq(weft_chan_recv(c, NULL), 0);
    cr_assert_eq(weft_chan_recv(c, &v), 0);
    cr_assert_eq(v, 0);
    weft_chan_release(c);
}

/* ---- close ---- */

Test(chan, close_drains_then_gives_epipe_and_zeros)
{
    weft_chan *c = weft_chan_new(sizeof(int), 4);
    int v = 1, got = -1;
    weft_chan_send(c, &v);
    v = 2;
    weft_chan_send(c, &v);
    cr_assert_eq(weft_chan_close(c), 0);
    cr_assert_eq(weft_chan_close(c), -EPIPE);
    cr_assert_eq(weft_chan_send(c, &v), -EPIPE);
    cr_assert_eq(weft_chan_try_send(c, &v), -EPIPE);
    cr_assert_eq(weft_chan_send_dl(c, &v, 0), -EPIPE);
    cr_assert_eq(weft_chan_len(c), 2);
    cr_assert_eq(weft_chan_recv(c, &got), 0);
    cr_assert_eq(got, 1);
    cr_assert_eq(weft_chan_try_recv(c, &got), 0);
    cr_assert_eq(got, 2);
    got = -1;
    cr_assert_eq(weft_chan_recv(c, &got), -EPIPE);
    cr_assert_eq(got, 0);
    got = -1;
    cr_assert_eq(weft_chan_try_recv(c, &got), -EPIPE);
    cr_assert_eq(got, 0);
    got = -1;
    cr_assert_eq(weft_chan_recv_dl(c, &got, 0), -EPIPE);
    cr_assert_eq(got, 0);
    cr_assert_eq(weft_chan_recv(c, NULL), -EPIPE);
    weft_chan_release(c);
}

Test(chan, close_of_a_full_channel_still_refuses_sends)
{
    weft_chan *c = weft_chan_new(sizeof(int), 1);
    int v = 1;
    weft_chan_send(c, &v);
    weft_chan_close(c);
    cr_assert_eq(weft_chan_try_send(c, &v), -EPIPE);
    weft_chan *u = weft_chan_new(sizeof(int), 0);
    weft_chan_close(u);
    cr_assert_eq(weft_chan_try_send(u, &v), -EPIPE);
    cr_assert_eq(weft_chan_try_recv(u, &v), -EPIPE);
    cr_assert_eq(v, 0);
    weft_chan_release(u);
    weft_chan_release(c);
}

struct closing {
    weft_chan *c;
    _Atomic(int) epipe, kept, other;
};

static void send_until_closed(void *arg)
{
    struct closing *k = arg;
    long mine = 42;
    int r = weft_chan_send(k->c, &mine);
    atomic_fetch_add(r == -EPIPE ? &k->epipe : &k->other, 1);
    atomic_fetch_add(&k->kept, mine == 42);
}

static void recv_until_closed(void *arg)
{
    struct closing *k = arg;
    long got = 42;
    int r = weft_chan_recv(k->c, &got);
    atomic_fetch_add(r == -EPIPE ? &k->epipe : &k->other, 1);
    atomic_fetch_add(&k->kept, got == 0);
}

static void close_over(void (*fn)(void *))
{
    struct closing k = {.c = weft_chan_new(sizeof(long), 0)};
    weft_wg left = WEFT_WG_INIT;
    start(&left, 100, fn, &k);
    settle();
    cr_assert_eq(weft_chan_close(k.c), 0);
    join(&left);
    cr_assert_eq(k.epipe, 100);
    cr_assert_eq(k.other, 0);
    cr_assert_eq(k.kept, 100);
    weft_chan_release(k.c);
}

BODY(close_over_senders)
{
    close_over(send_until_closed);
    return 0;
}
BODY(close_over_receivers)
{
    close_over(recv_until_closed);
    return 0;
}
Test(chan, each_blocked_sender_gets_epipe_once_and_keeps_its_element)
{
    RUN(1, close_over_senders);
}
Test(chan, each_blocked_receiver_gets_epipe_once_and_zeros)
{
    RUN(1, close_over_receivers);
}

BODY(close_full_body)
{
    struct closing k = {.c = weft_chan_new(sizeof(long), 3)};
    weft_wg left = WEFT_WG_INIT;
    for (long v = 1; v <= 3; v++)
        weft_chan_send(k.c, &v);
    start(&left, 10, send_until_closed, &k);
    settle();
    weft_chan_close(k.c);
    join(&left);
    cr_assert_eq(k.epipe, 10);
    long got;
    for (long v = 1; v <= 3; v++) {
        cr_assert_eq(weft_chan_recv(k.c, &got), 0);
        cr_assert_eq(got, v);
    }
    cr_assert_eq(weft_chan_recv(k.c, &got), -EPIPE);
    weft_chan_release(k.c);
    return 0;
}
Test(chan, close_with_blocked_senders_keeps_what_is_buffered)
{
    RUN(1, close_full_body);
}

/* ---- hand-off, every size ---- */

struct carry {
    weft_chan *c;
    size_t bytes;
    int n;
};

static void fill(unsigned char *p, size_t bytes, int turn)
{
    for (size_t i = 0; i < bytes; i++)
        p[i] = (unsigned char)(turn * 31 + (int)i * 7 + 1);
}

static void carry_send(void *arg)
{
    struct carry *k = arg;
    unsigned char *p = malloc(k->bytes + 1);
    for (int i = 0; i < k->n; i++) {
        fill(p + 1, k->bytes, i); /* + 1: elements need not be aligned */
        cr_assert_eq(weft_chan_send(k->c, p + 1), 0);
        memset(p, 0xee, k->bytes + 1);
    }
    free(p);
}

static void carry_recv(void *arg)
{
    struct carry *k = arg;
    unsigned char *want = malloc(k->bytes + 1), *got = malloc(k->bytes + 3);
    for (int i = 0; i < k->n; i++) {
        memset(got, 0x5a, k->bytes + 3);
        cr_assert_eq(weft_chan_recv(k->c, got + 1), 0);
        fill(want, k->bytes, i);
        cr_assert_eq(memcmp(got + 1, want, k->bytes), 0, "size %zu, turn %d", k->bytes, i);
        cr_assert_eq(got[0], 0x5a);
        cr_assert_eq(got[k->bytes + 1], 0x5a, "one past the element is untouched");
    }
    free(want);
    free(got);
}

static void carry_all(bool sender_first)
{
    static const size_t sizes[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 24, 32, 100, 4096};
    for (size_t cap = 0; cap < 3; cap++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct carry k = {weft_chan_new(sizes[i], cap), sizes[i], 10};
            weft_wg left = WEFT_WG_INIT;
            start(&left, 1, sender_first ? carry_send : carry_recv, &k);
            settle();
            start(&left, 1, sender_first ? carry_recv : carry_send, &k);
            join(&left);
            weft_chan_release(k.c);
        }
}
BODY(carry_body)
{
    carry_all(true);
    carry_all(false);
    return 0;
}
Test(chan, every_element_size_arrives_intact_by_hand_off_and_ring)
{
    RUN(1, carry_body);
}

static void recv_discarded(void *arg)
{
    cr_assert_eq(weft_chan_recv(arg, NULL), 0);
}
static void send_zeros(void *arg)
{
    cr_assert_eq(weft_chan_send(arg, NULL), 0);
}
BODY(null_hand_off_body)
{
    weft_chan *c = weft_chan_new(sizeof(int), 0);
    weft_wg left = WEFT_WG_INIT;
    int v = 5;
    start(&left, 1, recv_discarded, c);
    settle();
    cr_assert_eq(weft_chan_try_send(c, &v), 0);
    start(&left, 1, send_zeros, c);
    settle();
    cr_assert_eq(weft_chan_try_recv(c, &v), 0);
    cr_assert_eq(v, 0);
    join(&left);
    weft_chan_release(c);
    return 0;
}
Test(chan, null_elements_in_a_hand_off)
{
    RUN(1, null_hand_off_body);
}

struct order {
    weft_chan *c;
    int seen[10], n;
};
static void recv_in_turn(void *arg)
{
    struct order *o = arg;
    int got;
    cr_assert_eq(weft_chan_recv(o->c, &got), 0);
    o->seen[o->n++] = got;
}
BODY(turns_body)
{
    struct order o = {.c = weft_chan_new(sizeof(int), 0)};
    weft_wg left = WEFT_WG_INIT;
    for (int i = 0; i < 10; i++) {
        start(&left, 1, recv_in_turn, &o);
        settle();
    }
    for (int i = 0; i < 10; i++) {
        cr_assert_eq(weft_chan_try_send(o.c, &i), 0, "a parked receiver takes it");
        settle();
        cr_assert_eq(o.n, i + 1);
        cr_assert_eq(o.seen[i], i);
    }
    cr_assert_eq(weft_chan_try_send(o.c, &o.n), -EAGAIN);
    join(&left);
    weft_chan_release(o.c);
    return 0;
}
Test(chan, parked_receivers_are_served_one_element_each)
{
    RUN(1, turns_body);
}

struct flagged {
    weft_chan *c;
    bool returned;
};
static void send_and_say(void *arg)
{
    struct flagged *f = arg;
    int v = 9;
    cr_assert_eq(weft_chan_send(f->c, &v), 0);
    f->returned = true;
}
BODY(meet_body)
{
    struct flagged f = {weft_chan_new(sizeof(int), 0), false};
    weft_wg left = WEFT_WG_INIT;
    start(&left, 1, send_and_say, &f);
    settle();
    cr_assert(!f.returned, "nobody has received yet");
    int got = 0;
    cr_assert_eq(weft_chan_recv(f.c, &got), 0);
    cr_assert_eq(got, 9);
    join(&left);
    cr_assert(f.returned);
    weft_chan_release(f.c);
    return 0;
}
Test(chan, an_unbuffered_send_meets_its_receive)
{
    RUN(1, meet_body);
}

/* ---- deadlines ---- */

static void deadlines(void)
{
    weft_chan *c = weft_chan_new(sizeof(int), 1), *u = weft_chan_new(sizeof(int), 0);
    int v = 4;
    cr_assert_eq(weft_chan_recv_dl(c, &v, 0), -ETIMEDOUT);
    cr_assert_eq(weft_chan_recv_dl(c, &v, INT64_MIN), -ETIMEDOUT);
    cr_assert_eq(v, 4);
    cr_assert_eq(weft_chan_send_dl(c, &v, 0), 0, "there is room: the deadline does not matter");
    cr_assert_eq(weft_chan_send_dl(c, &v, 0), -ETIMEDOUT);
    int64_t until = weft_now() + 3 * MS;
    cr_assert_eq(weft_chan_send_dl(c, &v, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    cr_assert_eq(weft_chan_recv_dl(c, &v, 0), 0);
    until = weft_now() + 3 * MS;
    cr_assert_eq(weft_chan_recv_dl(c, &v, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    /* Nothing of the timed-out calls is left behind. */
    cr_assert_eq(weft_chan_len(c), 0);
    cr_assert_eq(weft_chan_send_dl(u, &v, weft_now() + MS), -ETIMEDOUT);
    cr_assert_eq(weft_chan_try_recv(u, &v), -EAGAIN);
    cr_assert_eq(weft_chan_recv_dl(u, &v, weft_now() + MS), -ETIMEDOUT);
    cr_assert_eq(weft_chan_try_send(u, &v), -EAGAIN);
    cr_assert(c->recvq.head == NULL && c->sendq.head == NULL);
    cr_assert(u->recvq.head == NULL && u->sendq.head == NULL);
    weft_chan_release(c);
    weft_chan_release(u);
}
BODY(deadlines_body)
{
    deadlines();
    return 0;
}
Test(chan, deadlines_on_a_coroutine)
{
    RUN(1, deadlines_body);
}
Test(chan, deadlines_on_a_plain_thread)
{
    deadlines();
}

static void recv_far_deadline(void *arg)
{
    int got = 0;
    cr_assert_eq(weft_chan_recv_dl(arg, &got, weft_now() + 600000 * MS), 0);
    cr_assert_eq(got, 8);
}
BODY(met_before_deadline_body)
{
    weft_chan *c = weft_chan_new(sizeof(int), 0);
    weft_wg left = WEFT_WG_INIT;
    int v = 8;
    start(&left, 1, recv_far_deadline, c);
    start_threads(&left, 1, recv_far_deadline, c);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(weft_chan_send(c, &v), 0);
    join(&left);
    weft_chan_release(c);
    return 0;
}
Test(chan, a_peer_before_the_deadline, .timeout = 60)
{
    RUN(2, met_before_deadline_body);
}

/* ---- plain threads ---- */

struct pair {
    weft_chan *ping, *pong;
    int rounds;
};
static void echo(void *arg)
{
    struct pair *p = arg;
    long v;
    while (weft_chan_recv(p->ping, &v) == 0) {
        v++;
        cr_assert_eq(weft_chan_send(p->pong, &v), 0);
    }
}
static void play(struct pair *p)
{
    long v = 0;
    for (int i = 0; i < p->rounds; i++) {
        cr_assert_eq(weft_chan_send(p->ping, &v), 0);
        cr_assert_eq(weft_chan_recv(p->pong, &v), 0);
        cr_assert_eq(v, i + 1);
    }
    weft_chan_close(p->ping);
}
static struct pair pair_new(int rounds)
{
    return (struct pair){weft_chan_new(sizeof(long), 0), weft_chan_new(sizeof(long), 0), rounds};
}
static void pair_free(struct pair *p)
{
    weft_chan_release(p->ping);
    weft_chan_release(p->pong);
}

Test(chan, ping_pong_of_two_threads_without_weft_run, .timeout = 120)
{
    struct pair p = pair_new(SCALE(2000));
    weft_wg left = WEFT_WG_INIT;
    start_threads(&left, 1, echo, &p);
    play(&p);
    join(&left);
    pair_free(&p);
}
static void ping_pong(int rounds, bool thread)
{
    struct pair p = pair_new(rounds);
    weft_wg left = WEFT_WG_INIT;
    if (thread)
        start_threads(&left, 1, echo, &p);
    else
        start(&left, 1, echo, &p);
    play(&p);
    join(&left);
    pair_free(&p);
}
BODY(ping_pong_mixed_body)
{
    ping_pong(SCALE(2000), true);
    return 0;
}
BODY(ping_pong_body)
{
    ping_pong(SCALE(200000), false);
    return 0;
}
Test(chan, ping_pong_of_a_thread_and_a_coroutine, .timeout = 120)
{
    RUN(2, ping_pong_mixed_body);
}
Test(chan, ping_pong_of_two_coroutines_1p, .timeout = 120)
{
    RUN(1, ping_pong_body);
}
Test(chan, ping_pong_of_two_coroutines_2p, .timeout = 120)
{
    RUN(2, ping_pong_body);
}

/* ---- many ---- */

struct traffic {
    weft_chan *c;
    int each;
    bool dated, tries;
    _Atomic(long) sent, received, nsent, nreceived, failed;
};

static int64_t soon(struct traffic *t, int i)
{
    return t->dated ? weft_now() + i % 3 * 20000 : WEFT_FOREVER;
}
static void produce(void *arg)
{
    struct traffic *t = arg;
    long sum = 0, n = 0;
    for (int i = 1; i <= t->each; i++) {
        long v = i;
        int r = t->tries && i % 2 ? weft_chan_try_send(t->c, &v)
                                  : weft_chan_send_dl(t->c, &v, soon(t, i));
        if (r == 0) {
            sum += v;
            n++;
        } else if (r == -EPIPE) {
            break;
        } else {
            cr_assert(r == -ETIMEDOUT || r == -EAGAIN, "send: %d", r);
            atomic_fetch_add(&t->failed, 1);
        }
    }
    atomic_fetch_add(&t->sent, sum);
    atomic_fetch_add(&t->nsent, n);
}
static void consume(void *arg)
{
    struct traffic *t = arg;
    long sum = 0, n = 0, v;
    for (int i = 0;; i++) {
        int r = t->tries && i % 2 ? weft_chan_try_recv(t->c, &v)
                                  : weft_chan_recv_dl(t->c, &v, soon(t, i));
        if (r == -EPIPE)
            break;
        if (r != 0)
            continue;
        sum += v;
        n++;
    }
    atomic_fetch_add(&t->received, sum);
    atomic_fetch_add(&t->nreceived, n);
}
static void traffic_balanced(struct traffic *t)
{
    cr_assert_eq(t->nsent, t->nreceived);
    cr_assert_eq(t->sent, t->received);
}

static void traffic_run(size_t cap, int coros, int threads, int each, bool dated)
{
    struct traffic t = {.c = weft_chan_new(sizeof(long), cap), .each = each, .dated = dated};
    t.tries = dated;
    weft_wg producers = WEFT_WG_INIT, consumers = WEFT_WG_INIT;
    start(&consumers, coros, consume, &t);
    start_threads(&consumers, threads, consume, &t);
    start(&producers, coros, produce, &t);
    start_threads(&producers, threads, produce, &t);
    join(&producers);
    weft_chan_close(t.c);
    join(&consumers);
    traffic_balanced(&t);
    if (!dated)
        cr_assert_eq(t.sent, (long)(coros + threads) * each * (each + 1) / 2);
    weft_chan_release(t.c);
}
static const size_t caps[] = {0, 1, 7, 128};
BODY(traffic_body)
{
    for (int i = 0; i < 4; i++)
        traffic_run(caps[i], 4, 0, SCALE(20000), false);
    traffic_run(2, 500, 0, 40, false);
    return 0;
}
BODY(traffic_mixed_body)
{
    for (int i = 0; i < 4; i++)
        traffic_run(caps[i], 3, 2, SCALE(2000), false);
    return 0;
}
BODY(traffic_dated_body)
{
    for (int i = 0; i < 4; i++)
        traffic_run(caps[i], 4, 1, SCALE(4000), true);
    return 0;
}
Test(chan, producers_and_consumers_1p, .timeout = 120)
{
    RUN(1, traffic_body);
}
Test(chan, producers_and_consumers_4p, .timeout = 120)
{
    RUN(4, traffic_body);
}
Test(chan, producers_and_consumers_coroutines_and_threads, .timeout = 120)
{
    RUN(4, traffic_mixed_body);
}
Test(chan, a_timeout_neither_loses_nor_invents_an_element, .timeout = 120)
{
    RUN(4, traffic_dated_body);
}

BODY(close_storm_body)
{
    for (int round = 0; round < SCALE(400); round++) {
        struct traffic t = {.c = weft_chan_new(sizeof(long), caps[round % 4]), .each = 100000000};
        weft_wg left = WEFT_WG_INIT;
        start(&left, 3, produce, &t);
        start(&left, 2, consume, &t);
        for (int i = 0; i < round % 50; i++)
            weft_yield();
        cr_assert_eq(weft_chan_close(t.c), 0);
        join(&left);
        traffic_balanced(&t);
        cr_assert_eq(weft_chan_len(t.c), 0);
        weft_chan_release(t.c);
    }
    return 0;
}
Test(chan, close_in_the_middle_of_traffic, .timeout = 120)
{
    RUN(4, close_storm_body);
}

/* Try calls look without the lock first; they must agree with what happened before on this thread,
 * and with a close. */
static void close_it(void *arg)
{
    weft_chan_close(arg);
}
BODY(try_close_body)
{
    for (int i = 0; i < SCALE(4000); i++) {
        weft_chan *c = weft_chan_new(sizeof(long), i % 2 ? 2 : 0);
        weft_wg left = WEFT_WG_INIT;
        long v = 1, sent = 0;
        if (i % 2)
            while (weft_chan_try_send(c, &v) == 0)
                sent++;
        start(&left, 1, close_it, c);
        int r;
        while ((r = weft_chan_try_recv(c, &v)) != -EPIPE) {
            sent -= r == 0;
            if (r == -EAGAIN)
                weft_yield();
        }
        cr_assert_eq(sent, 0, "closed and drained, but an element was in it");
        cr_assert_eq(weft_chan_try_send(c, &v), -EPIPE);
        join(&left);
        weft_chan_release(c);
    }
    return 0;
}
Test(chan, try_receive_drains_before_it_says_closed, .timeout = 120)
{
    RUN(2, try_close_body);
}

/* ---- prime sieve ---- */

struct sieve {
    weft_chan *in, *out;
    int prime;
};
static void sieve_end(weft_chan *c)
{
    weft_chan_close(c);
    weft_chan_release(c);
}
static void sieve_source(void *arg)
{
    for (int i = 2; weft_chan_send(arg, &i) == 0; i++)
        ;
    sieve_end(arg);
}
static void sieve_filter(void *arg)
{
    struct sieve s = *(struct sieve *)arg;
    free(arg);
    int v;
    while (weft_chan_recv(s.in, &v) == 0)
        if (v % s.prime != 0 && weft_chan_send(s.out, &v) != 0)
            break;
    sieve_end(s.in);
    sieve_end(s.out);
}
BODY(sieve_body)
{
    weft_chan *c = weft_chan_new(sizeof(int), 0);
    weft_wg left = WEFT_WG_INIT;
    start(&left, 1, sieve_source, weft_chan_retain(c));
    int prime = 0;
    for (int i = 0; i < 300; i++) {
        cr_assert_eq(weft_chan_recv(c, &prime), 0);
        struct sieve *s = malloc(sizeof *s);
        *s = (struct sieve){c, weft_chan_new(sizeof(int), 0), prime};
        c = weft_chan_retain(s->out);
        start(&left, 1, sieve_filter, s);
    }
    cr_assert_eq(prime, 1987, "the 300th prime");
    sieve_end(c); /* and the chain ends link by link */
    join(&left);
    return 0;
}
Test(chan, prime_sieve_1p, .timeout = 120)
{
    RUN(1, sieve_body);
}
Test(chan, prime_sieve_4p, .timeout = 120)
{
    RUN(4, sieve_body);
}
