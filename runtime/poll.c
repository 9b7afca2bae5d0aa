/* Waiting for descriptors: one record per descriptor number, the queues of those who wait, and the
 * rules by which an event becomes a woken coroutine.
 *
 * How a call waits. It looks at the record (rt_poll_begin), tries, and on -EAGAIN asks rt_poll_wait
 * to park it unless an event came since it looked. Per direction one word holds a count of events
 * and the WAITING bit: an event adds to the count, a waiter sets the bit by compare-and-swap from
 * the value it has seen. So exactly one of two things holds, in whatever order they come (R37): the
 * waiter sees the new count and tries again, or the event sees the bit and takes a waiter off the
 * queue. This is Go's nil / ready / waiting word with "ready" split by who has seen it: with one
 * shared ready flag the second of two readers could sleep on data that the first had been told of.
 *
 * Several coroutines may wait for one direction. An event wakes the first, and each woken one, when
 * its call is done, wakes the next (rt_poll_pass): what it left behind brings no further edge. One
 * that finds nothing queues again. Errors and hang-ups wake all (R41).
 *
 * Numbered invariants:
 *  1. Records are never freed nor moved (R39): the record of a number is found in a three-level
 *     table that only grows. A new life of the number raises seq, which is the upper half of the
 *     event tag; events with another seq are dropped. The check is a filter: an event that passes
 *     it just before the life ends brings at most one try too many, and no call trusts an event
 *     more than that.
 *  2. A queue is not empty => the WAITING bit is set. Both change under the lock only.
 *  3. rt_poll_close does everything under the lock: queues emptied with -EBADF, EPOLL_CTL_DEL (a
 *     dup'd file would keep its registration, R40), close. Who meets the number in its next life
 *     and waits for it gets the lock after that (R38). Nothing that can block runs there: a close
 *     that lingers is moved to a dup, closed on the blocking pool.
 *  4. A call that began before a weft_close never waits in the number's next life: closes is
 *     compared under the lock.
 *  5. close(2) behind our back tells us nothing. Each wait registers again, which fails with EEXIST
 *     where the same open file is registered; where it succeeds and we believed it registered, the
 *     number has a new life and those who still wait in the old one get -EBADF. (They wait until
 *     then, as a thread in read(2) would; weft_close is the call that wakes.)
 *  6. Plain threads wait in poll(2), on the descriptor and on an eventfd that rt_poll_close writes.
 *  7. Coroutines that weft_run's end abandoned stay in the queues (their stacks stay too).
 *     rt_queue_pop passes them over, so that none takes an event with it that the next weft_run
 *     waits for; and they are not counted.
 *
 * Locks: record lock, rank 1, handed over the switch by rt_wait; spare_lock, rank 4.
 *
 * Rejected: a registration with the wanted direction before each wait (EPOLLONESHOT or
 * EPOLL_CTL_MOD: poll_epoll.c has the cost); trusting descriptors that weft_* made and skipping
 * invariant 5 for them (one stray close(2) or fclose then costs a later owner of the number a hang
 * without a trace); per-record timers (the deadline of the wait is the G's own, and its claim
 * settles the race).
 */
#include "rt_poll.h"
#include "tls.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define WAITING 1u /* in a side's word; events count in steps of 2 */
#define EVENT   2u

/* A plain thread in poll(2); in its frame, linked under the record's lock. */
struct thread_wait {
    struct thread_wait *next, *prev;
    int wake_fd; /* -1: none could be made */
    bool closed;
};

typedef struct poll_record {
    rt_lock lock;
    _Atomic(uint32_t) seq;    /* life of the number; under lock */
    _Atomic(uint32_t) closes; /* under lock */
    _Atomic(uint32_t) word[2];
    bool registered;       /* in the epoll set, as far as we know; under lock */
    _Atomic(uint8_t) hint; /* see rt_poll_hint */
    rt_queue queue[2];
    struct thread_wait *threads;
} poll_record;
_Static_assert(sizeof(poll_record) <= RT_CACHELINE, "one line per descriptor");

/* 2^31 numbers: 11 bits, 10 bits, 10 bits. A leaf is 64 KiB, of which the touched pages cost. */
enum { LEAF_BITS = 10, LEAF = 1 << LEAF_BITS, MIDDLE = 1 << 10, TOP = 1 << 11 };
typedef struct {
    _Alignas(RT_CACHELINE) poll_record record;
} poll_slot;
typedef _Atomic(poll_slot *) leaf_ptr;
static _Atomic(leaf_ptr *) table[TOP];

