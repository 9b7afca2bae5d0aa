/* The private map of runtime/: the records G, M and P, who may write each field, the states of a G,
 * the lock ranks, and what each room offers to the others. sched.c opens with the essay on parking;
 * read that first.
 *
 * Lock ranks (a thread takes them in this order only; equal ranks are ordered as said):
 *   1 object   channel (by address), mutex/wg/once word lock, poll record
 *   2 timers   p->timer_lock (one at a time)
 *   3 sched    rt_sched.lock: global run queue, idle lists
 *   4 pools    stack, g and blocking-pool free lists
 *
 * G states; the function that moves it stands on the arrow:
 *   FREE -> RUNNABLE      rt_g_new           RUNNABLE -> RUNNING    rt_execute
 *   RUNNING -> WAITING    commit_wait        RUNNING -> RUNNABLE    commit_yield
 *   WAITING -> RUNNABLE   rt_ready           RUNNING -> FREE        commit_exit
 *   RUNNING -> SYSCALL    weft_syscall_enter SYSCALL -> RUNNING     weft_syscall_exit
 */
#ifndef WEFT_RT_H
#define WEFT_RT_H

#include "weft.h"
#include "weft_hook.h"
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RT_HIDDEN      __attribute__((visibility("hidden")))
#define RT_NOINLINE    __attribute__((noinline))
#define rt_likely(x)   __builtin_expect(!!(x), 1)
#define rt_unlikely(x) __builtin_expect(!!(x), 0)
#define RT_CACHELINE   64
#define RT_ALIGNED     _Alignas(RT_CACHELINE)

typedef struct rt_g rt_g;
typedef struct rt_m rt_m;
typedef struct rt_p rt_p;
typedef struct rt_waiter rt_waiter;

#define load_relaxed(p)     atomic_load_explicit((p), memory_order_relaxed)
#define load_acquire(p)     atomic_load_explicit((p), memory_order_acquire)
#define store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)

/* ---- lock.c: locks of the runtime itself ---- */

/* 0 free, 1 held, 2 held and somebody sleeps on it. Not owned by a thread: a park hands it over a
 * switch. */
typedef _Atomic(uint32_t) rt_lock;
RT_HIDDEN void rt_lock_slow(rt_lock *);
RT_HIDDEN void rt_unlock_slow(rt_lock *);
static inline void rt_lock_acquire(rt_lock *l)
{
    uint32_t free_word = 0;
    if (rt_unlikely(!atomic_compare_exchange_strong_explicit(l, &free_word, 1, memory_order_acquire,
                                                             memory_order_relaxed)))
        rt_lock_slow(l);
}
static inline bool rt_lock_try(rt_lock *l)
{
    uint32_t free_word = 0;
    return atomic_compare_exchange_strong_explicit(l, &free_word, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}
static inline void rt_lock_release(rt_lock *l)
{
    if (rt_unlikely(atomic_exchange_explicit(l, 0, memory_order_release) == 2))
        rt_unlock_slow(l);
}
/* Waits while *word == expect, at most ns nanoseconds (< 0: for ever). 0, or -ETIMEDOUT. May return
 * early. */
RT_HIDDEN int rt_futex_wait(_Atomic(uint32_t) *word, uint32_t expect, int64_t ns);
RT_HIDDEN void rt_futex_wake(_Atomic(uint32_t) *word, int n);
RT_HIDDEN _Noreturn void rt_throw(const char *what); /* "file: what"; our own invariant is broken */
static inline void rt_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("isb");
#endif
}

/* ---- timer.c ---- */

/* One deadline. fn runs under the heap's lock: it may claim and ready a G, nothing else. */
typedef struct rt_timer {
    int64_t when;
    void (*fn)(struct rt_timer *);
    _Atomic(rt_p *) p; /* whose heap holds it; NULL: none. Written under that heap's lock. */
    uint32_t index;    /* place in the heap */
} rt_timer;
RT_HIDDEN void rt_timer_add(rt_timer *t, int64_t when); /* on the current M's P; rank 2 */
RT_HIDDEN void rt_timer_del(rt_timer *t); /* after it returns fn does not run and will not */

/* ---- wait.c: waiting, from coroutines and plain threads alike ---- */

/* One place in one queue. Lives in the waiting call's frame. Invariant: the waker dequeues it under
 * the object's lock, sets its result, and touches nothing of it after rt_ready (hazard 22). */
struct rt_waiter {
    rt_waiter *next, *prev;
    rt_g *g;
    void *elem;     /* channels: where the element goes or comes from */
    void *obj;      /* what it waits on */
    int64_t since;  /* rt_now() when it began to wait, 0 when nobody asked */
    int32_t result; /* 0 or a negative errno, by the waker */
    uint16_t index; /* select: which case */
    bool shared;    /* others may wake g too (a select, a deadline): the waker must win g's claim */
    bool queued;    /* on a queue; under the object's lock */
};
/* Same layout as the `void *queue[2]` of the public structs. */
typedef struct rt_queue {
    rt_waiter *head, *tail;
} rt_queue;
RT_HIDDEN void rt_queue_push(rt_queue *, rt_waiter *); /* at the tail */
RT_HIDDEN void rt_queue_push_front(rt_queue *, rt_waiter *);
RT_HIDDEN void rt_queue_remove(rt_queue *, rt_waiter *); /* no effect when not queued */
/* Takes off the first waiter that can still be woken: those whose claim is lost are dropped on the
 * way. The caller then sets result and calls rt_waiter_ready after it has unlocked. NULL when
 * empty. */
RT_HIDDEN rt_waiter *rt_queue_pop(rt_queue *);

/* The G of the caller: the running coroutine, or the plain thread's own record (made at its first
 * wait). NULL only when that finds no memory. Not to be kept over a wait on anything but the
 * caller's own stack. */
