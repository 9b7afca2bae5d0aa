/* The private map of profiler/collect/: what its rooms share and nobody else sees.
 *
 * Three places a function here can be called from, and what each allows:
 *   handler   the SIGPROF handler: no locks, no malloc, no libc call, no lazy TLS, errno kept
 *   hook      inside malloc, free or a runtime hook: a pf_lock, never held while calling out,
 *             raw mmap; no malloc (heap.c's own), no pthread_getattr_np (H49), no loader call (H5)
 *   ordinary  anything
 * Each prototype says which; "handler" functions may be called from everywhere.
 *
 * Lock ranks (equal ranks are never nested): 1 session (cpu.c, load.c), 2 registry (threads.c),
 * 3 shard (bucket.c) and heap.c's own live-set shards.
 */
#ifndef WEFT_PF_H
#define WEFT_PF_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>
#include "profiler/collect/collect.h"

#define pf_likely(x)   __builtin_expect(!!(x), 1)
#define pf_unlikely(x) __builtin_expect(!!(x), 0)
#define PF_NOINLINE    __attribute__((noinline))

/* ---- system calls without libc: errno stays, usable in a handler ---- */

static inline long pf_syscall4(long nr, long a, long b, long c, long d)
{
#if defined(__x86_64__)
    long ret;
    register long r10 __asm__("r10") = d;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return ret;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
#else
#error "profiler/collect: x86-64 and aarch64 only"
#endif
}

static inline long pf_syscall6(long nr, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__)
    long ret;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(ret)
                     : "a"(nr), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return ret;
#else
    register long x8 __asm__("x8") = nr;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
#endif
}
/* Zeroed memory from the kernel, NULL when there is none. Not libc's mmap: that sets errno, and a
 * sanitizer intercepts it. */
static inline void *pf_map(size_t n)
{
    long p = pf_syscall6(SYS_mmap, 0, (long)n, 3 /* READ | WRITE */,
                         0x4022 /* PRIVATE | ANONYMOUS | NORESERVE */, -1, 0);
    return p < 0 && p > -4096 ? NULL : (void *)p;
}
static inline void pf_unmap(void *p, size_t n)
{
    if (p)
        pf_syscall4(SYS_munmap, (long)p, (long)n, 0, 0);
}

/* futex: waits while *word == expect, at most ns nanoseconds (< 0: for ever); may return early. */
static inline long pf_futex_wait(_Atomic(uint32_t) *word, uint32_t expect, int64_t ns)
{
    struct {
        int64_t sec, nsec;
    } ts = {ns / 1000000000, ns % 1000000000};
    return pf_syscall4(SYS_futex, (long)word, 128 /* FUTEX_WAIT | PRIVATE */, expect,
                       ns < 0 ? 0 : (long)&ts);
}
static inline void pf_futex_wake(_Atomic(uint32_t) *word, int n)
{
    pf_syscall4(SYS_futex, (long)word, 129 /* FUTEX_WAKE | PRIVATE */, n, 0);
}

/* ---- lock: for hooks and ordinary code, never a handler. 0 free, 1 held, 2 with sleepers ---- */

