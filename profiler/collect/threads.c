/* The registry of threads, and the threadcreate profile.
 *
 * The registry says which threads the CPU profile may arm: Weft's workers and pool threads and the
 * program's own, but not sysmon and not the profiler's. Weft's threads come through the hooks,
 * plain threads at their first Weft call, and any other by a sweep of /proc/self/task while a CPU
 * session runs (H36: raw clone, threads of libraries).
 *
 * Invariants:
 *  1. One record per living tid; a timer belongs to exactly one record, so no thread is armed
 *     twice.
 *  2. A thread's own end takes it out in the order: signal blocked, timer deleted, record and
 *     labels released (H37). A thread that ends without us is found by the next sweep, whose
 *     timer_delete is what frees its timer in the kernel.
 *  3. A sweep holds the lock from before it reads the directory until it has compared, so a thread
 *     that registers meanwhile is not taken for dead.
 *  4. Stack bounds are asked for (pthread_getattr_np) only in ordinary calls, never in a hook
 *     (H49).
 *
 * Locks: pf_threads_lock, rank 2; held over system calls, never over a call out.
 *
 * Rejected: interposing pthread_create to see every thread: it belongs to the agent, where nothing
 * else tells; here a sweep of 100 ms finds plain threads.
 */
#include "profiler/collect/threads.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

enum { FIRST_SLOTS = 256, QUIET_BORROWED = 1, QUIET_OWN = 2 };

pf_lock pf_threads_lock;
static pf_thread *slot; /* open addressing by tid */
static uint32_t cap, used;
static uint32_t sweeps;
static pf_table created; /* v[0]: threads by the stack of their start */
static _Atomic(int64_t) created_count;
static _Atomic(int32_t) quiet_count; /* living threads of the profiler */
static pthread_key_t end_key;
static pthread_once_t end_once = PTHREAD_ONCE_INIT;
static bool end_key_made;

/* ---- records ---- */

static uint32_t home(int32_t tid)
{
    return (uint32_t)tid * 2654435769u >> 8 & (cap - 1);
}

static pf_thread *place_locked(int32_t tid)
{
    uint32_t i = home(tid);
    while (slot[i].tid)
        i = (i + 1) & (cap - 1);
    used++;
    slot[i] = (pf_thread){.tid = tid, .timer = -1, .seen = sweeps};
    return &slot[i];
}

static bool grow_locked(void)
{
    if (cap && used < cap / 4 * 3)
        return true;
    uint32_t old_cap = cap, live = 0;
    pf_thread *old = slot;
    for (uint32_t i = 0; i < old_cap; i++)
        live += old[i].tid > 0;
    uint32_t new_cap = cap ? cap : FIRST_SLOTS;
    while (live >= new_cap / 2)
        new_cap *= 2;
    pf_thread *fresh = pf_map(new_cap * sizeof(*fresh));
    if (!fresh)
        return used + 1 < cap;
    slot = fresh;
    cap = new_cap;
    used = 0;
    for (uint32_t i = 0; i < old_cap; i++)
        if (old[i].tid > 0)
            *place_locked(old[i].tid) = old[i];
    pf_unmap(old, old_cap * sizeof(*old));
    return true;
}

pf_thread *pf_thread_find_locked(int32_t tid, bool make)
{
    if (cap)
        for (uint32_t i = home(tid); slot[i].tid; i = (i + 1) & (cap - 1))
            if (slot[i].tid == tid)
                return &slot[i];
    return make && grow_locked() ? place_locked(tid) : NULL;
}

static void forget_locked(pf_thread *t)
{
    pf_cpu_disarm_locked(t);
    t->tid = -1;
}

void pf_threads_disarm_all_locked(void)
{
    for (uint32_t i = 0; i < cap; i++)
        if (slot[i].tid > 0)
            pf_cpu_disarm_locked(&slot[i]);
}

/* ---- the sweep ---- */

typedef struct dirent64 {
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
} dirent64;

static int32_t number(const char *s)
{
    int32_t n = 0;
    for (; *s >= '0' && *s <= '9'; s++)
        n = n * 10 + (*s - '0');
    return n;
}

