/* Run queues: the ring of each P, its runnext slot, stealing from both, and the global queue.
 *
 * Invariants:
 *  1. head and tail count up for ever; tail - head is the number of entries, at most RT_RING.
 *  2. Only the owner writes tail and fills slots; anybody may move head by CAS. A slot is read
 *     before the CAS that takes it, and the value counts only if the CAS succeeds (R14).
 *  3. Only the owner sets runnext; a thief may only clear it. So an owner that reads NULL may store
 *     without a locked instruction.
 *  4. Slots are atomics: a thief may read one that the owner is overwriting.
 *
 * Locks: rt_sched.lock (rank 3) guards the global queue.
 *
 * Rejected: a Chase-Lev deque (LIFO for the owner starves the oldest; FIFO is what makes yield
 * fair), and one locked queue (two workers on one lock: 4 times slower in a spawn storm).
 */
#include "rt.h"

/* Moves half of a full ring, and g, to the global queue. False: a thief made room meanwhile. */
static bool spill_half(rt_p *p, rt_g *g, uint32_t head, uint32_t tail)
{
    rt_g *batch[RT_RING / 2];
    uint32_t n = (tail - head) / 2;
    if (n != RT_RING / 2)
        return false;
    for (uint32_t i = 0; i < n; i++)
        batch[i] = load_relaxed(&p->ring[(head + i) % RT_RING]);
    /* Release: partner is the acquire of head in rt_runq_put, which then reuses the slots. */
    if (!atomic_compare_exchange_strong_explicit(&p->head, &head, head + n, memory_order_release,
                                                 memory_order_relaxed))
        return false;
    rt_glist list = {0};
    for (uint32_t i = 0; i < n; i++)
        rt_glist_push(&list, batch[i]);
    rt_glist_push(&list, g);
    rt_lock_acquire(&rt_sched.lock);
    rt_globq_put_list_locked(&list);
    rt_lock_release(&rt_sched.lock);
    return true;
}

static void ring_put(rt_p *p, rt_g *g)
{
    for (;;) {
        uint32_t head = load_acquire(&p->head); /* partner: the CAS of thieves */
        uint32_t tail = load_relaxed(&p->tail);
        if (tail - head < RT_RING) {
            store_relaxed(&p->ring[tail % RT_RING], g);
            store_release(&p->tail, tail + 1); /* partner: acquire of tail in rt_runq_steal */
            return;
        }
        if (spill_half(p, g, head, tail))
            return;
    }
}

void rt_runq_put(rt_p *p, rt_g *g, bool next)
{
    if (next) {
        rt_g *old = load_relaxed(&p->runnext);
        if (!old) {
            store_release(&p->runnext, g); /* partner: the thief's acquire CAS */
            return;
        }
        old = atomic_exchange_explicit(&p->runnext, g, memory_order_acq_rel);
        if (!old)
            return;
        g = old;
    }
    ring_put(p, g);
}

/* After this many runnexts in a row a waiting ring gets its turn (R12): a pair that readies each
 * other must not own the P. 64 switches are a few microseconds. */
enum { NEXT_RUNS_MAX = 64 };

rt_g *rt_runq_get(rt_p *p)
{
    rt_g *g = load_relaxed(&p->runnext);
    if (g) {
        bool fair = p->next_runs < NEXT_RUNS_MAX && !load_relaxed(&p->poke);
        if (!fair && load_relaxed(&p->head) == load_relaxed(&p->tail))
            fair = true;
        if (atomic_compare_exchange_strong_explicit(&p->runnext, &g, NULL, memory_order_acquire,
                                                    memory_order_relaxed)) {
            if (fair) {
                p->next_runs++;
                return g;
            }
            ring_put(p, g);
        }
    }
    p->next_runs = 0;
    for (;;) {
        uint32_t head = load_acquire(&p->head); /* partner: the CAS of thieves */
        uint32_t tail = load_relaxed(&p->tail);
        if (head == tail)
            return NULL;
        g = load_relaxed(&p->ring[head % RT_RING]);
        if (atomic_compare_exchange_strong_explicit(&p->head, &head, head + 1, memory_order_release,
                                                    memory_order_relaxed))
            return g;
    }
}

/* Takes the victim's runnext. Its owner is probably about to run it, so wait a moment first: a
 * stolen ping-pong partner costs both cores a cold start (R13). */