typedef _Atomic(uint32_t) pf_lock;
static inline void pf_lock_acquire(pf_lock *l)
{
    uint32_t seen = 0; /* acquire: partner is the exchange in pf_lock_release */
    if (pf_likely(atomic_compare_exchange_strong_explicit(l, &seen, 1, memory_order_acquire,
                                                          memory_order_relaxed)))
        return;
    while (atomic_exchange_explicit(l, 2, memory_order_acquire) != 0)
        pf_futex_wait(l, 2, -1);
}
static inline bool pf_lock_try(pf_lock *l)
{
    uint32_t seen = 0; /* acquire: partner is the exchange in pf_lock_release */
    return atomic_compare_exchange_strong_explicit(l, &seen, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}
static inline void pf_lock_release(pf_lock *l)
{
    if (pf_unlikely(atomic_exchange_explicit(l, 0, memory_order_release) == 2))
        pf_futex_wake(l, 1);
}

/* ---- tls.c: the one thread-local block, initial-exec, plain data, no destructor ----
 *
 * A coroutine may change threads where it parks, so no pointer into it is kept over anything that
 * can park. All zero is a valid thread that nobody has registered.
 */
typedef struct pf_tls_block {
    uintptr_t lo,
        hi;         /* the thread's own stack; 0, 0 unknown. Never filled from a hook or handler */
    uintptr_t base; /* pool threads: frames at or above it are the thread's base */
    _Atomic(weft_labels *) labels; /* of a plain thread; holds a reference */
    uint32_t in_hook;    /* > 0: the profiler works on this thread: take no sample, only forward */
    uint32_t in_handler; /* > 0: inside the SIGPROF handler */
    int32_t tid;         /* 0 until the thread is in the registry */
    uint8_t kind;        /* weft_thread_kind, 0 unknown */
    uint8_t quiet;       /* nonzero: no sample of any kind comes from it. 1: the profiler works on
                            the program's thread just now; 2: the thread is the profiler's own */
    /* heap.c's own */
    uint64_t heap_left; /* units until the countdown runs out; the rest of the gap is heap_rest */
    uint64_t heap_rest;
    uint64_t
        heap_ctl; /* the rate, with its generation, under which the gap was drawn; 0: none yet */
    uint64_t rng; /* 0: not seeded; heap.c and contention.c */
} pf_tls_block;
extern PF_HIDDEN _Thread_local pf_tls_block pf_tls __attribute__((tls_model("initial-exec")));

/* The guard of hooks: false when the thread is already inside or quiet (then do not leave). */
static inline bool pf_enter(void)
{
    if (pf_tls.in_hook | pf_tls.quiet)
        return false;
    pf_tls.in_hook = 1;
    return true;
}
static inline void pf_leave(void)
{
    pf_tls.in_hook = 0;
}

/* ---- unwind.c: stacks ---- */

/* Walks from (pc, sp, fp) inside [lo,hi): pcs[0] is pc, the rest return addresses. At most max (>=
 * 4); of a deeper stack the leaf half, PF_TRUNCATED, and the root half. Returns how many. Loads
 * only inside [max(lo, sp), hi). Handler. */
PF_HIDDEN int pf_unwind(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t lo, uintptr_t hi,
                        uintptr_t *pcs, int max);
/* The interrupted or calling context of this thread: finds its bounds (coroutine, scheduler, pool
 * with the coroutine's stack joined below, plain thread) and walks. Leaf and PF_NO_STACK when they
 * are unknown. peek receives what the thread runs. Handler. */
PF_HIDDEN int pf_unwind_context(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t *pcs, int max,
                                weft_peek *peek);
/* The stack of the caller of the function whose frame is `frame`, which is
 * __builtin_frame_address(0) of that function: pcs[0] is its return address, all are return
 * addresses (leaf_exact false). Handler. */
PF_HIDDEN int pf_unwind_here(const void *frame, uintptr_t *pcs, int max);

/* ---- label.c: counted sets ---- */

static inline weft_labels *pf_labels_ref(weft_labels *set) /* handler; NULL stays NULL */
{
    if (set)
        atomic_fetch_add_explicit(&set->refs, 1, memory_order_relaxed);
    return set;
}
PF_HIDDEN void pf_labels_unref(weft_labels *set); /* ordinary: the last one frees */
PF_HIDDEN bool pf_labels_equal(const weft_labels *, const weft_labels *);
PF_HIDDEN uint64_t pf_labels_hash(const weft_labels *); /* 0 for none */
PF_HIDDEN void *pf_label_inherit(void *set);            /* the hooks */
PF_HIDDEN void pf_label_drop(void *set);

/* ---- bucket.c: stack -> counts ----
 *
 * A bucket is one (stack, leaf_exact, labels, block_bytes). It never moves and is never freed while
 * its table lives (CPU clears its table between sessions), so heap.c keeps pointers to buckets.
 * What v means is the source's business; v is changed with pf_bucket_add from any thread.
 */
#define PF_BUCKET_VALUES 8
typedef struct pf_bucket {
    uint64_t hash;
    struct pf_bucket *next; /* all buckets of its shard, newest first */
    weft_labels *labels;    /* holds a reference */
    int64_t block_bytes;
    uint32_t npcs;
    bool leaf_exact;
    _Atomic(int64_t) v[PF_BUCKET_VALUES];
    const uintptr_t *pcs; /* right behind the bucket */
} pf_bucket;

#define PF_SHARDS 16
typedef struct pf_chunk {
    struct pf_chunk *next;
    size_t size, used;
} pf_chunk;
typedef struct pf_shard {
    _Alignas(64) pf_lock lock;
    uint32_t cap, used; /* of slot; cap is a power of two */
    pf_bucket **slot;   /* open addressing */
    pf_bucket *list;
    pf_chunk *chunks;
} pf_shard;
typedef struct pf_table {
    size_t limit; /* bytes of memory at most; 0: PF_TABLE_BYTES */
    _Atomic(size_t) bytes;
    _Atomic(uint64_t) nbuckets;
    pf_shard shard[PF_SHARDS];
    pf_bucket overflow; /* where samples go when memory is out: [lost: out of memory] */
} pf_table;             /* all-zero is an empty table */
#define PF_TABLE_BYTES ((size_t)64 << 20)

/* Finds or makes the bucket; never NULL (the overflow bucket when memory is out). Takes its own
 * reference on labels. Hook. */
PF_HIDDEN pf_bucket *pf_bucket_get(pf_table *, const uintptr_t *pcs, uint32_t npcs, bool leaf_exact,
                                   weft_labels *labels, int64_t block_bytes);
static inline void pf_bucket_add(pf_bucket *b, int i, int64_t n) /* handler */
{
    atomic_fetch_add_explicit(&b->v[i], n, memory_order_relaxed);
}
static inline int64_t pf_bucket_read(const pf_bucket *b, int i)
{
    return atomic_load_explicit(&b->v[i], memory_order_relaxed);
}
/* Calls visit for each bucket (the overflow bucket too, if it has values); no lock is held during
 * visit; buckets made meanwhile may be missed. A nonzero return stops and is returned. Ordinary. */
PF_HIDDEN int pf_table_visit(pf_table *, int (*visit)(const pf_bucket *, void *arg), void *arg);
PF_HIDDEN void pf_table_clear(pf_table *); /* frees all; nobody else uses it. Ordinary. */

/* Around fork, from pthread_atfork: prepare takes the locks (so the child's copy is whole), parent
 * and child give them back. */
typedef enum pf_fork_phase { PF_FORK_PREPARE, PF_FORK_PARENT, PF_FORK_CHILD } pf_fork_phase;
PF_HIDDEN void pf_table_fork(pf_table *, pf_fork_phase);

/* ---- raw.c: building raw snapshots, in raw mmap memory (never malloc); ordinary ---- */

PF_HIDDEN int pf_raw_init(pf_raw *, const pf_source *); /* zeros, arena, time_ns; 0, -ENOMEM */
PF_HIDDEN void *pf_raw_alloc(pf_raw *, size_t n);       /* zeroed, 16-aligned; NULL: no memory */
/* One more sample with a copy of pcs (equal stacks share one copy), values zero, and a reference of
 * its own on labels. The pointer is good until the next call. NULL: no memory. */
PF_HIDDEN pf_sample *pf_raw_add(pf_raw *, const uintptr_t *pcs, uint32_t npcs, bool leaf_exact,
                                weft_labels *labels);
PF_HIDDEN int pf_raw_modules(pf_raw *); /* maps.c: fills modules; 0, -ENOMEM */
PF_HIDDEN void pf_raw_free(pf_raw *);

/* ---- threads.c: the registry ---- */

PF_HIDDEN void pf_thread_start(weft_thread_kind, uintptr_t lo, uintptr_t hi); /* the hooks */
PF_HIDDEN void pf_thread_stop(weft_thread_kind);
PF_HIDDEN void pf_thread_quiet(bool quiet);
/* Registers the calling plain thread with its stack bounds, once. Ordinary: never from a hook. */
PF_HIDDEN void pf_thread_here(void);
/* Starts a thread of the profiler's own: quiet, all signals blocked, small stack, unknown to the
 * deadlock report. 0 or a negative errno. Detached unless out is not NULL. Ordinary. */
PF_HIDDEN int pf_thread_spawn(void *(*fn)(void *), void *arg, unsigned long *out);

/* ---- cpu.c, coroutine.c, custom rooms: called by start.c, load.c ---- */

PF_HIDDEN int pf_cpu_start(int hz); /* as pf_collect_api.cpu_start; ordinary */
PF_HIDDEN int pf_cpu_stop(pf_raw *out);
PF_HIDDEN void pf_cpu_fork(pf_fork_phase);
PF_HIDDEN void pf_threads_fork(pf_fork_phase);
PF_HIDDEN void pf_coroutine_fork(pf_fork_phase);
PF_HIDDEN void pf_load_fork(pf_fork_phase); /* child: drops the server, serves itself if asked */
/* The SIGPROF handler in place: 0; -EEXIST when the program has one of its own. Ordinary. */
PF_HIDDEN int pf_signal_ready(void);
/* A SIGPROF that coroutine.c sent: value is what it sent with it. Handler. */
PF_HIDDEN void pf_coroutine_signal(uintptr_t value, uintptr_t pc, uintptr_t sp, uintptr_t fp);
/* "weft: " and one line on stderr; ordinary */
PF_HIDDEN void pf_warn(const char *format, ...) __attribute__((format(printf, 1, 2)));
PF_HIDDEN int pf_elf_name(uintptr_t pc, char *buf, size_t n); /* elfname.c: weft_report.name */
PF_HIDDEN int pf_serve_env(const char *addr); /* load.c: WEFT_PPROF; one line when it fails */
extern PF_HIDDEN const pf_collect_api pf_api;

/* ---- heap.c, contention.c: called by start.c ---- */

PF_HIDDEN void pf_heap_start(void); /* from the constructor, before the environment is read */
PF_HIDDEN void pf_heap_fork(pf_fork_phase);
PF_HIDDEN void pf_contention_fork(pf_fork_phase);
PF_HIDDEN void pf_block_end(weft_wait_reason why, int64_t wait_ns); /* the hooks */
PF_HIDDEN void pf_unlock_end(int64_t wait_ns);
/* The rates themselves (weft_pprof_block_rate, _mutex_fraction, _heap_rate) are public functions of
 * heap.c and contention.c; start.c calls them with what WEFT_HEAP_RATE, WEFT_BLOCK_RATE and
 * WEFT_MUTEX_FRACTION say. Contention turns its bits of weft_hook_mask on and off. */

#endif
