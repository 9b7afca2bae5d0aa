/* weft_select: waits on many channel operations at once and does exactly one.
 *
 * Three passes, as in Go, behind one look without locks:
 *  0. Which cases look ready? One of those, drawn evenly, is tried under its own lock alone. Any
 *     ready case may be chosen, so this needs no view of the others; when the try fails, or nothing
 *     looked ready, the passes decide. (Nothing ready is only true if it was so for all channels
 *     at one moment, hence not decided here: a peer may move a token from a channel not yet looked
 *     at to one already passed.)
 *  1. Lock all channels; walk the cases in shuffled order; do the first that can go on.
 *  2. Queue a waiter on each channel, and park; the park releases the locks.
 *  3. Woken: the waker has done the operation through the waiter. Take the others off.
 *
 * Invariants:
 *  1. Lock order is by channel address, each channel once however many cases name it; it is kept
 *     apart from the poll order, which is random (R23, R24).
 *  2. All waiters are `shared`: whoever wins g's claim is the only one that touches an element, so
 *     two selects that meet on one channel in both directions pair up once (R25).
 *  3. unlock_all runs while the caller may be running again already (a waker can take the first
 *     channel the moment it is free). It reads the caller's frame only while it holds a lock that
 *     the caller needs: pass 3 takes every channel's lock but the winner's, and the winner's waker
 *     has had that one. So the frame cannot go away before the last release, and nothing is read
 *     after it.
 *  4. The frame holds no more than n waiters, and at most 64 (3.8 KiB); more go to malloc.
 *
 * Locks: the channels' (rank 1, equal ranks by address).
 *
 * Randomness: a Weyl counter in the first case's channel, whose cache line the call needs anyway,
 * through a 64-bit mixer. Two calls that race for the counter may draw the same number, which is
 * still fair. Rejected: a counter for the process (one shared line for all selects), a per-thread
 * one (this file may not hold thread state over a park).
 *
 * Rejected: pass 3 with all locks held at once, as pass 1: one after the other keeps each for a few
 * ns and can skip the winner's, one lock pair less for the usual two cases. */
#include "chan.h"
#include <errno.h>
#include <stdlib.h>

#define STACK_CASES 64
#define CASES_MAX   65535

typedef struct sel {
    weft_case *cs;
    uint16_t *lock_order; /* places of the cases with a channel, by channel address */
    uint16_t *poll_order; /* the same places, shuffled */
    rt_waiter *waiters;   /* in lock order; NULL for a try */
    int n;                /* how many have a channel */
} sel;

/* ---- chance ---- */

