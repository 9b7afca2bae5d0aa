/* The mutex: one word that is taken and given back by one compare-and-swap each, and behind it a
 * queue of parked waiters.
 *
 * It barges by default: unlock frees the word and wakes the first waiter, and whoever comes first
 * gets it, because a running coroutine that takes a free mutex costs nothing while a hand-off costs
 * a switch for each turn. A waiter that is woken, finds the mutex taken again and has waited for
 * 1 ms or more turns it to hand-off: the word stays LOCKED and each unlock gives it to the head of
 * the queue, until a waiter is served that has waited for less, or none is left (R28).
 *
 * Invariants of the word:
 *  1. LOCKED: somebody owns it. Not cleared by a hand-off, so nobody can barge in then.
 *  2. WAITERS: the queue is not empty (or holds only waiters whose deadline has fired). Changed
 *     only under the queue lock; set only while LOCKED is set, so that the owner's unlock sees it.
 *  3. WOKEN: a waiter has been readied by an unlock and has not yet looked; unlocks wake nobody
 *     else meanwhile. Set only by unlock_slow. The woken one clears it in the step in which it
 *     either takes the mutex, or joins the queue again or leaves while LOCKED is set: so a wake is
 *     never lost.
 *  4. HANDOFF: set only together with LOCKED and WAITERS; then WOKEN is not set.
 *
 * Lifetime: the one that unlocks last may free the memory. A fast unlock touches nothing after the
 * word; a slow one works under the queue lock and readies its waiter after it, and that waiter is
 * itself still inside its call.
 *
 * Locks: the queue lock (rank 1), word[1].
 *
 * Errors beyond the header: -ENOMEM when a plain thread waits for the first time and there is no
 * memory for its record. */
#include "rt.h"
#include <errno.h>

enum { LOCKED = 1, WAITERS = 2, WOKEN = 4, HANDOFF = 8 };

#define HANDOFF_AFTER_NS 1000000
#define SPIN_ROUNDS      4
#define SPIN_PAUSES      10

typedef struct mutex_rec {
    _Atomic(uint32_t) word;
    rt_lock lock;
    rt_queue queue; /* under lock */
    uint64_t spare[2];
} mutex_rec;
_Static_assert(sizeof(mutex_rec) == sizeof(weft_mutex), "same record, public and private");
_Static_assert(offsetof(mutex_rec, queue) == offsetof(weft_mutex, queue), "same record");
_Static_assert(sizeof(((weft_mutex *)0)->spare) == 16, "room to grow");

typedef struct mutex_waiter {
    rt_waiter w; /* first, so that the queue's pointer is ours */
    int64_t began_ns;
} mutex_waiter;

static inline mutex_rec *rec(weft_mutex *m)
{
    return (mutex_rec *)m;
}

/* acquire: the partner is the release in unlock_word or unlock_slow of the owner before. */
static inline bool cas_acquire(mutex_rec *m, uint32_t *seen, uint32_t next)
{
    return atomic_compare_exchange_weak_explicit(&m->word, seen, next, memory_order_acquire,
                                                 memory_order_relaxed);
}

static inline bool take_free(mutex_rec *m)
{
    uint32_t seen = 0; /* acquire: as above */
    return atomic_compare_exchange_strong_explicit(&m->word, &seen, LOCKED, memory_order_acquire,
                                                   memory_order_relaxed);
}

/* Takes it if it is not LOCKED, whoever waits; drops the bits in `drop` with the same step. */
static bool barge(mutex_rec *m, uint32_t drop)
{
    uint32_t s = load_relaxed(&m->word);
    while ((s & LOCKED) == 0)
        if (cas_acquire(m, &s, (s | LOCKED) & ~drop))
            return true;
    return false;
}

/* An owner that runs will soon be done, and to look again is cheaper than to park; with one
 * processor it cannot be running, and with others queued the turn is not ours. */
static bool spin(mutex_rec *m)
{
    if (load_relaxed(&m->word) != LOCKED || weft_procs(0) < 2)
        return false;
    for (int round = 0; round < SPIN_ROUNDS; round++) {
        for (int i = 0; i < SPIN_PAUSES; i++)
            rt_pause();
        uint32_t s = load_relaxed(&m->word);
        if ((s & LOCKED) == 0)
            return barge(m, 0);
        if (s != LOCKED)
            return false;
    }
    return false;
}

/* Under the queue lock: takes the mutex, or leaves it marked with `mark` for its owner to see. */
static bool barge_or_mark_locked(mutex_rec *m, uint32_t drop, uint32_t mark)
{
    uint32_t s = load_relaxed(&m->word);
    for (;;) {
        uint32_t next = (s & LOCKED) == 0 ? (s | LOCKED) & ~drop : (s & ~drop) | mark;
        if (cas_acquire(m, &s, next))
            return (s & LOCKED) == 0;
    }
}

/* A deadline has fired: off the queue; the marks go when nobody is left. */
static void leave(mutex_rec *m, rt_waiter *w)
{
    rt_lock_acquire(&m->lock);
    rt_queue_remove(&m->queue, w);
    if (m->queue.head == NULL)
        atomic_fetch_and_explicit(&m->word, ~(uint32_t)(WAITERS | HANDOFF), memory_order_relaxed);
    rt_lock_release(&m->lock);
}

enum { FREED = 0, HANDED = 1 }; /* a waiter's result: to be fought for, or ours already */

