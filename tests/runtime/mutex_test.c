/* runtime/mutex.c: each line of the mutex part of weft.h, exclusion among coroutines and threads,
 * hand-off to a waiter that a hog would starve (R28), free after the last unlock, the unlock hook.
 */
#include "runtime/weft_hook.h"
#include "tests/runtime/together.h"

_Static_assert(sizeof(weft_mutex) == 40 && sizeof(((weft_mutex *)0)->spare) == 16, "fixed size");

static bool has_waiters(weft_mutex *m)
{
    return (__atomic_load_n(&m->word[0], __ATOMIC_SEQ_CST) & 2) != 0;
}
static void await_waiters(weft_mutex *m)
{
    while (!has_waiters(m))
        weft_yield();
}
static bool is_blank(const weft_mutex *m)
{
    static const weft_mutex blank;
    return memcmp(m, &blank, sizeof blank) == 0;
}

/* ---- one caller ---- */

static void one_caller(void)
{
    weft_mutex m = WEFT_MUTEX_INIT;
    cr_assert_eq(weft_mutex_unlock(&m), -EPERM);
    cr_assert(is_blank(&m));
    cr_assert_eq(weft_mutex_lock(&m), 0);
    cr_assert_eq(weft_mutex_try_lock(&m), -EAGAIN);
    cr_assert_eq(weft_mutex_lock_dl(&m, 0), -ETIMEDOUT);
    cr_assert_eq(weft_mutex_lock_dl(&m, INT64_MIN), -ETIMEDOUT);
    int64_t until = weft_now() + 3 * MS;
    cr_assert_eq(weft_mutex_lock_dl(&m, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    cr_assert(!has_waiters(&m), "the timeout took its mark along");
    cr_assert_eq(weft_mutex_unlock(&m), 0);
    cr_assert_eq(weft_mutex_unlock(&m), -EPERM);
    cr_assert_eq(weft_mutex_lock_dl(&m, 0), 0, "free: the deadline does not matter");
    cr_assert_eq(weft_mutex_unlock(&m), 0);
    cr_assert_eq(weft_mutex_try_lock(&m), 0);
    cr_assert_eq(weft_mutex_unlock(&m), 0);
    cr_assert(is_blank(&m));
}
BODY(one_caller_body)
{
    one_caller();
    return 0;
}
Test(mutex, lock_try_deadline_unlock_on_a_plain_thread)
{
    one_caller();
}
Test(mutex, lock_try_deadline_unlock_on_a_coroutine)
{
    RUN(1, one_caller_body);
}

static void unlock_it(void *arg)
{
    cr_assert_eq(weft_mutex_unlock(arg), 0);
}
BODY(other_unlocks_body)
{
    weft_mutex m = WEFT_MUTEX_INIT;
    weft_wg left = WEFT_WG_INIT;
    for (int i = 0; i < 20; i++) {
        cr_assert_eq(weft_mutex_lock(&m), 0);
        if (i % 2)
            start(&left, 1, unlock_it, &m);
        else
            start_threads(&left, 1, unlock_it, &m);
        cr_assert_eq(weft_mutex_lock(&m), 0);
        join(&left);
        cr_assert_eq(weft_mutex_unlock(&m), 0);
    }
    return 0;
}
Test(mutex, anybody_may_unlock, .timeout = 60)
{
    RUN(2, other_unlocks_body);
}

/* ---- exclusion ---- */

struct contest {
    weft_mutex m;
    long count; /* guarded by m, and nothing else */
    _Atomic(long) locked;
    int rounds;
    bool yields, dated;
};
static void contend(void *arg)
{
    struct contest *k = arg;
    for (int i = 0; i < k->rounds; i++) {
        int64_t deadline = k->dated ? weft_now() + i % 4 * 2000 : WEFT_FOREVER;
        int r = k->dated && i % 5 == 0 ? weft_mutex_try_lock(&k->m)
                                       : weft_mutex_lock_dl(&k->m, deadline);
        if (r != 0) {
            cr_assert(k->dated && (r == -ETIMEDOUT || r == -EAGAIN), "lock: %d", r);
            continue;
        }
        long seen = k->count;
        if (k->yields && i % 8 == 0)
            weft_yield();
        k->count = seen + 1;
        atomic_fetch_add_explicit(&k->locked, 1, memory_order_relaxed);
        cr_assert_eq(weft_mutex_unlock(&k->m), 0);
    }
}
static void contest(int coros, int threads, int rounds, bool yields, bool dated)
{
    struct contest k = {.rounds = rounds, .yields = yields, .dated = dated};
    weft_wg left = WEFT_WG_INIT;
    start(&left, coros, contend, &k);
    start_threads(&left, threads, contend, &k);
    join(&left);
    cr_assert_eq(k.count, k.locked);
    if (!dated)
        cr_assert_eq(k.count, (long)(coros + threads) * rounds);
    cr_assert(is_blank(&k.m), "word %x", k.m.word[0]);
}
BODY(contest_body)
{
    contest(8, 0, SCALE(100000), false, false);
    contest(8, 0, SCALE(20000), true, false);
    contest(500, 0, 40, true, false);
    return 0;
}
BODY(contest_mixed_body)
{
    contest(4, 4, SCALE(20000), false, false);
    contest(4, 4, SCALE(4000), true, false);
    return 0;
}
BODY(contest_dated_body)
{
    contest(8, 0, SCALE(20000), true, true);
    contest(4, 2, SCALE(8000), true, true);
    return 0;
}
Test(mutex, eight_contenders_1p, .timeout = 120)
{
    RUN(1, contest_body);
}
Test(mutex, eight_contenders_4p, .timeout = 120)
{
    RUN(4, contest_body);
}
Test(mutex, coroutines_and_threads_contend, .timeout = 120)
{
    RUN(4, contest_mixed_body);
}
Test(mutex, deadlines_under_contention_lose_no_wake, .timeout = 120)
{
    RUN(4, contest_dated_body);
}
Test(mutex, threads_alone_contend, .timeout = 120)
{
    struct contest k = {.rounds = SCALE(20000)};
    weft_wg left = WEFT_WG_INIT;
    start_threads(&left, 8, contend, &k);
    join(&left);
    cr_assert_eq(k.count, 8L * k.rounds);
}

/* ---- hand-off ---- */

struct hog {
    weft_mutex m;
    _Atomic(bool) served;
};
/* Never lets go of the processor while the mutex is free: whoever only barges never gets it. */
static void hog(void *arg)
{
    struct hog *h = arg;
    while (!atomic_load(&h->served)) {
        weft_mutex_lock(&h->m);
        weft_yield();
        weft_mutex_unlock(&h->m);
    }
}
static void be_served(void *arg)
{
    struct hog *h = arg;
    weft_mutex_lock(&h->m);
    weft_mutex_unlock(&h->m);
}
BODY(hog_body)
{
    struct hog h = {.served = false};
    weft_wg hogs = WEFT_WG_INIT, others = WEFT_WG_INIT;
    start(&hogs, 1, hog, &h);
    start(&others, 5, be_served, &h);
    join(&others);
    atomic_store(&h.served, true);
    join(&hogs);
    return 0;
}
Test(mutex, a_waiter_beats_a_hog_in_the_end, .timeout = 60)
{
    RUN(1, hog_body);
}

struct queue_up {
    weft_mutex m;
    int order[10], n;
};
struct place {
    struct queue_up *q;
    int id;
};
static void take_place(void *arg)
{
    struct place *p = arg;
    weft_mutex_lock(&p->q->m);
    p->q->order[p->q->n++] = p->id;
    weft_mutex_unlock(&p->q->m);
}
BODY(in_order_body)
{
    struct queue_up q = {.n = 0};
    struct place p[10];
    weft_wg left = WEFT_WG_INIT;
    weft_mutex_lock(&q.m);
    for (int i = 0; i < 10; i++) {
        p[i] = (struct place){&q, i};
        start(&left, 1, take_place, &p[i]);
        settle();
    }
    weft_mutex_unlock(&q.m);
    join(&left);
    for (int i = 0; i < 10; i++)
        cr_assert_eq(q.order[i], i);
    return 0;
}
Test(mutex, waiters_are_served_in_order)
{
    RUN(1, in_order_body);
}

/* ---- the last unlock may be followed by free ---- */

struct shared_object {
    weft_mutex m;
    int users;
};
static void use_and_drop(void *arg)
{
    struct shared_object *o = arg;
    weft_mutex_lock(&o->m);
    bool last = --o->users == 0;
    weft_mutex_unlock(&o->m);
    if (last) {
        memset(o, 0xff, sizeof *o);
        __asm__ volatile("" ::"r"(o) : "memory"); /* or the compiler drops the memset */
        free(o);
    }
}
BODY(free_after_unlock_body)
{
    weft_wg left = WEFT_WG_INIT;
    for (int i = 0; i < SCALE(4000); i++) {
        struct shared_object *o = calloc(1, sizeof *o);
        o->users = 4;
        start(&left, 4, use_and_drop, o);
        if (i % 50 == 0)
            join(&left);
    }
    join(&left);
    return 0;
}
Test(mutex, whoever_unlocks_last_may_free_it, .timeout = 120)
{
    RUN(4, free_after_unlock_body);
}

/* ---- the seam ---- */

static int unlocks;
static int64_t waited_ns;
static weft_mutex hooked;
static void on_unlock(int64_t wait_ns)
{
    /* On one processor the woken one cannot have run yet. */
    cr_assert_eq(weft_mutex_try_lock(&hooked), 0, "told after the real unlock");
    cr_assert_eq(weft_mutex_unlock(&hooked), 0);
    unlocks++;
    waited_ns = wait_ns;
}
static const weft_hooks hooks = {.version = WEFT_HOOK_VERSION, .unlock_end = on_unlock};

static void lock_unlock(void *arg)
{
    weft_mutex_lock(arg);
    weft_mutex_unlock(arg);
}
static void contended_unlock(int64_t hold_ns)
{
    weft_wg left = WEFT_WG_INIT;
    weft_mutex_lock(&hooked);
    start(&left, 1, lock_unlock, &hooked);
    await_waiters(&hooked);
    int64_t until = weft_now() + hold_ns;
    while (weft_now() < until)
        ;
    weft_mutex_unlock(&hooked);
    join(&left);
}
BODY(hook_body)
{
    cr_assert_eq(weft_hook_set(&hooks, 0), 0);
    contended_unlock(0);
    cr_assert_eq(unlocks, 0, "the bit is off");
    weft_hook_mask(WEFT_HOOK_UNLOCK, 0);
    weft_mutex_lock(&hooked);
    weft_mutex_unlock(&hooked);
    cr_assert_eq(unlocks, 0, "nobody waited");
    contended_unlock(2 * MS);
    cr_assert_eq(unlocks, 1);
    cr_assert_geq(waited_ns, 2 * MS);
    cr_assert_lt(waited_ns, 60000 * MS);
    weft_hook_mask(0, WEFT_HOOK_UNLOCK);
    contended_unlock(0);
    cr_assert_eq(unlocks, 1);
    return 0;
}
Test(mutex, the_unlock_hook_is_told_how_long_the_woken_one_waited, .timeout = 60)
{
    RUN(1, hook_body);
}