static _Atomic(bool) active;
static rt_lock init_lock;
static RT_ALIGNED _Atomic(uint64_t) parked; /* weft_run's epoch << 32 | coroutines that wait */

bool rt_poll_active(void)
{
    return load_acquire(&active); /* partner: activate's release */
}

uint32_t rt_poll_waiters(void)
{
    uint64_t now = load_relaxed(&parked);
    return now >> 32 == load_relaxed(&rt_sched.epoch) ? (uint32_t)now : 0;
}

/* Those whose weft_run has ended never wake up to count themselves out: invariant 7. */
static void count_parked(rt_g *g, int change)
{
    uint64_t old = load_relaxed(&parked), now;
    do {
        if (old >> 32 == g->epoch)
            now = old + (uint64_t)(int64_t)change;
        else if (change > 0 && g->epoch == load_relaxed(&rt_sched.epoch))
            now = (uint64_t)g->epoch << 32 | 1;
        else
            return;
    } while (!atomic_compare_exchange_weak_explicit(&parked, &old, now, memory_order_relaxed,
                                                    memory_order_relaxed));
}

void rt_poll_break(void)
{
    if (rt_poll_active())
        rt_backend_break();
}

/* The worker that watches timers may sleep on its futex because there was nothing else to watch. */
static void tell_timer_sleeper(void)
{
    rt_fence(); /* partner: sleep_as_poller's, after it published */
    rt_m *m = load_acquire(&rt_sched.timer_sleeper);
    uint32_t asleep = 0;
    if (m && atomic_compare_exchange_strong_explicit(&m->wake, &asleep, 2, memory_order_release,
                                                     memory_order_relaxed))
        rt_futex_wake(&m->wake, 1);
}

static int activate(void)
{
    int r = 0;
    rt_lock_acquire(&init_lock);
    if (!load_relaxed(&active)) {
        r = rt_backend_init();
        if (r == 0) {
            store_release(&active, true); /* partner: rt_poll_active */
            tell_timer_sleeper();
        }
    }
    rt_lock_release(&init_lock);
    return r;
}

/* ---- the table ---- */

