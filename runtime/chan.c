/* Channels: a bounded ring of elements with a queue of parked receivers and one of parked senders.
 *
 * A sender that finds a parked receiver copies straight into that receiver's buffer, and a receiver
 * that finds a parked sender copies straight out of it (through the ring's two ends when the ring
 * is full), so nobody runs only to find the element gone again.
 *
 * Invariants, all under c->lock:
 *  1. At most one of recvq and sendq holds a waiter that can still be woken, except by selects that
 *     wait for both directions: a select never meets itself, because it queues only after its own
 *     last look and holds all its locks between the two.
 *  2. cap > 0: sendq not empty implies count == cap; recvq not empty implies count == 0. (Both up
 *     to waiters whose deadline has fired and who are about to take themselves off.)
 *  3. A parked party's buffer is touched only between taking its waiter off the queue and readying
 *     it, and only under the lock; it cannot run then, and its stack is not trimmed (R22, R27).
 *  4. closed never goes back. After it is set nothing enters the ring, and both queues are empty.
 *  5. has_recvs and has_sends say what the queue heads say; they exist so that the hot path stays
 *     in the first cache line and so that a try call can look without the lock.
 *  6. A waiter that lost its claim to a deadline or to another case of its select is dropped by
 *     rt_queue_pop before an element is touched: a timeout never consumes or loses an element.
 *
 * Locks: c->lock (rank 1). Nothing is called under it but memcpy, the queue functions and, on a
 * plain thread's first wait, the allocation of its record.
 *
 * References: a call uses its caller's reference. To release the last one while another call is
 * inside (parked included) is the program's mistake, as with any memory. A parked call does not
 * hold a reference of its own: it would cost two locked instructions for each wait, and would keep
 * a channel alive that no one could ever use again.
 *
 * Rejected: the closer zeroing the receivers' elements; each receiver zeroes its own when it runs,
 * which keeps the time under the lock independent of elem_bytes. */
#include "chan.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

_Static_assert(offsetof(struct weft_chan, recvq) <= RT_CACHELINE, "hot fields fill one line");

/* Mixes channels that are made at the same address again and again into different seeds. */
static _Atomic(uint64_t) chans_made;

weft_chan *weft_chan_new(size_t elem_bytes, size_t capacity)
{
    size_t ring, bytes;
    if (__builtin_mul_overflow(elem_bytes, capacity, &ring) ||
        __builtin_add_overflow(ring, sizeof(weft_chan) + RT_CACHELINE - 1, &bytes) ||
        bytes > PTRDIFF_MAX)
        return NULL;
    weft_chan *c = aligned_alloc(RT_CACHELINE, bytes & ~(size_t)(RT_CACHELINE - 1));
    if (c == NULL)
        return NULL;
    memset(c, 0, sizeof *c);
    store_relaxed(&c->refs, 1);
    c->elem_bytes = elem_bytes;
    c->cap = capacity;
    uint64_t made = atomic_fetch_add_explicit(&chans_made, 1, memory_order_relaxed);
    store_relaxed(&c->seed, (made << 32) ^ (uintptr_t)c);
    return c;
}

weft_chan *weft_chan_retain(weft_chan *c)
{
    if (c != NULL)
        atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
    return c;
}

void weft_chan_release(weft_chan *c)
{
    /* acq_rel: the one that frees sees what every other releaser did (they are the partners). */
    if (c != NULL && atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) == 1)
        free(c);
}

size_t weft_chan_len(const weft_chan *c)
{
    return c == NULL ? 0 : load_relaxed(&c->count);
}

size_t weft_chan_cap(const weft_chan *c)
{
    return c == NULL ? 0 : c->cap;
}

/* ---- elements ---- */

/* The constant sizes become one or two moves; memcpy because elements may be unaligned. */
static inline void copy_elem(void *to, const void *from, size_t bytes)
{
    switch (bytes) {
    case 0:
        break;
    case 1:
        memcpy(to, from, 1);
        break;
    case 2:
        memcpy(to, from, 2);
        break;
    case 4:
        memcpy(to, from, 4);
        break;
    case 8:
        memcpy(to, from, 8);
        break;
    case 16:
        memcpy(to, from, 16);
        break;
    default:
        memcpy(to, from, bytes);
    }
}

void rt_chan_zero(const weft_chan *c, void *elem)
{
    if (elem != NULL && c->elem_bytes != 0)
        memset(elem, 0, c->elem_bytes);
}