static RT_NOINLINE int lock_slow(mutex_rec *m, int64_t deadline)
{
    bool dated = deadline != WEFT_FOREVER;
    if (barge(m, 0) || spin(m))
        return 0;
    if (dated && deadline <= rt_now())
        return -ETIMEDOUT;
    rt_g *g = rt_self();
    if (g == NULL)
        return -ENOMEM;
    mutex_waiter me = {.w = {.g = g, .obj = m, .shared = dated}, .began_ns = rt_now()};
    int64_t now = me.began_ns;
    uint32_t woken = 0; /* WOKEN when the bit is ours to clear */
    for (;;) {
        uint32_t mark = WAITERS;
        if (woken != 0 && now - me.began_ns >= HANDOFF_AFTER_NS)
            mark |= HANDOFF;
        if (dated && deadline <= now)
            mark = 0; /* only gives the wake back */
        rt_lock_acquire(&m->lock);
        if (barge_or_mark_locked(m, woken, mark)) {
            rt_lock_release(&m->lock);
            return 0;
        }
        if (mark == 0) {
            rt_lock_release(&m->lock);
            return -ETIMEDOUT;
        }
        me.w.since = rt_hook(WEFT_HOOK_UNLOCK) != NULL ? now : 0;
        rt_wait_begin(g);
        if (woken != 0)
            rt_queue_push_front(&m->queue, &me.w);
        else
            rt_queue_push(&m->queue, &me.w);
        int r = rt_wait(g, rt_unlock_word, &m->lock, deadline, WEFT_WAIT_MUTEX, m);
        if (r != 0) {
            leave(m, &me.w);
            return r;
        }
        if (me.w.result == HANDED || barge(m, WOKEN))
            return 0;
        woken = WOKEN;
        now = rt_now();
    }
}

int weft_mutex_lock(weft_mutex *pm)
{
    mutex_rec *m = rec(pm);
    if (rt_likely(take_free(m)))
        return 0;
    return lock_slow(m, WEFT_FOREVER);
}

int weft_mutex_lock_dl(weft_mutex *pm, int64_t deadline)
{
    mutex_rec *m = rec(pm);
    if (rt_likely(take_free(m)))
        return 0;
    return lock_slow(m, deadline);
}

int weft_mutex_try_lock(weft_mutex *pm)
{
    return barge(rec(pm), 0) ? 0 : -EAGAIN;
}

/* ---- unlock ---- */

/* Gives the word back when nobody has to be woken. 0, -EPERM, or -EAGAIN: somebody has. */
static int unlock_word(mutex_rec *m, uint32_t s)
{
    for (;;) {
        if ((s & LOCKED) == 0)
            return -EPERM;
        if ((s & WAITERS) != 0 && (s & WOKEN) == 0)
            return -EAGAIN;
        /* release: partner is cas_acquire of the next owner. */
        if (atomic_compare_exchange_weak_explicit(&m->word, &s, s & ~(uint32_t)LOCKED,
                                                  memory_order_release, memory_order_relaxed))
            return 0;
    }
}

/* The next word after w has been taken off the queue (NULL: there was nobody). */
static uint32_t word_after_locked(const mutex_rec *m, uint32_t s, const rt_waiter *w, bool *handed)
{
    *handed = false;
    if (m->queue.head == NULL)
        s &= ~(uint32_t)WAITERS;
    if (w == NULL)
        return s & ~(uint32_t)(LOCKED | WAITERS | HANDOFF);
    if ((s & HANDOFF) == 0)
        return (s & ~(uint32_t)LOCKED) | WOKEN;
    *handed = true;
    int64_t began_ns = ((const mutex_waiter *)w)->began_ns;
    if ((s & WAITERS) == 0 || rt_now() - began_ns < HANDOFF_AFTER_NS)
        s &= ~(uint32_t)HANDOFF;
    return s;
}

/* A negative errno, or since when the woken one had waited (0: nobody, or nobody asked). */
static RT_NOINLINE int64_t unlock_slow(mutex_rec *m)
{
    int r = unlock_word(m, load_relaxed(&m->word));
    if (r != -EAGAIN)
        return r;
    rt_lock_acquire(&m->lock);
    uint32_t s = load_relaxed(&m->word);
    if ((s & LOCKED) == 0) { /* two unlocks of one lock met here */
        rt_lock_release(&m->lock);
        return -EPERM;
    }
    rt_waiter *w = rt_queue_pop(&m->queue);
    bool handed;
    uint32_t next = word_after_locked(m, s, w, &handed);
    int64_t since = 0;
    if (w != NULL) {
        w->result = handed ? HANDED : FREED;
        since = w->since;
    }
    /* release: partner is cas_acquire of the next owner, or the wake for the one it is handed to.
     * A plain store will do: with LOCKED set, WAITERS set and WOKEN clear, nobody changes the word
     * without the queue lock. */
    store_release(&m->word, next);
    rt_lock_release(&m->lock);
    if (w != NULL)
        rt_waiter_ready(w);
    return since;
}

int weft_mutex_unlock(weft_mutex *pm)
{
    mutex_rec *m = rec(pm);
    uint32_t seen = LOCKED; /* release: partner is cas_acquire and take_free of the next owner */
    if (rt_likely(atomic_compare_exchange_strong_explicit(&m->word, &seen, 0, memory_order_release,
                                                          memory_order_relaxed)))
        return 0;
    int64_t since = unlock_slow(m);
    if (since <= 0)
        return (int)since;
    const weft_hooks *h = rt_hook(WEFT_HOOK_UNLOCK);
    if (h != NULL) {
        int64_t wait_ns = rt_now() - since;
        h->unlock_end(wait_ns > 0 ? wait_ns : 1);
    }
    return 0;
}