static rt_g *steal_next(rt_p *victim)
{
    rt_g *g = load_acquire(&victim->runnext);
    if (!g)
        return NULL;
    if (load_relaxed(&victim->status) == RT_P_RUNNING) {
        for (int i = 0; i < 100; i++) /* about 3 us */
            rt_pause();
        if (load_acquire(&victim->runnext) != g)
            return NULL;
    }
    /* Acquire: partner is the release in rt_runq_put; the thief sees the whole G. */
    if (!atomic_compare_exchange_strong_explicit(&victim->runnext, &g, NULL, memory_order_acquire,
                                                 memory_order_relaxed))
        return NULL;
    return g;
}

rt_g *rt_runq_steal(rt_p *p, rt_p *victim, bool take_next)
{
    uint32_t my_tail = load_relaxed(&p->tail);
    for (;;) {
        uint32_t head = load_acquire(&victim->head); /* partner: other thieves' CAS */
        uint32_t tail = load_acquire(&victim->tail); /* partner: the release in ring_put */
        uint32_t n = tail - head;
        n -= n / 2;
        if (n == 0)
            return take_next ? steal_next(victim) : NULL;
        if (n > RT_RING / 2) /* head and tail are of different moments */
            continue;
        for (uint32_t i = 0; i < n; i++) {
            rt_g *g = load_relaxed(&victim->ring[(head + i) % RT_RING]);
            store_relaxed(&p->ring[(my_tail + i) % RT_RING], g);
        }
        if (!atomic_compare_exchange_strong_explicit(&victim->head, &head, head + n,
                                                     memory_order_acq_rel, memory_order_relaxed))
            continue;
        n--;
        rt_g *g = load_relaxed(&p->ring[(my_tail + n) % RT_RING]);
        if (n > 0)
            store_release(&p->tail, my_tail + n); /* partner: acquire of tail by thieves of p */
        return g;
    }
}

bool rt_runq_empty(rt_p *p)
{
    /* head, runnext and tail are of different moments: look until tail stands still, else a G that
     * moves from runnext to the ring could be missed. */
    for (;;) {
        uint32_t head = load_acquire(&p->head);
        uint32_t tail = load_acquire(&p->tail);
        rt_g *next = load_acquire(&p->runnext);
        if (tail == load_acquire(&p->tail))
            return head == tail && !next;
    }
}

bool rt_runq_excess(rt_p *p)
{
    return load_relaxed(&p->head) != load_relaxed(&p->tail);
}

void rt_glist_push(rt_glist *list, rt_g *g)
{
    g->link = NULL;
    if (list->tail)
        list->tail->link = g;
    else
        list->head = g;
    list->tail = g;
    list->n++;
}

void rt_globq_put_list_locked(rt_glist *list)
{
    if (!list->n)
        return;
    if (rt_sched.runq.tail)
        rt_sched.runq.tail->link = list->head;
    else
        rt_sched.runq.head = list->head;
    rt_sched.runq.tail = list->tail;
    rt_sched.runq.n += list->n;
    store_relaxed(&rt_sched.nrunq, rt_sched.runq.n);
    *list = (rt_glist){0};
}

void rt_globq_put(rt_g *g)
{
    rt_glist one = {0};
    rt_glist_push(&one, g);
    rt_lock_acquire(&rt_sched.lock);
    rt_globq_put_list_locked(&one);
    rt_lock_release(&rt_sched.lock);
}

rt_g *rt_globq_get_locked(rt_p *p, uint32_t max)
{
    rt_glist *q = &rt_sched.runq;
    if (!q->n)
        return NULL;
    /* A fair share, at most half a ring so that ring_put below never spills under the lock. */
    uint32_t n = q->n / load_relaxed(&rt_sched.nprocs) + 1;
    uint32_t room = RT_RING / 2 - (load_relaxed(&p->tail) - load_acquire(&p->head)) / 2;
    if (n > q->n)
        n = q->n;
    if (max && n > max)
        n = max;
    if (n > room)
        n = room ? room : 1;
    rt_g *first = NULL;
    while (n--) {
        rt_g *g = q->head;
        /* n <= q->n. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
        q->head = g->link;
        if (!q->head)
            q->tail = NULL;
        q->n--;
        if (!first)
            first = g;
        else
            ring_put(p, g);
    }
    store_relaxed(&rt_sched.nrunq, q->n);
    return first;
}