RT_HIDDEN rt_g *rt_self(void);
/* Opens a wait: call before the first waiter of g is queued. */
static inline void rt_wait_begin(rt_g *g);
/* Waits until a waiter of g is popped and readied, or the deadline claims it. The caller holds what
 * unlock(arg) releases; unlock runs when g is off its stack, so it must not use the caller's frame
 * after it has released. 0: woken, g->woken is the waiter; -ETIMEDOUT: the waiters are still
 * queued, the caller removes them under the lock. */
RT_HIDDEN int rt_wait(rt_g *g, void (*unlock)(void *), void *arg, int64_t deadline,
                      weft_wait_reason why, const void *obj);
RT_HIDDEN void rt_unlock_word(void *lock); /* an unlock for rt_wait: arg is an rt_lock */
/* Tries to be the one that wakes g. */
static inline bool rt_claim(rt_g *g);
/* Makes a claimed waiter's g runnable; after it the waiter is gone. */
RT_HIDDEN void rt_waiter_ready(rt_waiter *);
/* The same for a whole list linked by next (a close, a broadcast): one batch, few wake-ups. */
RT_HIDDEN void rt_waiter_ready_all(rt_waiter *list);

/* ---- poll.c, poll_epoll.c ---- */

typedef struct rt_glist {
    rt_g *head, *tail;
    uint32_t n;
} rt_glist; /* linked by g->link */
RT_HIDDEN void rt_glist_push(rt_glist *, rt_g *);
RT_HIDDEN bool rt_poll_active(void);      /* a descriptor was ever registered */
RT_HIDDEN uint32_t rt_poll_waiters(void); /* coroutines parked on descriptors now */
/* Collects coroutines whose wait is over (already claimed). ns: 0 looks, < 0 blocks until something
 * or a break. */
RT_HIDDEN void rt_poll_collect(int64_t ns, rt_glist *out);
RT_HIDDEN void rt_poll_break(void); /* ends a blocking rt_poll_collect in another thread */

/* ---- the records ---- */

enum rt_gstate { RT_FREE, RT_RUNNABLE, RT_RUNNING, RT_WAITING, RT_SYSCALL };
enum rt_gkind { RT_KIND_CORO, RT_KIND_THREAD };

typedef struct rt_stack {
    uintptr_t lo, hi; /* usable bytes; the guard is below lo */
    uint32_t cls;     /* size class of stack.c */
} rt_stack;

/* A coroutine, or a plain thread that waits (kind). Type-stable: records are reused, never
 * unmapped, so a stale pointer reads a G, maybe another one. */
struct rt_g {
    void *sp;                /* saved stack pointer while not running; by the switch */
    _Atomic(uint32_t) state; /* rt_gstate; see the arrows above */
    _Atomic(uint32_t) claim; /* 0 open, 1 somebody wakes it; wait.c */
    _Atomic(uint32_t) pin;   /* 1: inspect.c looks at it, so rt_execute waits */
    uint8_t kind;            /* rt_gkind; set once per life */
    uint8_t flags;           /* WEFT_PINNED; set at spawn */
    uint8_t why;             /* weft_wait_reason; by itself before it parks */
    uint8_t started;         /* has a stack; by rt_execute */
    rt_waiter *woken;        /* who woke it; by the claimer, before rt_ready */
    rt_g *link;              /* run queue or free list; owner of that list */
    _Atomic(rt_m *) m;       /* the M it runs on, or is pinned to; by the scheduler */
    rt_stack stack;          /* by rt_execute and commit_exit */
    void (*fn)(void *);
    void *arg;
    void *labels;         /* the profiler's; by the coroutine itself */
    _Atomic(uint64_t) id; /* 0 when FREE */
    uint64_t creator_id;
    uintptr_t creator_pc;
    const void *wait_obj;    /* by itself before it parks */
    _Atomic(int64_t) since;  /* coarse time of the last park */
    _Atomic(uint32_t) futex; /* thread kind: 1 = readied */
    uint32_t epoch;          /* which weft_run it belongs to */
    int32_t saved_errno;     /* over a park */
    uint32_t stack_class;    /* asked for at spawn */
    rt_timer timer;          /* the deadline of its wait */
    void *san;               /* sanitizer's fiber and fake stack; san.h */
    void *san_fake;
    _Atomic(int32_t) tid; /* running, syscall, blocking call: the thread */
    char name[32];
};

static inline void rt_wait_begin(rt_g *g)
{
    store_relaxed(&g->claim, 0);
}
static inline bool rt_claim(rt_g *g)
{
    uint32_t open =
        0; /* acq_rel: partners are the other claimers (timer fire, rt_queue_pop, poll) */
    return load_relaxed(&g->claim) == 0 &&
           atomic_compare_exchange_strong_explicit(&g->claim, &open, 1, memory_order_acq_rel,
                                                   memory_order_relaxed);
}

/* ---- sched.c ---- */

/* Makes a G that was claimed (or is new) runnable: on the caller's P if it has one, else globally;
 * wakes a P if that is worth it. For a thread kind: wakes the thread. */
RT_HIDDEN void rt_ready(rt_g *g);
RT_HIDDEN void rt_ready_list(rt_glist *list);

/* ---- hook.c ---- */

extern RT_HIDDEN _Atomic(uint32_t) rt_hook_mask;
extern RT_HIDDEN const weft_hooks *rt_hook_table;
static inline const weft_hooks *rt_hook(uint32_t bit) /* the table when the bit is on, else NULL */
{
    return rt_unlikely(load_relaxed(&rt_hook_mask) & bit) ? rt_hook_table : NULL;
}
static inline int64_t rt_now(void)
{
    return weft_now();
}

#endif
