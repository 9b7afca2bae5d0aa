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

/* The full fence of the submit and park patterns. gcc's ThreadSanitizer does not model fences:
 * there it is a read-modify-write of one shared word, which orders the same accesses. */
static inline void rt_fence(void)
{
#if defined(__SANITIZE_THREAD__)
    extern RT_HIDDEN _Atomic(uint32_t) rt_fence_word;
    atomic_fetch_add_explicit(&rt_fence_word, 1, memory_order_seq_cst);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

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

/* One deadline. fn runs under the heap's lock: it claims, sets t->p to NULL, may ready a G. */
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
    _Atomic(uint8_t) kind;   /* rt_gkind; set once per life */
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
    const void *wait_obj;             /* by itself before it parks */
    _Atomic(int64_t) since;           /* coarse time of the last park */
    _Atomic(uint32_t) futex;          /* thread kind: 1 = readied */
    uint32_t epoch;                   /* which weft_run it belongs to */
    int32_t saved_errno;              /* over a park */
    uint32_t stack_class;             /* asked for at spawn */
    rt_timer timer;                   /* the deadline of its wait */
    uintptr_t sys_pc, sys_sp, sys_fp; /* SYSCALL: where weft_syscall_enter was called */
    void *san;                        /* sanitizer's fiber and fake stack; san.h */
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

/* A processor: the right to run coroutines, with what that needs at hand. */
#define RT_RING        256u
#define RT_PROCS_MAX   1024u
#define RT_STACK_CACHE 64u
struct rt_p {
    RT_ALIGNED _Atomic(uint32_t) head; /* ring: next to take; owner and thieves, CAS */
    RT_ALIGNED _Atomic(uint32_t) tail; /* ring: next free; owner only */
    _Atomic(rt_g *) runnext;           /* runs before the ring; owner sets, thieves may clear */
    _Atomic(uint32_t) tick;            /* switches; owner only, sysmon reads */
    _Atomic(uint32_t) poke;            /* sysmon asks for the slow path: timers, fairness */
    uint32_t next_runs;                /* runnext taken in a row; owner */
    uint32_t id;                       /* index in rt_sched.allp */
    rt_m *m;                           /* who owns it; under rt_sched.lock or by the owner */
    rt_p *link;                        /* idle list; rt_sched.lock */
    uint64_t id_next, id_end;          /* block of coroutine ids; owner */
    _Atomic(uint64_t) nspawn, nexit;   /* owner writes */
    rt_g *gfree;                       /* owner */
    uint32_t ngfree;
    uint32_t nstacks;                    /* owner */
    uintptr_t stacks[RT_STACK_CACHE];    /* hot default-class stacks, LIFO */
    RT_ALIGNED _Atomic(uint32_t) status; /* rt_pstatus; CAS between owner, sysmon */
    uint32_t sys_tick, sys_seen;         /* sysmon's notes */
    int64_t sys_when;
    RT_ALIGNED rt_lock timer_lock;
    uint32_t ntimers, timer_cap; /* timer_lock */
    rt_timer **timers;           /* timer_lock; 4-ary heap by when */
    _Atomic(int64_t) timer_next; /* earliest, INT64_MAX none; under timer_lock, read by all */
    RT_ALIGNED _Atomic(rt_g *) ring[RT_RING];
};
enum rt_pstatus { RT_P_IDLE, RT_P_RUNNING, RT_P_SYSCALL, RT_P_DEAD };

/* What completes a park, on the next stack, when g can no longer run on its own. */
typedef void (*rt_commit)(rt_m *m, rt_g *g, void *arg);

/* A worker thread. Only the thread itself writes, but for the fields that say otherwise. */
struct rt_m {
    rt_g *volatile cur;  /* whose stack it is on, or about to be on; NULL: its own (g0) */
    rt_g *volatile prev; /* whose stack it leaves; NULL once the commit has run */
    rt_commit commit;
    void *commit_arg;
    rt_p *p;
    rt_p *sys_p; /* the P it had at weft_syscall_enter */
    void *g0_sp;
    uintptr_t g0_lo, g0_hi;
    rt_g *picked;           /* found by a coroutine that could not switch to it itself */
    rt_g *pinned;           /* the only coroutine it runs; NULL: any */
    rt_m *link;             /* idle list; rt_sched.lock */
    rt_p *next_p;           /* handed over by the waker, before the wake */
    _Atomic(uint32_t) wake; /* futex: 1 next_p was handed over, 2 look at the timers again */
    uint32_t seed;
    int32_t tid;
    bool spinning;  /* counted in rt_sched.nspinning */
    bool dying;     /* its pinned coroutine has ended */
    void *altstack; /* ours; the program may have set another */
    void *san, *san_fake;
};

/* What all share: the counters that wakers read, and the lock with what it guards, each on cache
 * lines of their own. */
typedef struct rt_sched_state {
    RT_ALIGNED _Atomic(uint32_t) nspinning;
    RT_ALIGNED _Atomic(uint32_t) nidle;  /* idle Ps; written under lock */
    _Atomic(uint32_t) nout;              /* Ps neither idle nor dead; written under lock */
    _Atomic(uint32_t) nprocs;            /* wanted Ps; written under lock */
    _Atomic(uint32_t) nalloc;            /* entries of allp ever filled */
    _Atomic(uint32_t) epoch;             /* of the running (or next) weft_run; under lock */
    _Atomic(uint32_t) running;           /* 1 between weft_run's start and its end */
    _Atomic(uint32_t) eager;             /* sysmon: readied work was left lying, so wake at once */
    _Atomic(uint32_t) nsyscall;          /* coroutines between weft_syscall_enter and _exit */
    RT_ALIGNED _Atomic(uint32_t) poller; /* 1: an M sleeps for descriptors or timers */
    _Atomic(int64_t) sleep_until;        /* when that M wakes by itself; INT64_MAX never */
    _Atomic(rt_m *) timer_sleeper;       /* it sleeps on its futex; NULL: in rt_poll_collect */
    _Atomic(int64_t) last_poll;          /* when descriptors were looked at last */
    _Atomic(int64_t) coarse_ns;          /* a clock that is at most 10 ms old while anything runs */
    RT_ALIGNED rt_lock lock;
    rt_glist runq;            /* lock */
    _Atomic(uint32_t) nrunq;  /* runq.n, read without the lock */
    rt_p *pidle;              /* lock */
    rt_m *midle;              /* lock */
    _Atomic(uint32_t) nm;     /* workers that live; lock */
    _Atomic(uint32_t) nmidle; /* those on midle; lock */
    _Atomic(uint64_t) next_id;
    _Atomic(uint64_t) foreign_spawns, foreign_exits;
    rt_p *allp[RT_PROCS_MAX];
} rt_sched_state;
extern RT_HIDDEN rt_sched_state rt_sched;

/* ---- sched.c ---- */

/* Makes a G that was claimed (or is new) runnable: on the caller's P if it has one, else globally;
 * wakes a P if that is worth it. For a thread kind: wakes the thread. */
RT_HIDDEN void rt_ready(rt_g *g);
RT_HIDDEN void rt_ready_list(rt_glist *list);
/* Leaves the running coroutine; commit completes that on the next stack. Returns when it runs
 * again, maybe on another M. */
RT_HIDDEN void rt_leave(rt_commit commit, void *arg);
RT_HIDDEN void rt_schedule(rt_m *m) __attribute__((noreturn)); /* a worker's life, on its g0 */
RT_HIDDEN void rt_wake_p(void); /* one more P runs, if one is idle and nobody looks for work */
/* Sets g up to run on m: waits out a pin, binds a stack. False: no memory for a stack. */
RT_HIDDEN bool rt_prepare(rt_m *m, rt_g *g);
RT_HIDDEN void rt_wait_unpinned(rt_g *g);       /* until inspect.c looks at it no more */
RT_HIDDEN void rt_arrived(rt_m *m, void *fake); /* first on a stack after a switch: the commit */

/* ---- findwork.c ---- */
RT_HIDDEN rt_g *rt_find_work(rt_m *m);    /* on g0, m has a P; sleeps until there is some */
RT_HIDDEN void rt_inject(rt_glist *list); /* onto the global queue, with wake-ups */

/* ---- runq.c: the ring, runnext, stealing; no other knowledge ---- */
RT_HIDDEN void rt_runq_put(rt_p *p, rt_g *g, bool next); /* owner; spills half when full */
RT_HIDDEN rt_g *rt_runq_get(rt_p *p);                    /* owner */
RT_HIDDEN rt_g *rt_runq_steal(rt_p *p, rt_p *victim, bool take_next); /* owner of p */
RT_HIDDEN bool rt_runq_empty(rt_p *p);                                /* anybody; a hint */
RT_HIDDEN bool rt_runq_excess(rt_p *p);                               /* more than runnext */
RT_HIDDEN void rt_globq_put(rt_g *g);                                 /* takes rt_sched.lock */
RT_HIDDEN void rt_globq_put_list_locked(rt_glist *list);
RT_HIDDEN rt_g *rt_globq_get_locked(rt_p *p, uint32_t max); /* one; more go to p's ring */

/* ---- proc.c: Ps and Ms ---- */
RT_HIDDEN int rt_proc_start(void); /* once per weft_run: Ps, sysmon. 0 or negative errno */
RT_HIDDEN void rt_p_acquire(rt_m *m, rt_p *p);
RT_HIDDEN rt_p *rt_p_release(rt_m *m);
RT_HIDDEN void rt_p_idle_locked(rt_p *p); /* puts a released P away (or retires it) */
RT_HIDDEN rt_p *rt_p_take_idle_locked(void);
RT_HIDDEN void rt_p_handoff(rt_p *p); /* a P without an M: to a new M if there is work */
RT_HIDDEN bool rt_m_start(rt_p *p,
                          bool spinning); /* an idle or a new M takes p; false: no thread */
RT_HIDDEN void rt_m_stop(rt_m *m);        /* sleeps until it is handed a P */
RT_HIDDEN rt_m *rt_m_new_pinned(rt_g *g, rt_p *p); /* a thread of its own for g, with p; or NULL */
RT_HIDDEN void rt_m_end(rt_m *m) __attribute__((noreturn));
/* A thread of Weft's own; signals_off blocks all signals in it. */
RT_HIDDEN int rt_thread_start(void (*fn)(void *), void *arg, size_t stack_bytes, bool signals_off);
RT_HIDDEN void rt_thread_bounds(uintptr_t *lo, uintptr_t *hi); /* the caller's own stack */
RT_HIDDEN uint32_t rt_threads_own(void);          /* threads of the process that belong to Weft */
extern RT_HIDDEN _Atomic(int32_t) rt_own_threads; /* sysmon, pool, profiler; without the workers */

/* ---- sysmon.c ---- */
RT_HIDDEN int rt_sysmon_start(void);
RT_HIDDEN void rt_sysmon_wake(void); /* a P left idleness */

/* ---- g.c ---- */
RT_HIDDEN rt_g *rt_g_new(rt_p *p, void (*fn)(void *), void *arg); /* p may be NULL; NULL: memory */
RT_HIDDEN void rt_g_free(rt_p *p, rt_g *g);
RT_HIDDEN rt_g *rt_g_at(uint32_t i); /* all records ever made: 0 <= i < rt_g_count() */
RT_HIDDEN uint32_t rt_g_count(void);
RT_HIDDEN rt_g *rt_g_thread(void); /* the plain thread's record; NULL: memory */
RT_HIDDEN int rt_spawn(const weft_opts *opts, void (*fn)(void *), void *arg, uintptr_t pc,
                       rt_g **out);
RT_HIDDEN size_t rt_g_live(void);

/* ---- stack.c ---- */
RT_HIDDEN int rt_stack_class(size_t bytes); /* -EINVAL over 1 GiB; 0 bytes: the default class */
RT_HIDDEN int rt_stack_get(rt_p *p, uint32_t cls, rt_stack *out); /* 0 or -ENOMEM */
RT_HIDDEN void rt_stack_put(rt_p *p, rt_stack *s);
RT_HIDDEN void rt_stack_trim(void);        /* sysmon's tick: cold pages go back */
RT_HIDDEN void *rt_os_alloc(size_t bytes); /* zeroed pages; NULL */
RT_HIDDEN void *rt_os_grow(void *old, size_t old_bytes, size_t new_bytes);

/* ---- timer.c, for the scheduler ---- */
RT_HIDDEN void rt_timers_run(rt_p *p, int64_t now); /* fires what is due */
RT_HIDDEN int64_t rt_timers_next(void);             /* earliest of all Ps; INT64_MAX none */

/* ---- block.c ---- */
RT_HIDDEN uint32_t rt_blocking_busy(void); /* jobs queued or running */

/* ---- crash.c ---- */
RT_HIDDEN void rt_crash_deadlock(void);             /* prints all stacks; ends with 2 */
extern RT_HIDDEN _Atomic(uint64_t) rt_thread_wakes; /* plain threads readied so far */
RT_HIDDEN uint32_t rt_threads_waiting(void); /* plain threads in a Weft wait without deadline */

/* ---- hook.c ---- */
extern RT_HIDDEN _Atomic(uint32_t) rt_hook_mask;
extern RT_HIDDEN const weft_hooks *rt_hook_table;
extern RT_HIDDEN _Atomic(const weft_report *) rt_report;
static inline const weft_hooks *rt_hook(uint32_t bit) /* the table when the bit is on, else NULL */
{
    return rt_unlikely(load_relaxed(&rt_hook_mask) & bit) ? rt_hook_table : NULL;
}
static inline int64_t rt_now(void)
{
    return weft_now();
}

#endif
