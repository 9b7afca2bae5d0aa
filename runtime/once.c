/* Once: the first caller runs the function, the others wait until it has run.
 *
 * Invariants:
 *  1. The state goes FRESH -> RUNNING -> DONE and never back. DONE is stored under the lock, so a
 *     caller that looks under the lock and then queues cannot miss it.
 *  2. The function runs with no lock of ours held; it may park. If it never returns (it waits for
 *     its own once, or ends its coroutine with weft_exit), the others wait for ever: C has no
 *     unwinding that could tell.
 *
 * Locks: word[1] (rank 1).
 *
 * Errors beyond the header: -ENOMEM when a plain thread waits for the first time and there is no
 * memory for its record; the function may be running then. */
#include "rt.h"
#include <errno.h>

enum { FRESH, RUNNING, DONE };

typedef struct once_rec {
    _Atomic(uint32_t) state;
    rt_lock lock;
    rt_queue queue; /* under lock */
    uint64_t spare[2];
} once_rec;
_Static_assert(sizeof(once_rec) == sizeof(weft_once), "same record, public and private");
_Static_assert(offsetof(once_rec, queue) == offsetof(weft_once, queue), "same record");
_Static_assert(sizeof(((weft_once *)0)->spare) == 16, "room to grow");

static void finish(once_rec *o)
{
    rt_waiter *list = NULL, **tail = &list;
    rt_lock_acquire(&o->lock);
    store_release(&o->state, DONE); /* partner: the load in weft_once_do */
    for (rt_waiter *w; (w = rt_queue_pop(&o->queue)) != NULL; tail = &w->next) {
        w->result = 0;
        w->next = NULL;
        *tail = w;
    }
    rt_lock_release(&o->lock);
    if (list != NULL)
        rt_waiter_ready_all(list);
}

static RT_NOINLINE int once_slow(once_rec *o, void (*fn)(void *), void *arg)
{
    uint32_t fresh = FRESH; /* relaxed: who wins has nothing to see, the losers take the lock */
    if (atomic_compare_exchange_strong_explicit(&o->state, &fresh, RUNNING, memory_order_relaxed,
                                                memory_order_relaxed)) {
        fn(arg);
        finish(o);
        return 0;
    }
    rt_lock_acquire(&o->lock);
    if (load_relaxed(&o->state) == DONE) {
        rt_lock_release(&o->lock);
        return 0;
    }
    rt_g *g = rt_self();
    if (g == NULL) {
        rt_lock_release(&o->lock);
        return -ENOMEM;
    }
    rt_waiter w = {.g = g, .obj = o};
    rt_wait_begin(g);
    rt_queue_push(&o->queue, &w);
    return rt_wait(g, rt_unlock_word, &o->lock, WEFT_FOREVER, WEFT_WAIT_ONCE, o);
}

int weft_once_do(weft_once *once, void (*fn)(void *), void *arg)
{
    once_rec *o = (once_rec *)once;
    if (rt_unlikely(fn == NULL))
        return -EINVAL;
    /* acquire: partner is finish, so that every caller sees what fn did. */
    if (rt_likely(load_acquire(&o->state) == DONE))
        return 0;
    return once_slow(o, fn, arg);
}
