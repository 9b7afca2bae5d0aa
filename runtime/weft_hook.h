/* The seam: how a profiler (or a debugger) hangs on to the runtime without the runtime knowing it.
 *
 *  push    a table of typed functions behind one relaxed load of a mask (weft_hook_set);
 *  pull    an iterator over all coroutines that holds one while it is looked at (weft_hook_coros);
 *  peek    an async-signal-safe view of what the interrupted thread runs (weft_hook_peek);
 *  report  a slot through which crash reports get better stacks and names (weft_hook_report_set).
 *
 * Semi-public: versioned by WEFT_HOOK_VERSION, only for libraries that are built with the runtime.
 */
#ifndef WEFT_HOOK_H
#define WEFT_HOOK_H

#include "weft.h"
#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define WEFT_HOOK_VERSION 1u

/* Why a coroutine waits. weft_hook_reason_name gives the text that debug=1 and 2 print. */
typedef enum weft_wait_reason {
    WEFT_WAIT_NONE = 0,
    WEFT_WAIT_CHAN_RECV,       /* "chan receive" */
    WEFT_WAIT_CHAN_SEND,       /* "chan send" */
    WEFT_WAIT_SELECT,          /* "select" */
    WEFT_WAIT_SELECT_NO_CASES, /* "select (no cases)" */
    WEFT_WAIT_SLEEP,           /* "sleep" */
    WEFT_WAIT_IO,              /* "IO wait" */
    WEFT_WAIT_MUTEX,           /* "sync.Mutex.Lock" */
    WEFT_WAIT_WG,              /* "sync.WaitGroup.Wait" */
    WEFT_WAIT_ONCE,            /* "sync.Once.Do" */
    WEFT_WAIT_BLOCKING,        /* "blocking call" */
    WEFT_WAIT_REASONS
} weft_wait_reason;
WEFT_API const char *weft_hook_reason_name(weft_wait_reason);

/* What a thread of the process is to Weft. */
typedef enum weft_thread_kind {
    WEFT_THREAD_WORKER = 1, /* runs coroutines */
    WEFT_THREAD_POOL,       /* runs weft_blocking calls */
    WEFT_THREAD_OWN,        /* sysmon and the like: never in samples */
    WEFT_THREAD_PLAIN       /* the program's own, at its first call that may wait */
} weft_thread_kind;

/* ---- push ---- */

enum {
    WEFT_HOOK_LABEL = 1u << 0,  /* label_inherit, label_drop */
    WEFT_HOOK_BLOCK = 1u << 1,  /* block_end */
    WEFT_HOOK_UNLOCK = 1u << 2, /* unlock_end */
    WEFT_HOOK_THREAD = 1u << 3, /* thread_start, thread_stop */
    WEFT_HOOK_RUN = 1u << 4     /* run_start */
};

/* All functions are called outside the runtime's locks, on the stack of the coroutine or thread
 * they tell about, and must not park. They may allocate. */
typedef struct weft_hooks {
    uint32_t version; /* WEFT_HOOK_VERSION */
    /* At spawn, in the creator: the creator's label set (or NULL) -> the child's, with one more
     * reference. */
    void *(*label_inherit)(void *set);
    /* A coroutine ended: its set (not NULL) loses a reference. May run on a scheduler stack (16 KiB
     * left). */
    void (*label_drop)(void *set);
    /* A wait of the caller has ended after wait_ns (> 0). Not called for sleep, IO and blocking
     * calls. */
    void (*block_end)(weft_wait_reason why, int64_t wait_ns);
    /* The caller has just unlocked something that others waited for; wait_ns is what the woken one
     * had waited. */
    void (*unlock_end)(int64_t wait_ns);
    /* Called on the thread itself, at its start (stack [lo,hi)) and before its end. thread_stop is
     * not called for plain threads. */
    void (*thread_start)(weft_thread_kind kind, uintptr_t lo, uintptr_t hi);
    void (*thread_stop)(weft_thread_kind kind);
    /* weft_run is about to start its first coroutine; called on weft_run's thread. */
    void (*run_start)(void);
} weft_hooks;

/* Installs the table (immutable, outlives the process) and the mask. The mask alone may be changed
 * any time by weft_hook_mask: bits set and bits cleared; returns the new mask. */
