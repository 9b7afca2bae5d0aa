/* The channel record, shared by chan.c (single operations) and select.c (many at once). Nobody else
 * looks inside. The rules of the fields are the invariants at the top of chan.c. */
#ifndef WEFT_CHAN_H
#define WEFT_CHAN_H

#include "rt.h"

struct weft_chan {
    rt_lock lock;               /* rank 1; several are taken in address order */
    _Atomic(uint8_t) closed;    /* 0 -> 1 once, under lock */
    _Atomic(uint8_t) has_recvs; /* recvq is not empty; under lock, read without it */
    _Atomic(uint8_t) has_sends; /* the same for sendq */
    _Atomic(uint32_t) refs;     /* by anybody */
    _Atomic(size_t) count;      /* elements in the ring; under lock, read without it */
    size_t send_at, recv_at;    /* next slot to fill and to empty; under lock */
    size_t elem_bytes, cap;     /* fixed */
    _Atomic(uint64_t) seed;     /* select's random state; racing updates are harmless */
    rt_queue recvq, sendq;      /* under lock */
    unsigned char ring[] __attribute__((aligned(16)));
};

/* Could a receive go on now? Without the lock; the answer may be old as soon as it is given.
 * acquire: partners are the release stores of has_sends and count in chan.c, so that whoever sees a
 * channel emptied after its close also sees the close. */
static inline bool rt_chan_empty(weft_chan *c)
{
    return c->cap == 0 ? !load_acquire(&c->has_sends) : load_acquire(&c->count) == 0;
}
/* The same for a send. acquire: as above, with has_recvs for has_sends. */
static inline bool rt_chan_full(weft_chan *c)
{
    return c->cap == 0 ? !load_acquire(&c->has_recvs) : load_acquire(&c->count) == c->cap;
}

/* To be called after each change of a queue, under the lock. release: partners above. */
static inline void rt_chan_note_locked(weft_chan *c)
{
    /* The caller holds its lock. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    store_release(&c->has_recvs, c->recvq.head != NULL);
    store_release(&c->has_sends, c->sendq.head != NULL);
}

/* One attempt under the lock: 0, -EPIPE or -EAGAIN. A parked peer that it served is put in *wake;
 * the caller readies it after it has unlocked. */
RT_HIDDEN int rt_chan_send_locked(weft_chan *c, const void *elem, rt_waiter **wake);
RT_HIDDEN int rt_chan_recv_locked(weft_chan *c, void *elem, rt_waiter **wake);

/* Whole operations with the wait reason of the caller's choice. */
RT_HIDDEN int rt_chan_send_why(weft_chan *c, const void *elem, int64_t deadline,
                               weft_wait_reason why);
RT_HIDDEN int rt_chan_recv_why(weft_chan *c, void *elem, int64_t deadline, weft_wait_reason why);

RT_HIDDEN void rt_chan_zero(const weft_chan *c, void *elem); /* elem may be NULL */

#endif
