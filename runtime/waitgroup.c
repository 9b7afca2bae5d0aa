/* The wait group: a counter, and a queue of those that wait for it to become 0.
 *
 * Counter and the mark "somebody may wait" share one 64-bit word (count * 2 + mark), so that an add
 * that does not end a wait is one compare-and-swap.
 *
 * Invariants:
 *  1. A waiter queues under the lock, with the mark set and the count above 0 in one step.
 *  2. With the mark set, the count becomes 0 only under the lock, in the step that also takes all
 *     waiters off: each is woken by the zero it waited for, whatever is added afterwards.
 *  3. An add that holds the lock leaves the mark set, and only a waiter clears it, under the lock.
 *     So whoever sees the whole word 0 knows that no add is still inside, and may free the memory;
 *     a wait that sees count 0 with the mark passes through the lock and so waits for that add.
 *
 * Locks: word[0] (rank 1). All waiters of one zero are readied as one batch.
 *
 * Errors beyond the header: -EOVERFLOW when the count passes 2^62; -ENOMEM when a plain thread
 * waits for the first time and there is no memory for its record. */
#include "rt.h"
#include <errno.h>

typedef struct wg_rec {
    _Atomic(int64_t) count; /* count * 2 + mark */
    rt_lock lock;
    uint32_t unused;
    rt_queue queue; /* under lock */
    uint64_t spare[2];
} wg_rec;
_Static_assert(sizeof(wg_rec) == sizeof(weft_wg), "same record, public and private");
_Static_assert(offsetof(wg_rec, queue) == offsetof(weft_wg, queue), "same record");
_Static_assert(sizeof(((weft_wg *)0)->spare) == 16, "room to grow");

#define MARK ((int64_t)1)

static inline wg_rec *rec(weft_wg *wg)
{
    return (wg_rec *)wg;
}

/* The word after adding n, in *next; or why not. */
static inline int sum(int64_t word, int n, int64_t *next)
{
    if (rt_unlikely(__builtin_add_overflow(word, 2 * (int64_t)n, next)))
        return -EOVERFLOW;
    return *next < 0 ? -EINVAL : 0;
}

/* release: all that came before an add is seen by the waiter it ends (acquire in wait);
 * acquire: the add that reaches 0 hands on what the others released, and a wait whose step fails
 * because the count has just become 0 must see what came before that, too. */
static inline bool cas(wg_rec *wg, int64_t *seen, int64_t next)
{
    return atomic_compare_exchange_weak_explicit(&wg->count, seen, next, memory_order_acq_rel,
                                                 memory_order_acquire);
}

static RT_NOINLINE int add_slow(wg_rec *wg, int n)
{
    rt_waiter *list = NULL, **tail = &list;
    int64_t next;
    rt_lock_acquire(&wg->lock);
    int64_t word = load_relaxed(&wg->count);
    int r;
    do {
        r = sum(word, n, &next);
    } while (r == 0 && !cas(wg, &word, next | MARK));
    if (r == 0 && next <= MARK)
        for (rt_waiter *w; (w = rt_queue_pop(&wg->queue)) != NULL; tail = &w->next) {
            w->result = 0;
            w->next = NULL;
            *tail = w;
        }
    rt_lock_release(&wg->lock);
    if (list != NULL)
        rt_waiter_ready_all(list);
    return r;
}

static inline int add(wg_rec *wg, int n)
{
    int64_t word = load_relaxed(&wg->count), next;
    do {
        int r = sum(word, n, &next);
        if (rt_unlikely(r != 0))
            return r;
        if (next == MARK)
            return add_slow(wg, n);
    } while (!cas(wg, &word, next));
    return 0;
}

int weft_wg_add(weft_wg *wg, int n)
{
    return add(rec(wg), n);
}

int weft_wg_done(weft_wg *wg)
{
    return add(rec(wg), -1);
}

/* Sets the mark, unless the count is 0. acquire: partner is cas in the add that made it 0. */
static bool mark_locked(wg_rec *wg)
{
    int64_t word = load_acquire(&wg->count);
    while (word > MARK)
        if ((word & MARK) != 0 || cas(wg, &word, word | MARK))
            return true;
    return false;
}

static void unmark_if_alone_locked(wg_rec *wg)
{
    if (wg->queue.head == NULL)
        atomic_fetch_and_explicit(&wg->count, ~MARK, memory_order_relaxed);
}

static RT_NOINLINE int wait_slow(wg_rec *wg, int64_t deadline)
{
    bool dated = deadline != WEFT_FOREVER;
    rt_lock_acquire(&wg->lock);
    if (!mark_locked(wg)) {
        unmark_if_alone_locked(wg);
        rt_lock_release(&wg->lock);
        return 0;
    }
    rt_g *g = NULL;
    int r = 0;
    if (dated && deadline <= rt_now())
        r = -ETIMEDOUT;
    else if ((g = rt_self()) == NULL)
        r = -ENOMEM;
    if (r != 0) {
        unmark_if_alone_locked(wg);
        rt_lock_release(&wg->lock);
        return r;
    }
    rt_waiter w = {.g = g, .obj = wg, .shared = dated};
    rt_wait_begin(g);
    rt_queue_push(&wg->queue, &w);
    r = rt_wait(g, rt_unlock_word, &wg->lock, deadline, WEFT_WAIT_WG, wg);
    if (r == 0)
        return w.result;
    rt_lock_acquire(&wg->lock);
    rt_queue_remove(&wg->queue, &w);
    unmark_if_alone_locked(wg);
    rt_lock_release(&wg->lock);
    return r;
}

static inline int wait(wg_rec *wg, int64_t deadline)
{
    if (load_acquire(&wg->count) == 0) /* acquire: partner is cas in the add that made it 0 */
        return 0;
    return wait_slow(wg, deadline);
}

int weft_wg_wait(weft_wg *wg)
{
    return wait(rec(wg), WEFT_FOREVER);
}

int weft_wg_wait_dl(weft_wg *wg, int64_t deadline)
{
    return wait(rec(wg), deadline);
}
