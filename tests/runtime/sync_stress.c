/* Channels, selects, mutexes, groups and timers all at once, from coroutines and plain threads, for
 * WEFT_STRESS_S seconds (2 if unset). Every round must balance: elements in = elements out, locked
 * = counted, all joined. ThreadSanitizer watches the same program in check-long. */
#include "tests/runtime/together.h"

enum { CHANS = 5, RELAYS = 40, LOCKERS = 12, NAPPERS = 30, THREADS = 3, STEPS = 200 };

struct world {
    weft_chan *c[CHANS];
    _Atomic(long) in, out, in_sum, out_sum, locked;
    weft_mutex m;
    long counted; /* guarded by m */
};
struct actor {
    struct world *w;
    unsigned seed;
};

static unsigned roll(struct actor *a, unsigned n)
{
    a->seed = a->seed * 1664525u + 1013904223u;
    return (a->seed >> 8) % n;
}
static void note(_Atomic(long) *n, _Atomic(long) *sum, long v)
{
    atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(sum, v, memory_order_relaxed);
}
static int64_t some_deadline(struct actor *a)
{
    return weft_now() + roll(a, 4) * 20000;
}

/* One step that may send or receive on any two channels, in any way the library has. */
static void relay_step(struct actor *a, long v)
{
    struct world *w = a->w;
    weft_chan *x = w->c[roll(a, CHANS)], *y = w->c[roll(a, CHANS)];
    long got = 0;
    int r;
    switch (roll(a, 6)) {
    case 0:
        if (weft_chan_send_dl(x, &v, some_deadline(a)) == 0)
            note(&w->in, &w->in_sum, v);
        break;
    case 1:
        if (weft_chan_recv_dl(x, &got, some_deadline(a)) == 0)
            note(&w->out, &w->out_sum, got);
        break;
    case 2:
        if (weft_chan_try_send(x, &v) == 0)
            note(&w->in, &w->in_sum, v);
        break;
    case 3:
        if (weft_chan_try_recv(x, &got) == 0)
            note(&w->out, &w->out_sum, got);
        break;
    default: {
        weft_case cs[] = {WEFT_SEND(x, &v), WEFT_RECV(y, &got), WEFT_RECV(x, &got)};
        r = roll(a, 4) ? weft_select_dl(cs, 3, some_deadline(a)) : weft_try_select(cs, 3);
        if (r == 0 && cs[0].result == 0)
            note(&w->in, &w->in_sum, v);
        else if (r > 0 && cs[r].result == 0)
            note(&w->out, &w->out_sum, got);
        break;
    }
    }
}
static struct actor cast(void *arg)
{
    static _Atomic(unsigned) born;
    return (struct actor){arg, atomic_fetch_add(&born, 1) * 2654435761u};
}
static void relay(void *arg)
{
    struct actor a = cast(arg);
    for (int i = 0; i < STEPS; i++)
        relay_step(&a, i + 1);
}
static void lock_often(void *arg)
{
    struct actor a = cast(arg);
    struct world *w = a.w;
    for (int i = 0; i < STEPS; i++) {
        int r = roll(&a, 3) ? weft_mutex_lock(&w->m) : weft_mutex_lock_dl(&w->m, some_deadline(&a));
        if (r != 0)
            continue;
        long seen = w->counted;
        if (roll(&a, 8) == 0)
            weft_yield();
        w->counted = seen + 1;
        cr_assert_eq(weft_mutex_unlock(&w->m), 0);
        atomic_fetch_add_explicit(&w->locked, 1, memory_order_relaxed);
    }
}
static void nap(void *arg)
{
    struct actor a = cast(arg);
    for (int i = 0; i < 5; i++) {
        int64_t ns = roll(&a, 100000), until = weft_now() + ns;
        weft_sleep(ns);
        cr_assert_geq(weft_now(), until);
    }
}

static void round_of(unsigned n)
{
    struct world w = {.counted = 0};
    weft_wg left = WEFT_WG_INIT;
    for (unsigned i = 0; i < CHANS; i++)
        w.c[i] = weft_chan_new(sizeof(long), (n + i) % CHANS);
    start(&left, RELAYS, relay, &w);
    start(&left, LOCKERS, lock_often, &w);
    start(&left, NAPPERS, nap, &w);
    start_threads(&left, THREADS, relay, &w);
    start_threads(&left, THREADS, lock_often, &w);
    join(&left);
    for (unsigned i = 0; i < CHANS; i++) {
        long v;
        cr_assert_eq(weft_chan_close(w.c[i]), 0);
        while (weft_chan_recv(w.c[i], &v) == 0)
            note(&w.out, &w.out_sum, v);
        weft_chan_release(w.c[i]);
    }
    cr_assert_gt(w.in, 0);
    cr_assert_eq(w.in, w.out, "round %u", n);
    cr_assert_eq(w.in_sum, w.out_sum, "round %u", n);
    cr_assert_eq(w.locked, w.counted, "round %u", n);
}

BODY(stress_body)
{
    const char *s = getenv("WEFT_STRESS_S");
    int64_t until = weft_now() + (s ? atoi(s) : 2) * 1000 * MS;
    unsigned n = 0;
    while (weft_now() < until)
        round_of(n++);
    cr_assert_gt(n, 0);
    return 0;
}
Test(sync, all_at_once, .timeout = 600)
{
    RUN(4, stress_body);
}