/* to may be NULL (discard), from may be NULL (zeros). */
static inline void move_elem(const weft_chan *c, void *to, const void *from)
{
    if (rt_unlikely(to == NULL))
        return;
    if (rt_unlikely(from == NULL))
        rt_chan_zero(c, to);
    else
        copy_elem(to, from, c->elem_bytes);
}

static inline void ring_put_locked(weft_chan *c, const void *elem)
{
    move_elem(c, c->ring + c->send_at * c->elem_bytes, elem);
    c->send_at = c->send_at + 1 == c->cap ? 0 : c->send_at + 1;
}

static inline void ring_take_locked(weft_chan *c, void *elem)
{
    move_elem(c, elem, c->ring + c->recv_at * c->elem_bytes);
    c->recv_at = c->recv_at + 1 == c->cap ? 0 : c->recv_at + 1;
}

/* ---- one attempt ---- */

static RT_NOINLINE rt_waiter *pop_locked(weft_chan *c, rt_queue *q)
{
    rt_waiter *w = rt_queue_pop(q);
    rt_chan_note_locked(c);
    if (w != NULL)
        w->result = 0;
    return w;
}

static inline int send_locked(weft_chan *c, const void *elem, rt_waiter **wake)
{
    if (rt_unlikely(load_relaxed(&c->closed)))
        return -EPIPE;
    if (load_relaxed(&c->has_recvs)) {
        rt_waiter *w = pop_locked(c, &c->recvq);
        if (w != NULL) {
            move_elem(c, w->elem, elem);
            *wake = w;
            return 0;
        }
    }
    size_t count = load_relaxed(&c->count);
    if (count == c->cap)
        return -EAGAIN;
    ring_put_locked(c, elem);
    store_release(&c->count, count + 1); /* partner: rt_chan_full */
    return 0;
}

static inline int recv_locked(weft_chan *c, void *elem, rt_waiter **wake)
{
    size_t count = load_relaxed(&c->count);
    if (load_relaxed(&c->has_sends)) {
        rt_waiter *w = pop_locked(c, &c->sendq);
        if (w != NULL) {
            if (count == 0) {
                move_elem(c, elem, w->elem);
            } else { /* full: the oldest comes out, the sender's goes in at the other end */
                ring_take_locked(c, elem);
                ring_put_locked(c, w->elem);
            }
            *wake = w;
            return 0;
        }
    }
    if (count != 0) {
        ring_take_locked(c, elem);
        store_release(&c->count, count - 1); /* partner: rt_chan_empty */
        return 0;
    }
    if (load_relaxed(&c->closed)) {
        rt_chan_zero(c, elem);
        return -EPIPE;
    }
    return -EAGAIN;
}

int rt_chan_send_locked(weft_chan *c, const void *elem, rt_waiter **wake)
{
    return send_locked(c, elem, wake);
}

int rt_chan_recv_locked(weft_chan *c, void *elem, rt_waiter **wake)
{
    return recv_locked(c, elem, wake);
}

/* ---- waiting ---- */

/* Parks the caller on q, which is one of c's; holds the lock, and gives it up in any case. The
 * operation has been done by the peer when this returns 0. */
static RT_NOINLINE int wait_locked(weft_chan *c, rt_queue *q, void *elem, int64_t deadline,
                                   weft_wait_reason why)
{
    bool dated = deadline != WEFT_FOREVER;
    rt_g *g = NULL;
    int r = 0;
    if (dated && deadline <= rt_now())
        r = -ETIMEDOUT;
    else if ((g = rt_self()) == NULL)
        r = -ENOMEM;
    if (r != 0) {
        rt_lock_release(&c->lock);
        return r;
    }
    rt_waiter w = {.g = g, .elem = elem, .obj = c, .shared = dated};
    rt_wait_begin(g);
    rt_queue_push(q, &w);
    rt_chan_note_locked(c);
    r = rt_wait(g, rt_unlock_word, &c->lock, deadline, why, c);
    if (r == 0)
        return w.result;
    rt_lock_acquire(&c->lock);
    rt_queue_remove(q, &w);
    rt_chan_note_locked(c);
    rt_lock_release(&c->lock);
    return r;
}