WEFT_API int weft_hook_set(const weft_hooks *table,
                           uint32_t mask); /* -EINVAL: wrong version; -EBUSY: another table */
WEFT_API uint32_t weft_hook_mask(uint32_t set, uint32_t clear);

/* The running coroutine's label pointer, or NULL on a plain thread. Valid until the caller parks.
 */
WEFT_API void **weft_hook_label_slot(void);

/* ---- pull ---- */

typedef enum weft_coro_state {
    WEFT_CORO_RUNNABLE = 1, /* "runnable" */
    WEFT_CORO_RUNNING,      /* "running": not held; thread `tid` runs it now, or did a moment ago */
    WEFT_CORO_WAITING,      /* its wait reason */
    WEFT_CORO_SYSCALL /* "syscall": cannot leave weft_syscall_exit while visited; sp/pc/fp are
                         those of enter */
} weft_coro_state;

typedef struct weft_coro {
    uint64_t id, creator_id;  /* creator_id 0: made by a plain thread */
    uintptr_t fn, creator_pc; /* entry function; return address of the weft_go call */
    const char *name;         /* "" for none */
    weft_coro_state state;
    weft_wait_reason reason;
    const void *wait_obj;
    int64_t since_ns;     /* weft_now() of the last park, coarse (10 ms); 0 unknown */
    void *labels;         /* borrowed while visited */
    uintptr_t pc, sp, fp; /* saved context; sp 0: has no stack yet (pc is fn), or is running */
    uintptr_t lo, hi;     /* its stack, 0 when it has none yet */
    int32_t tid;          /* running, syscall: the thread; blocking call: the pool thread; else 0 */
    bool pinned;
} weft_coro;

/* Calls visit for each coroutine, in no order. A coroutine that is not running stays where it is
 * while it is visited (it can be readied, but not run), so visit must be short and must not park.
 * Coroutines born or ended meanwhile may be missed. A nonzero return stops and is returned. Plain
 * threads only: a coroutine could wait for itself. */
typedef int (*weft_coro_fn)(const weft_coro *, void *arg);
WEFT_API int weft_hook_coros(weft_coro_fn visit, void *arg);
WEFT_API size_t weft_hook_coro_count(void); /* live coroutines now */

/* ---- peek ---- */

typedef enum weft_peek_kind {
    WEFT_ON_THREAD = 0, /* a plain thread (or one of Weft's own); bounds unknown here */
    WEFT_ON_CORO,       /* on a coroutine's stack */
    WEFT_ON_SCHED,      /* on a worker's scheduler stack */
    WEFT_ON_POOL /* a pool thread inside weft_blocking for coroutine `id`, whose stack is `join` */
} weft_peek_kind;

typedef struct weft_peek {
    weft_peek_kind kind;
    uint64_t id;      /* the coroutine, 0 for none */
    void *labels;     /* its label set, alive until the signal handler returns */
    uintptr_t lo, hi; /* bounds of the stack that holds sp; 0,0 unknown */
    struct {
        uintptr_t pc, sp, fp, lo, hi;
    } join; /* WEFT_ON_POOL: the coroutine's saved context, else zeros */
} weft_peek;

/* What the calling thread runs, given the interrupted stack pointer. Async-signal-safe; never
 * fails. */
WEFT_API void weft_hook_peek(uintptr_t sp, weft_peek *out);

/* ---- report ---- */

typedef struct weft_report {
    /* Walks from (pc, sp, fp) inside [lo,hi); leaf first; returns how many. No malloc. */
    int (*walk)(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t lo, uintptr_t hi,
                uintptr_t *pcs, int max);
    /* Writes "function+0xoff" for pc, NUL-terminated; its length, or 0 when unknown. No malloc. */
    int (*name)(uintptr_t pc, char *buf, size_t n);
} weft_report;
WEFT_API void weft_hook_report_set(const weft_report *); /* immutable, outlives the process */

/* ---- others ---- */

/* Tells the deadlock report that the process has n more (n < 0: fewer) threads that belong to Weft
 * and never send. */
WEFT_API void weft_hook_own_threads(int n);

#ifdef __cplusplus
}
#endif
#endif