static uint64_t draw(weft_chan *c)
{
    uint64_t x = load_relaxed(&c->seed) + 0x9e3779b97f4a7c15u;
    store_relaxed(&c->seed, x);
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* A number below n (n <= 65535); the bias is below 2^-16 of its probability. */
static uint32_t below(uint64_t random, uint32_t n)
{
    return (uint32_t)(((random >> 32) * n) >> 32);
}

/* ---- locks of all channels ---- */

static void lock_all(const sel *s)
{
    weft_chan *last = NULL;
    for (int i = 0; i < s->n; i++) {
        weft_chan *c = s->cs[s->lock_order[i]].chan;
        if (c != last)
            rt_lock_acquire(&c->lock);
        last = c;
    }
}

/* Also rt_wait's unlock, see invariant 3: a channel is released only when the next one is known. */
static void unlock_all(void *arg)
{
    const sel *s = arg;
    weft_chan *held = s->cs[s->lock_order[0]].chan;
    for (int i = 1, n = s->n; i < n; i++) {
        weft_chan *c = s->cs[s->lock_order[i]].chan;
        if (c != held)
            rt_lock_release(&held->lock);
        held = c;
    }
    rt_lock_release(&held->lock);
}

/* Shell's sort: no recursion, no memory, and plain insertion for the few cases there usually are.
 */
static void sort_by_channel(uint16_t *order, int n, const weft_case *cs)
{
    int gap = 1;
    while (gap < n / 3)
        gap = 3 * gap + 1;
    for (; gap > 0; gap /= 3)
        for (int i = gap; i < n; i++) {
            uint16_t moved = order[i];
            int j = i;
            for (; j >= gap && (uintptr_t)cs[order[j - gap]].chan > (uintptr_t)cs[moved].chan;
                 j -= gap)
                order[j] = order[j - gap];
            order[j] = moved;
        }
}

static void make_orders(sel *s, int n)
{
    int used = 0;
    for (int i = 0; i < n; i++)
        if (s->cs[i].chan != NULL) {
            s->lock_order[used] = (uint16_t)i;
            s->poll_order[used++] = (uint16_t)i;
        }
    s->n = used;
    weft_chan *first = s->cs[s->poll_order[0]].chan;
    for (int i = used - 1; i > 0; i--) {
        uint32_t j = below(draw(first), (uint32_t)i + 1);
        uint16_t t = s->poll_order[i];
        s->poll_order[i] = s->poll_order[j];
        s->poll_order[j] = t;
    }
    sort_by_channel(s->lock_order, used, s->cs);
}

/* ---- the passes ---- */

static int try_case_locked(weft_case *k, rt_waiter **wake)
{
    return k->op == WEFT_OP_SEND ? rt_chan_send_locked(k->chan, k->elem, wake)
                                 : rt_chan_recv_locked(k->chan, k->elem, wake);
}

/* Pass 0, n <= 64. The index of the case that was done, or -EAGAIN. */
static int try_one_ready(weft_case *cs, int n)
{
    uint64_t ready = 0;
    for (int i = 0; i < n; i++) {
        weft_chan *c = cs[i].chan;
        if (c == NULL)
            continue;
        bool blocked = cs[i].op == WEFT_OP_SEND ? rt_chan_full(c) : rt_chan_empty(c);
        /* acquire: partner is weft_chan_close. */
        if (!blocked || load_acquire(&c->closed))
            ready |= (uint64_t)1 << i;
    }
    if (ready == 0)
        return -EAGAIN;
    if ((ready & (ready - 1)) != 0) {
        weft_chan *first = cs[__builtin_ctzll(ready)].chan;
        uint32_t skip = below(draw(first), (uint32_t)__builtin_popcountll(ready));
        while (skip-- > 0)
            ready &= ready - 1;
    }
    int i = __builtin_ctzll(ready);
    weft_chan *c = cs[i].chan;
    rt_waiter *wake = NULL;
    rt_lock_acquire(&c->lock);
    int r = try_case_locked(&cs[i], &wake);
    rt_lock_release(&c->lock);
    if (r == -EAGAIN)
        return r;
    if (wake != NULL)
        rt_waiter_ready(wake);
    cs[i].result = r;
    return i;
}

/* Pass 1, under all locks. */
static int try_all_locked(const sel *s, rt_waiter **wake)
{
    for (int i = 0; i < s->n; i++) {
        weft_case *k = &s->cs[s->poll_order[i]];
        int r = try_case_locked(k, wake);
        if (r != -EAGAIN) {
            k->result = r;
            return s->poll_order[i];
        }
    }
    return -EAGAIN;
}

static rt_queue *case_queue(const weft_case *k)
{
    return k->op == WEFT_OP_SEND ? &k->chan->sendq : &k->chan->recvq;
}

/* Pass 3. winner is NULL after a timeout. */
static void dequeue_others(const sel *s, const rt_waiter *winner)
{
    weft_chan *held = NULL;
    for (int i = 0; i < s->n; i++) {
        const weft_case *k = &s->cs[s->lock_order[i]];
        if (&s->waiters[i] == winner)
            continue;
        if (k->chan != held) {
            if (held != NULL)
                rt_lock_release(&held->lock);
            held = k->chan;
            rt_lock_acquire(&held->lock);
        }
        rt_queue_remove(case_queue(k), &s->waiters[i]);
        rt_chan_note_locked(held);
    }
    if (held != NULL)
        rt_lock_release(&held->lock);
}

/* Passes 2 and 3; holds all locks, and gives them up. */
static int wait_all_locked(sel *s, int64_t deadline)
{
    rt_g *g = rt_self();
    if (g == NULL) {
        unlock_all(s);
        return -ENOMEM;
    }
    rt_wait_begin(g);
    for (int i = 0; i < s->n; i++) {
        const weft_case *k = &s->cs[s->lock_order[i]];
        s->waiters[i] = (rt_waiter){
            .g = g, .elem = k->elem, .obj = k->chan, .index = s->lock_order[i], .shared = true};
        rt_queue_push(case_queue(k), &s->waiters[i]);
        rt_chan_note_locked(k->chan);
    }
    int r = rt_wait(g, unlock_all, s, deadline, WEFT_WAIT_SELECT, s->waiters[0].obj);
    const rt_waiter *winner = r == 0 ? g->woken : NULL;
    dequeue_others(s, winner);
    if (winner == NULL)
        return r;
    weft_case *k = &s->cs[winner->index];
    k->result = winner->result;
    if (k->result == -EPIPE && k->op == WEFT_OP_RECV)
        rt_chan_zero(k->chan, k->elem);
    return winner->index;
}

static int run_passes(sel *s, int n, int64_t deadline)
{
    rt_waiter *wake = NULL;
    make_orders(s, n);
    lock_all(s);
    int r = try_all_locked(s, &wake);
    if (r != -EAGAIN || s->waiters == NULL) {
        unlock_all(s);
        if (wake != NULL)
            rt_waiter_ready(wake);
        return r;
    }
    if (deadline != WEFT_FOREVER && deadline <= rt_now()) {
        unlock_all(s);
        return -ETIMEDOUT;
    }
    return wait_all_locked(s, deadline);
}

/* ---- the call ---- */

static void unlock_nothing(void *arg)
{
    (void)arg;
}

static int wait_no_cases(int64_t deadline)
{
    if (deadline != WEFT_FOREVER && deadline <= rt_now())
        return -ETIMEDOUT;
    rt_g *g = rt_self();
    if (g == NULL)
        return -ENOMEM;
    int r;
    do {
        rt_wait_begin(g);
        r = rt_wait(g, unlock_nothing, NULL, deadline, WEFT_WAIT_SELECT_NO_CASES, NULL);
    } while (r == 0);
    return r;
}

/* One case is a plain operation, which waits as a select all the same. */
static int select_one(weft_case *k, bool may_wait, int64_t deadline)
{
    int r;
    if (k->op == WEFT_OP_SEND)
        r = may_wait ? rt_chan_send_why(k->chan, k->elem, deadline, WEFT_WAIT_SELECT)
                     : weft_chan_try_send(k->chan, k->elem);
    else
        r = may_wait ? rt_chan_recv_why(k->chan, k->elem, deadline, WEFT_WAIT_SELECT)
                     : weft_chan_try_recv(k->chan, k->elem);
    if (r != 0 && r != -EPIPE)
        return r;
    k->result = r;
    return 0;
}

/* A function of its own, so that a select that finds a case ready at once has a small frame. */
static RT_NOINLINE int select_slow(weft_case *cs, int n, bool may_wait, int64_t deadline)
{
    size_t each = 2 * sizeof(uint16_t) + (may_wait ? sizeof(rt_waiter) : 0);
    size_t bytes = (size_t)n * each;
    char *heap = NULL, *mem;
    if (n <= STACK_CASES)
        mem = __builtin_alloca_with_align(bytes, 8 * _Alignof(rt_waiter));
    else if ((mem = heap = malloc(bytes)) == NULL)
        return -ENOMEM;
    sel s = {.cs = cs};
    if (may_wait) {
        s.waiters = (rt_waiter *)(void *)mem;
        mem += (size_t)n * sizeof(rt_waiter);
    }
    s.lock_order = (uint16_t *)(void *)mem;
    s.poll_order = s.lock_order + n;
    int r = run_passes(&s, n, deadline);
    free(heap);
    return r;
}

static int select_any(weft_case *cs, int n, bool may_wait, int64_t deadline)
{
    if (n < 0 || n > CASES_MAX || (n > 0 && cs == NULL))
        return -EINVAL;
    int used = 0;
    for (int i = 0; i < n; i++) {
        if (cs[i].op != WEFT_OP_RECV && cs[i].op != WEFT_OP_SEND)
            return -EINVAL;
        used += cs[i].chan != NULL;
    }
    if (used == 0)
        return may_wait ? wait_no_cases(deadline) : -EAGAIN;
    if (n == 1)
        return select_one(cs, may_wait, deadline);
    if (n <= STACK_CASES) {
        int r = try_one_ready(cs, n);
        if (r != -EAGAIN)
            return r;
    }
    return select_slow(cs, n, may_wait, deadline);
}

int weft_select(weft_case *cs, int n)
{
    return select_any(cs, n, true, WEFT_FOREVER);
}

int weft_select_dl(weft_case *cs, int n, int64_t deadline)
{
    return select_any(cs, n, true, deadline);
}

int weft_try_select(weft_case *cs, int n)
{
    return select_any(cs, n, false, 0);
}