int rt_chan_send_why(weft_chan *c, const void *elem, int64_t deadline, weft_wait_reason why)
{
    rt_waiter *wake = NULL;
    rt_lock_acquire(&c->lock);
    int r = send_locked(c, elem, &wake);
    if (rt_unlikely(r == -EAGAIN))
        return wait_locked(c, &c->sendq, (void *)elem, deadline, why);
    rt_lock_release(&c->lock);
    if (wake != NULL)
        rt_waiter_ready(wake);
    return r;
}

int rt_chan_recv_why(weft_chan *c, void *elem, int64_t deadline, weft_wait_reason why)
{
    rt_waiter *wake = NULL;
    rt_lock_acquire(&c->lock);
    int r = recv_locked(c, elem, &wake);
    if (rt_unlikely(r == -EAGAIN)) {
        r = wait_locked(c, &c->recvq, elem, deadline, why);
        if (r == -EPIPE)
            rt_chan_zero(c, elem);
        return r;
    }
    rt_lock_release(&c->lock);
    if (wake != NULL)
        rt_waiter_ready(wake);
    return r;
}

int weft_chan_send(weft_chan *c, const void *elem)
{
    if (rt_unlikely(c == NULL))
        return -EINVAL;
    return rt_chan_send_why(c, elem, WEFT_FOREVER, WEFT_WAIT_CHAN_SEND);
}

int weft_chan_send_dl(weft_chan *c, const void *elem, int64_t deadline)
{
    if (rt_unlikely(c == NULL))
        return -EINVAL;
    return rt_chan_send_why(c, elem, deadline, WEFT_WAIT_CHAN_SEND);
}

int weft_chan_recv(weft_chan *c, void *elem)
{
    if (rt_unlikely(c == NULL))
        return -EINVAL;
    return rt_chan_recv_why(c, elem, WEFT_FOREVER, WEFT_WAIT_CHAN_RECV);
}

int weft_chan_recv_dl(weft_chan *c, void *elem, int64_t deadline)
{
    if (rt_unlikely(c == NULL))
        return -EINVAL;
    return rt_chan_recv_why(c, elem, deadline, WEFT_WAIT_CHAN_RECV);
}

/* ---- try ---- */

/* The order of the two looks matters in both calls: first full or empty, then closed. Close empties
 * the queues, so an unbuffered channel turns "full" by it; seeing that, one must see the close. */
int weft_chan_try_send(weft_chan *c, const void *elem)
{
    if (rt_unlikely(c == NULL))
        return -EINVAL;
    if (rt_chan_full(c) && !load_relaxed(&c->closed))
        return -EAGAIN;
    rt_waiter *wake = NULL;
    rt_lock_acquire(&c->lock);
    int r = send_locked(c, elem, &wake);
    rt_lock_release(&c->lock);
    if (wake != NULL)
        rt_waiter_ready(wake);
    return r;
}

int weft_chan_try_recv(weft_chan *c, void *elem)
{
    if (rt_unlikely(c == NULL))
        return -EINVAL;
    if (rt_chan_empty(c)) {
        /* acquire: partner is the release store in weft_chan_close, so that the second look sees
         * all that was sent before the close. */
        if (!load_acquire(&c->closed))
            return -EAGAIN;
        if (rt_chan_empty(c)) {
            rt_chan_zero(c, elem);
            return -EPIPE;
        }
    }
    rt_waiter *wake = NULL;
    rt_lock_acquire(&c->lock);
    int r = recv_locked(c, elem, &wake);
    rt_lock_release(&c->lock);
    if (wake != NULL)
        rt_waiter_ready(wake);
    return r;
}

/* ---- close ---- */

/* Takes every waiter that can still be woken off q and links it at *tail; returns the new tail. */
static rt_waiter **drain_locked(rt_queue *q, rt_waiter **tail)
{
    for (rt_waiter *w; (w = rt_queue_pop(q)) != NULL;) {
        w->result = -EPIPE;
        w->next = NULL;
        *tail = w;
        tail = &w->next;
    }
    return tail;
}

int weft_chan_close(weft_chan *c)
{
    if (c == NULL)
        return -EINVAL;
    rt_waiter *list = NULL;
    rt_lock_acquire(&c->lock);
    if (load_relaxed(&c->closed)) {
        rt_lock_release(&c->lock);
        return -EPIPE;
    }
    store_release(&c->closed, 1); /* partner: weft_chan_try_recv, and select's first look */
    drain_locked(&c->sendq, drain_locked(&c->recvq, &list));
    rt_chan_note_locked(c);
    rt_lock_release(&c->lock);
    if (list != NULL)
        rt_waiter_ready_all(list);
    return 0;
}