static void *map_zero(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static poll_record *find_record(int fd)
{
    if (fd < 0)
        return NULL;
    unsigned n = (unsigned)fd; /* acquires: partners are the swaps in make_record */
    leaf_ptr *middle = load_acquire(&table[n >> 20]);
    if (!middle)
        return NULL;
    poll_slot *leaf = load_acquire(&middle[n >> LEAF_BITS & (MIDDLE - 1)]);
    return leaf ? &leaf[n & (LEAF - 1)].record : NULL;
}

/* NULL: out of memory. Two that race map twice, and one unmaps. */
static poll_record *make_record(int fd)
{
    unsigned n = (unsigned)fd;
    leaf_ptr *middle = load_acquire(&table[n >> 20]);
    if (!middle) {
        leaf_ptr *fresh = map_zero(MIDDLE * sizeof *fresh);
        if (!fresh)
            return NULL;
        if (atomic_compare_exchange_strong_explicit(&table[n >> 20], &middle, fresh,
                                                    memory_order_acq_rel, memory_order_acquire))
            middle = fresh;
        else
            munmap(fresh, MIDDLE * sizeof *fresh);
    }
    leaf_ptr *place = &middle[n >> LEAF_BITS & (MIDDLE - 1)];
    poll_slot *leaf = load_acquire(place);
    if (!leaf) {
        poll_slot *fresh = map_zero(LEAF * sizeof *fresh);
        if (!fresh)
            return NULL;
        if (atomic_compare_exchange_strong_explicit(place, &leaf, fresh, memory_order_acq_rel,
                                                    memory_order_acquire))
            leaf = fresh;
        else
            munmap(fresh, LEAF * sizeof *fresh);
    }
    return &leaf[n & (LEAF - 1)].record;
}

static uint64_t tag_of(int fd, uint32_t seq)
{
    return (uint64_t)seq << 32 | (uint32_t)fd;
}

void rt_poll_begin(int fd, rt_poll_mark *mark)
{
    poll_record *rec = find_record(fd);
    *mark = (rt_poll_mark){0};
    if (!rec)
        return; /* a record that does not exist yet will begin with zeros */
    mark->closes = load_acquire(&rec->closes); /* partner: rt_poll_close's release */
    for (int i = 0; i < 2; i++) /* partner: side_event. The try must not be done before this. */
        mark->word[i] = load_acquire(&rec->word[i]) & ~WAITING;
}

bool rt_poll_again(int fd, rt_poll_mark *mark)
{
    uint32_t closes = mark->closes;
    rt_poll_begin(fd, mark);
    return mark->closes == closes;
}

bool rt_poll_hint(int fd)
{
    poll_record *rec = find_record(fd);
    return rec && load_relaxed(&rec->hint);
}

void rt_poll_hint_set(int fd, bool on)
{
    poll_record *rec = find_record(fd);
    if (!rec && on && fd >= 0)
        rec = make_record(fd);
    if (rec)
        store_relaxed(&rec->hint, on);
}

/* ---- queues ---- */

static void side_settled_locked(poll_record *rec, int side)
{
    if (!rec->queue[side].head) /* relaxed: the bit is only set under the lock */
        atomic_fetch_and_explicit(&rec->word[side], ~WAITING, memory_order_relaxed);
}

static rt_waiter *pop_locked(poll_record *rec, int side, int result)
{
    rt_waiter *w = rt_queue_pop(&rec->queue[side]);
    if (w)
        w->result = result;
    side_settled_locked(rec, side);
    return w;
}

/* Takes everybody off with -EBADF; returns the coroutines, linked, to be readied after unlock. */
static rt_waiter *fail_all_locked(poll_record *rec)
{
    rt_waiter *list = NULL, **end = &list, *w;
    for (int side = 0; side < 2; side++) {
        while ((w = pop_locked(rec, side, -EBADF))) {
            *end = w;
            end = &w->next;
        }
    }
    *end = NULL;
    for (struct thread_wait *t = rec->threads; t; t = t->next) {
        uint64_t one = 1;
        t->closed = true;
        ssize_t ignored = t->wake_fd >= 0 ? write(t->wake_fd, &one, sizeof one) : 0;
        (void)ignored;
    }
    return list;
}

void rt_poll_pass(int fd, unsigned dirs)
{
    poll_record *rec = find_record(fd);
    for (int side = 0; rec && side < 2; side++) {
        if (!(dirs >> side & 1) || !(load_relaxed(&rec->word[side]) & WAITING))
            continue;
        rt_lock_acquire(&rec->lock);
        rt_waiter *w = pop_locked(rec, side, 0);
        rt_lock_release(&rec->lock);
        if (w)
            rt_waiter_ready(w);
    }
}

/* ---- events ---- */

static void side_event(poll_record *rec, int side, bool all, rt_glist *out)
{
    /* acq_rel: partners are the loads of rt_poll_begin and the swap in enqueue_locked. */
    uint32_t old = atomic_fetch_add_explicit(&rec->word[side], EVENT, memory_order_acq_rel);
    if (!(old & WAITING))
        return;
    rt_lock_acquire(&rec->lock);
    rt_waiter *w;
    do {
        w = pop_locked(rec, side, 0);
        if (w)
            rt_glist_push(out, w->g);
    } while (w && all);
    rt_lock_release(&rec->lock);
}

void rt_poll_collect(int64_t ns, rt_glist *out)
{
    rt_event events[RT_EV_BATCH];
    if (!rt_poll_active() && (ns == 0 || activate() < 0))
        return;
    int n = rt_backend_wait(ns, events);
    for (int i = 0; i < n; i++) {
        poll_record *rec = find_record((int)(uint32_t)events[i].tag);
        if (!rec || load_relaxed(&rec->seq) != events[i].tag >> 32) /* R39 */
            continue;
        for (int side = 0; side < 2; side++)
            if (events[i].bits >> side & 1)
                side_event(rec, side, events[i].bits & RT_EV_ALL, out);
    }
}

/* ---- coroutines ---- */

/* Invariant 5. The waiters of an old life, found on the way, go to *stale. */
static int register_locked(poll_record *rec, int fd, rt_waiter **stale)
{
    uint32_t next = load_relaxed(&rec->seq) + 1;
    int r = rt_backend_add(fd, tag_of(fd, next));
    if (r <= 0)
        return r;
    store_relaxed(&rec->seq, next);
    if (rec->registered)
        *stale = fail_all_locked(rec);
    rec->registered = true;
    /* Events of the new registration that came before the store above were dropped. Counting one
     * makes every call that has tried by now try again. acq_rel: partner is rt_poll_begin. */
    for (int side = 0; side < 2; side++)
        atomic_fetch_add_explicit(&rec->word[side], EVENT, memory_order_acq_rel);
    return 1;
}

struct parking {
    poll_record *rec;
    unsigned dirs;
    rt_waiter w[2];
};

static bool enqueue_locked(struct parking *pk, rt_g *g, const rt_poll_mark *mark)
{
    poll_record *rec = pk->rec;
    rt_wait_begin(g);
    for (int side = 0; side < 2; side++) {
        rt_waiter *w = &pk->w[side];
        if (!(pk->dirs >> side & 1))
            continue;
        uint32_t seen = mark->word[side];
        if (rec->queue[side].head)
            seen |= WAITING;
        /* acq_rel: partner is the add in side_event; invariant of the essay. */
        if (!atomic_compare_exchange_strong_explicit(&rec->word[side], &seen,
                                                     mark->word[side] | WAITING,
                                                     memory_order_acq_rel, memory_order_acquire))
            return false;
        /* Shared: the deadline or the other direction may wake g too. */
        *w = (rt_waiter){.g = g, .obj = rec, .shared = true};
        rt_queue_push(&rec->queue[side], w);
    }
    return true;
}

static void dequeue_locked(struct parking *pk)
{
    for (int side = 0; side < 2; side++) {
        rt_queue_remove(&pk->rec->queue[side], &pk->w[side]);
        side_settled_locked(pk->rec, side);
    }
}

static int park(poll_record *rec, int fd, unsigned dirs, const rt_poll_mark *mark, int64_t deadline)
{
    struct parking pk = {.rec = rec, .dirs = dirs};
    rt_waiter *stale = NULL;
    rt_g *g = rt_self();
    rt_lock_acquire(&rec->lock);
    int r = load_relaxed(&rec->closes) != mark->closes ? -EBADF : register_locked(rec, fd, &stale);
    if (r != 0 || !enqueue_locked(&pk, g, mark)) {
        dequeue_locked(&pk);
        rt_lock_release(&rec->lock);
        if (stale)
            rt_waiter_ready_all(stale);
        return r < 0 ? r : 0; /* newly registered: one more try in place of the first event */
    }
    count_parked(g, 1);
    r = rt_wait(g, rt_unlock_word, &rec->lock, deadline, WEFT_WAIT_IO, rec);
    count_parked(g, -1);
    if (r == 0)
        r = g->woken->result;
    if (r == -ETIMEDOUT || dirs == (RT_POLL_IN | RT_POLL_OUT)) {
        rt_lock_acquire(&rec->lock);
        dequeue_locked(&pk);
        rt_lock_release(&rec->lock);
    }
    return r;
}

/* ---- plain threads ---- */

enum { SPARE_MAX = 16 };
/* Without an eventfd (out of descriptors) a thread looks this often whether its fd was closed. */
enum { BLIND_MS = 50 };
static rt_lock spare_lock;
static int spare_fd[SPARE_MAX];
static uint32_t spare_count;

static int wake_fd_get(void)
{
    int fd = -1;
    rt_lock_acquire(&spare_lock);
    if (spare_count > 0)
        fd = spare_fd[--spare_count];
    rt_lock_release(&spare_lock);
    return fd >= 0 ? fd : eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void wake_fd_put(int fd, bool written)
{
    uint64_t count;
    if (fd < 0)
        return;
    if (written && read(fd, &count, sizeof count) < 0)
        count = 0;
    rt_lock_acquire(&spare_lock);
    bool kept = spare_count < SPARE_MAX;
    if (kept)
        spare_fd[spare_count++] = fd;
    rt_lock_release(&spare_lock);
    if (!kept)
        close(fd);
}

/* 0: go and look; -ETIMEDOUT; -EBADF. May end early. */
static int poll_thread(int fd, unsigned dirs, int wake_fd, int64_t deadline)
{
    struct pollfd p[2] = {{.fd = fd}, {.fd = wake_fd, .events = POLLIN}};
    struct timespec ts, *limit = NULL;
    int64_t ns = INT64_MAX;
    if (dirs & RT_POLL_IN)
        p[0].events |= POLLIN | POLLRDHUP;
    if (dirs & RT_POLL_OUT)
        p[0].events |= POLLOUT;
    if (deadline != WEFT_FOREVER) {
        ns = deadline - rt_now();
        if (ns < 0)
            ns = 0;
    }
    bool blind = wake_fd < 0 && ns > BLIND_MS * INT64_C(1000000);
    if (blind)
        ns = BLIND_MS * INT64_C(1000000);
    if (ns != INT64_MAX) {
        ts = (struct timespec){.tv_sec = ns / 1000000000, .tv_nsec = ns % 1000000000};
        limit = &ts;
    }
    int n = ppoll(p, 2, limit, NULL);
    if (n < 0)
        return rt_errno_get() == EINTR ? 0 : -rt_errno_get();
    if (n == 0)
        return blind ? 0 : -ETIMEDOUT;
    return p[0].revents & POLLNVAL ? -EBADF : 0;
}

static int wait_thread(poll_record *rec, int fd, unsigned dirs, const rt_poll_mark *mark,
                       int64_t deadline)
{
    struct thread_wait t = {.wake_fd = wake_fd_get()};
    rt_lock_acquire(&rec->lock);
    int r = load_relaxed(&rec->closes) != mark->closes ? -EBADF : 0;
    if (r == 0) {
        t.next = rec->threads;
        if (t.next)
            t.next->prev = &t;
        rec->threads = &t;
        rt_lock_release(&rec->lock);
        r = poll_thread(fd, dirs, t.wake_fd, deadline);
        rt_lock_acquire(&rec->lock);
        if (t.next)
            t.next->prev = t.prev;
        if (t.prev)
            t.prev->next = t.next;
        else
            rec->threads = t.next;
        if (t.closed)
            r = -EBADF;
    }
    rt_lock_release(&rec->lock);
    wake_fd_put(t.wake_fd, t.closed);
    return r;
}

int rt_poll_wait(int fd, unsigned dirs, const rt_poll_mark *mark, int64_t deadline)
{
    if (fd < 0)
        return -EBADF;
    if (deadline != WEFT_FOREVER && deadline <= rt_now())
        return -ETIMEDOUT;
    rt_g *g = rt_self();
    poll_record *rec = find_record(fd);
    if (!g || (!rec && !(rec = make_record(fd))))
        return -ENOMEM;
    if (g->kind == RT_KIND_THREAD)
        return wait_thread(rec, fd, dirs, mark, deadline);
    int r = rt_poll_active() ? 0 : activate();
    return r < 0 ? r : park(rec, fd, dirs, mark, deadline);
}

/* ---- close ---- */

static void close_blocking(void *arg)
{
    close((int)(intptr_t)arg);
}

/* Keeps the open file alive when its last close may block (SO_LINGER); -1 otherwise. */
static int linger_dup(int fd)
{
    struct linger l = {0};
    socklen_t n = sizeof l;
    if (rt_poll_hint(fd) || getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &n) < 0 || !l.l_onoff ||
        l.l_linger == 0)
        return -1;
    return fcntl(fd, F_DUPFD_CLOEXEC, 0);
}

int rt_poll_close(int fd)
{
    poll_record *rec = find_record(fd);
    rt_waiter *woken = NULL;
    if (!rec && (fd < 0 || !(rec = make_record(fd))))
        return fd < 0 || close(fd) < 0 ? -EBADF : 0;
    int lingering = linger_dup(fd);
    rt_lock_acquire(&rec->lock);
    /* Release: partner is rt_poll_begin. */
    atomic_fetch_add_explicit(&rec->closes, 1, memory_order_release);
    atomic_fetch_add_explicit(&rec->seq, 1, memory_order_relaxed);
    store_relaxed(&rec->hint, 0);
    woken = fail_all_locked(rec);
    if (rec->registered)
        rt_backend_del(fd);
    rec->registered = false;
    int r = close(fd) < 0 ? -rt_errno_get() : 0;
    rt_lock_release(&rec->lock);
    if (woken)
        rt_waiter_ready_all(woken);
    if (lingering >= 0 && weft_blocking(close_blocking, (void *)(intptr_t)lingering) < 0)
        close(lingering);
    return r == -EINTR ? 0 : r; /* Linux has released the number by then */
}