/* Marks what lives with this sweep's number; false when /proc cannot be read. */
static bool mark_living_locked(int *living)
{
    static const char dir[] = "/proc/self/task";
    _Alignas(8) char buf[4096];
    int fd =
        (int)pf_syscall4(SYS_openat, AT_FDCWD, (long)dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    if (fd < 0)
        return false;
    long n;
    while ((n = pf_syscall4(SYS_getdents64, fd, (long)buf, sizeof(buf), 0)) > 0) {
        for (long at = 0; at < n;) {
            const dirent64 *d = (const dirent64 *)(buf + at);
            int32_t tid = number(d->name);
            at += d->reclen;
            if (tid <= 0)
                continue;
            pf_thread *t = pf_thread_find_locked(tid, true);
            if (t) {
                t->seen = sweeps;
                (*living)++;
                pf_cpu_arm_locked(t);
            }
        }
    }
    pf_syscall4(SYS_close, fd, 0, 0, 0);
    return n == 0;
}

int pf_threads_sweep_locked(void)
{
    int living = 0;
    sweeps++;
    if (!mark_living_locked(&living))
        return living;
    for (uint32_t i = 0; i < cap; i++)
        if (slot[i].tid > 0 && slot[i].seen != sweeps)
            forget_locked(&slot[i]);
    return living;
}

/* ---- threads come and go ---- */

static void leave(void)
{
    sigset_t prof;
    sigemptyset(&prof);
    sigaddset(&prof, SIGPROF);
    pthread_sigmask(SIG_BLOCK, &prof, NULL);
    pf_lock_acquire(&pf_threads_lock);
    pf_thread *t = pf_thread_find_locked(pf_tls.tid, false);
    if (t)
        forget_locked(t);
    pf_lock_release(&pf_threads_lock);
    /* acq_rel: the handler of this thread is the only other reader, and it is blocked */
    pf_labels_unref(atomic_exchange_explicit(&pf_tls.labels, NULL, memory_order_acq_rel));
    pf_tls.tid = 0;
}

static void count_quiet(int n)
{
    atomic_fetch_add_explicit(&quiet_count, n, memory_order_relaxed);
    weft_hook_own_threads(n);
}

static void end_of_thread(void *registered)
{
    (void)registered;
    if (pf_tls.quiet & QUIET_OWN)
        count_quiet(-1);
    leave();
}

static void make_end_key(void)
{
    end_key_made = pthread_key_create(&end_key, end_of_thread) == 0;
}

static void enter(weft_thread_kind kind)
{
    pf_tls.kind = (uint8_t)kind;
    pf_tls.tid = (int32_t)pf_syscall4(SYS_gettid, 0, 0, 0, 0);
    pf_lock_acquire(&pf_threads_lock);
    pf_thread *t = pf_thread_find_locked(pf_tls.tid, true);
    if (t) {
        t->kind = (uint8_t)kind;
        t->quiet = pf_tls.quiet & QUIET_OWN;
        t->aged |= t->quiet;
        if (t->quiet || kind == WEFT_THREAD_OWN)
            pf_cpu_disarm_locked(t);
        else
            pf_cpu_arm_locked(t);
    }
    pf_lock_release(&pf_threads_lock);
    if (kind == WEFT_THREAD_PLAIN) {
        pthread_once(&end_once, make_end_key);
        if (end_key_made)
            pthread_setspecific(end_key, &pf_tls);
    }
}

static void find_own_bounds(void)
{
    pthread_attr_t attr;
    void *lo;
    size_t n;
    if (pthread_getattr_np(pthread_self(), &attr))
        return;
    if (!pthread_attr_getstack(&attr, &lo, &n)) {
        pf_tls.lo = (uintptr_t)lo;
        pf_tls.hi = (uintptr_t)lo + n;
    }
    pthread_attr_destroy(&attr);
}

void pf_thread_here(void)
{
    if (pf_likely(pf_tls.tid) || pf_tls.in_hook)
        return;
    if (!pf_tls.hi)
        find_own_bounds();
    enter(WEFT_THREAD_PLAIN);
}

void pf_thread_start(weft_thread_kind kind, uintptr_t lo, uintptr_t hi)
{
    const uintptr_t *frame = __builtin_frame_address(0);
    if (hi && !pf_tls.hi) {
        pf_tls.lo = lo;
        pf_tls.hi = hi;
    }
    if (kind == WEFT_THREAD_PLAIN) {
        pf_thread_here();
        return;
    }
    uintptr_t pcs[PF_DEPTH];
    int n = pf_unwind_here(frame, pcs, PF_DEPTH);
    pf_bucket_add(pf_bucket_get(&created, pcs, (uint32_t)n, false, NULL, 0), 0, 1);
    atomic_fetch_add_explicit(&created_count, 1, memory_order_relaxed);
    if (kind == WEFT_THREAD_POOL)
        pf_tls.base = frame[0];
    enter(kind);
}

void pf_thread_stop(weft_thread_kind kind)
{
    (void)kind;
    leave();
}

void pf_thread_quiet(bool quiet)
{
    if (quiet == !!(pf_tls.quiet & QUIET_OWN))
        return;
    pf_tls.quiet ^= QUIET_OWN;
    count_quiet(quiet ? 1 : -1);
    enter(pf_tls.kind ? (weft_thread_kind)pf_tls.kind : WEFT_THREAD_PLAIN);
}

/* ---- threads of our own ---- */

typedef struct start {
    void *(*fn)(void *);
    void *arg;
} start;

static void *run(void *arg)
{
    start s = *(start *)arg;
    pf_thread_quiet(true);
    free(arg);
    return s.fn(s.arg);
}

int pf_thread_spawn(void *(*fn)(void *), void *arg, unsigned long *out)
{
    pthread_attr_t attr;
    pthread_t thread;
    sigset_t all, before;
    start *s = malloc(sizeof(*s));
    if (!s)
        return -ENOMEM;
    *s = (start){fn, arg};
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's (H58) */
    int r = pthread_attr_init(&attr);
    if (!r) {
        pthread_attr_setstacksize(&attr, 1 << 20);
        pthread_attr_setdetachstate(&attr, out ? PTHREAD_CREATE_JOINABLE : PTHREAD_CREATE_DETACHED);
        r = pthread_create(&thread, &attr, run, s);
        pthread_attr_destroy(&attr);
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (r)
        free(s);
    else if (out)
        *out = (unsigned long)thread;
    return -r;
}

void pf_threads_fork(pf_fork_phase phase)
{
    if (phase == PF_FORK_PREPARE) {
        pf_lock_acquire(&pf_threads_lock);
        pf_table_fork(&created, phase);
        return;
    }
    pf_table_fork(&created, phase);
    if (phase == PF_FORK_CHILD) { /* one thread, with a new tid, and no timers */
        for (uint32_t i = 0; i < cap; i++)
            slot[i] = (pf_thread){0};
        used = 0;
        pf_tls.tid = 0;
        int mine = !!(pf_tls.quiet & QUIET_OWN);
        weft_hook_own_threads(mine -
                              atomic_exchange_explicit(&quiet_count, mine, memory_order_relaxed));
    }
    pf_lock_release(&pf_threads_lock);
    if (phase == PF_FORK_CHILD)
        pf_thread_here();
}

/* ---- the threadcreate profile ---- */

static int add_created(const pf_bucket *b, void *arg)
{
    pf_sample *s = pf_raw_add(arg, b->pcs, b->npcs, false, NULL);
    if (!s)
        return -ENOMEM;
    s->values[0] = pf_bucket_read(b, 0);
    return 0;
}

static int64_t count_created(void)
{
    return atomic_load_explicit(&created_count, memory_order_relaxed);
}

static int snapshot_created(pf_raw *raw)
{
    int r = pf_raw_init(raw, &pf_threads_source);
    if (!r)
        r = pf_table_visit(&created, add_created, raw);
    if (!r)
        r = pf_raw_modules(raw);
    if (r)
        pf_raw_free(raw);
    raw->count = r ? 0 : count_created();
    return r;
}

const pf_source pf_threads_source = {
    .name = "threadcreate",
    .help = "Stack traces that led to the creation of new threads by the runtime",
    .ntypes = 1,
    .types = {{"threadcreate", "count"}},
    .period_type = {"threadcreate", "count"},
    .snapshot = snapshot_created,
    .count = count_created,
};
