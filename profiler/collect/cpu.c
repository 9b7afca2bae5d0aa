/* The CPU profile: a timer on each thread's CPU clock, a handler that walks, a thread that adds up.
 *
 * A session arms each thread with timer_create on that thread's CPU clock, by raw system call,
 * because libc's refuses the clock ids of other threads. A sample weighs 1 + overrun periods, so
 * that neither a kernel tick longer than the period (H34) nor a busy handler loses CPU time; the
 * first expiry is uniform in (0, period], so that threads shorter than a period are sampled as
 * often as their share says. The handler writes one record into the ring (ring.c); the drain
 * thread adds records up by (stack, labels) and sweeps for new threads every 100 ms.
 *
 * Meters. A tick reaches a thread only where the kernel's own tick hits it, so a thread that ends,
 * or a session that stops, leaves periods behind that were used and not sampled: 4 % of a thread
 * that burnt 400 ms beside seven others. Each armed thread therefore has a meter: where its clock
 * stood, and how many periods its samples have told. What its clock says beyond that at the end is
 * given to the stack it was last seen with, or to [no stack] when it was never seen; a thread born
 * during the session is metered from its birth.
 *
 * Invariants:
 *  1. The handler: no lock, no malloc, no libc call, errno untouched, no file descriptor, bounded
 *     time; it writes straight into the ring's record, so its frame stays small (H12, H13).
 *  2. A signal counts only if it carries the number of the session that runs; each session has a
 *     new one, so a tick that was pending over a stop is dropped and not counted twice.
 *  3. `busy` is raised before the session number is read, and a stop clears the number before it
 *     waits for busy to fall: after that no handler touches the ring for this session.
 *  4. The handler stays installed for ever, and SIG_DFL is never restored: a late tick would end
 *     the process with "Profiling timer expired" (H10).
 *  5. A SIGPROF handler that the program has itself is never replaced: start gives -EEXIST and one
 *     line (H57). If the program installs one during a session, the timers go within 100 ms.
 *  6. Every sample is counted: lost ones by reason, and they come back as synthetic frames (H38).
 *  7. The session is published before threads are listed, and a thread that is born meanwhile arms
 *     itself under the registry's lock: each is armed exactly once.
 *
 * Locks: session_lock rank 1, then pf_threads_lock rank 2. Neither in the handler.
 *
 * Rejected: setitimer (two equal threads measured 80:20, H33); perf_event_open (a descriptor per
 * thread, and containers forbid it); real-time signals (they queue, and eat RLIMIT_SIGPENDING).
 */
#include "profiler/collect/ring.h"
#include "profiler/collect/threads.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

enum { HZ_DEFAULT = 100, HZ_MAX = 1000, SWEEP_MS = 100, BUSY_TRIES = 10000 };

static pf_lock session_lock;
static _Atomic(uint32_t) session; /* the number of the one that runs; 0: none */
static uint32_t session_last;
static _Atomic(uint32_t) busy; /* handlers inside a sample */
static _Atomic(int64_t) lost[PF_SYNTHETIC_END];
static pf_ring ring;
static pf_table table; /* v[0]: periods. By the drain thread, and by stop after it has ended */

typedef struct meter {
    _Atomic(int64_t) told; /* periods, by the handler */
    int64_t base_ns;       /* of the thread's CPU clock; the rest under pf_threads_lock */
    int64_t first_ns;      /* after base, the first expiry */
    int64_t due;           /* periods, when it was closed last */
    pf_bucket *last;       /* by whoever drains */
} meter;
enum { METERS = 1 << 16 };
static meter *meters; /* mapped at the first start, never unmapped: a late handler may look */
static uint32_t meters_used;

static int64_t period_ns, start_wall_ns, start_ns;
static uint64_t random_state; /* of first expiries; under pf_threads_lock */
static int arm_error;         /* the last that timer_create gave in this session, and how often */
static uint32_t arm_failures, armed;
static bool first_sweep; /* what it finds was there before the session; under pf_threads_lock */

static unsigned long drainer;
static _Atomic(uint32_t) drain_stop; /* futex */
static bool handler_lost;            /* said already that the program took SIGPROF */

/* ---- the handler ---- */

typedef struct regs {
    uintptr_t pc, sp, fp;
} regs;

static inline regs context_regs(const void *context)
{
    const ucontext_t *uc = context;
#if defined(__x86_64__)
    return (regs){(uintptr_t)uc->uc_mcontext.gregs[REG_RIP],
                  (uintptr_t)uc->uc_mcontext.gregs[REG_RSP],
                  (uintptr_t)uc->uc_mcontext.gregs[REG_RBP]};
#else
    return (regs){uc->uc_mcontext.pc, uc->uc_mcontext.sp, uc->uc_mcontext.regs[29]};
#endif
}

static inline void lose(int why, uint32_t weight)
{
    atomic_fetch_add_explicit(&lost[why], weight, memory_order_relaxed);
}

static void take_sample(const regs *r, uint32_t number, uint32_t place, uint32_t weight)
{
    if (place < METERS)
        atomic_fetch_add_explicit(&meters[place].told, weight, memory_order_relaxed);
    pf_rec *rec = pf_ring_claim(&ring);
    if (!rec) {
        lose(PF_LOST_FULL, weight);
        return;
    }
    weft_peek peek;
    rec->npcs = pf_unwind_context(r->pc, r->sp, r->fp, rec->pcs, PF_DEPTH, &peek);
    weft_labels *set = peek.labels;
    if (peek.kind == WEFT_ON_THREAD)
        set = atomic_load_explicit(&pf_tls.labels, memory_order_relaxed);
    rec->labels = pf_labels_ref(set);
    rec->weight = weight;
    rec->session = number;
    rec->meter = place;
    pf_ring_publish(&ring, rec);
}

/* value: the session's number above, the place of the thread's meter below. */
static void on_timer(const regs *r, uint64_t value, uint32_t weight)
{
    uint32_t number = (uint32_t)(value >> 32);
    /* seq_cst on busy and session: partner is end_session (invariant 3) */
    atomic_fetch_add(&busy, 1);
    if (number && atomic_load(&session) == number) {
        if (pf_tls.in_handler)
            lose(PF_LOST_NESTED, weight);
        else {
            pf_tls.in_handler = 1;
            take_sample(r, number, (uint32_t)value, weight);
            pf_tls.in_handler = 0;
        }
    }
    atomic_fetch_sub(&busy, 1);
}

static void on_sigprof(int signo, siginfo_t *si, void *context)
{
    (void)signo;
    if (pf_tls.quiet)
        return;
    regs r = context_regs(context);
    if (si->si_code == SI_TIMER)
        on_timer(&r, (uintptr_t)si->si_value.sival_ptr, 1 + (uint32_t)si->si_overrun);
    else if (si->si_code == SI_QUEUE)
        pf_coroutine_signal((uintptr_t)si->si_value.sival_ptr, r.pc, r.sp, r.fp);
}

int pf_signal_ready(void)
{
    static pf_lock install_lock;
    struct sigaction now;
    int result = 0;
    pf_lock_acquire(&install_lock);
    sigaction(SIGPROF, NULL, &now);
    bool ours = (now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigprof;
    bool free_to_take =
        !(now.sa_flags & SA_SIGINFO) && (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN);
    if (!ours && free_to_take) {
        struct sigaction mine = {.sa_sigaction = on_sigprof,
                                 .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
        sigfillset(&mine.sa_mask);
        sigaction(SIGPROF, &mine, NULL);
    } else if (!ours) {
        result = -EEXIST;
        if (!handler_lost)
            pf_warn("CPU profile: the program has its own SIGPROF handler; not replaced");
        handler_lost = true;
    }
    pf_lock_release(&install_lock);
    return result;
}

/* ---- timers ---- */

typedef struct kernel_sigevent { /* libc's has no public name for the thread id */
    union sigval value;
    int32_t signo, notify, tid;
    char pad[44];
} kernel_sigevent;
_Static_assert(sizeof(kernel_sigevent) == 64, "the kernel reads 64 bytes");
enum { NOTIFY_THREAD_ID = 4, CLOCK_OF_THREAD = 6 /* scheduler's clock, per thread */ };

static uint64_t random_next(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

static long clock_of(int32_t tid)
{
    return (int)(((uint32_t)~tid << 3) | CLOCK_OF_THREAD);
}

static int64_t clock_ns(int32_t tid) /* -1: the thread has ended */
{
    struct timespec ts;
    if (pf_syscall4(SYS_clock_gettime, clock_of(tid), (long)&ts, 0, 0))
        return -1;
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static struct timespec timespec_of(int64_t ns)
{
    return (struct timespec){ns / 1000000000, ns % 1000000000};
}

/* Opens a meter for t, or goes on with the one it has in this session. Returns when its clock will
 * reach the next expiry; never the past, for that would signal a thread that may be asleep (H7). */
static int64_t next_expiry_locked(pf_thread *t, int64_t now_ns, uint32_t number)
{
    int64_t first = (int64_t)(random_next() % (uint64_t)period_ns) + 1;
    if (t->metered != number) {
        t->metered = number;
        t->meter = meters_used < METERS ? meters_used++ : PF_NO_METER;
        if (t->meter == PF_NO_METER)
            return now_ns + first;
        meters[t->meter].base_ns = first_sweep || t->aged ? now_ns : 0;
        meters[t->meter].first_ns = first;
    } else if (t->meter == PF_NO_METER) {
        return now_ns + first;
    } else { /* armed again: what passed while it was not is nobody's */
        meters[t->meter].base_ns = now_ns - meters[t->meter].due * period_ns;
        meters[t->meter].first_ns = first;
    }
    meter *m = &meters[t->meter];
    int64_t since = now_ns - m->base_ns - m->first_ns;
    return m->base_ns + m->first_ns + (since < 0 ? 0 : (since / period_ns + 1) * period_ns);
}

void pf_cpu_arm_locked(pf_thread *t)
{
    uint32_t number = atomic_load_explicit(&session, memory_order_relaxed);
    if (!number || t->timer >= 0 || t->quiet || t->kind == WEFT_THREAD_OWN)
        return;
    int64_t now_ns = clock_ns(t->tid);
    if (now_ns < 0)
        return;
    int64_t next = next_expiry_locked(t, now_ns, number);
    kernel_sigevent event = {.signo = SIGPROF, .notify = NOTIFY_THREAD_ID, .tid = t->tid};
    event.value.sival_ptr = (void *)((uintptr_t)number << 32 | t->meter);
    int32_t id = -1;
    long r = pf_syscall4(SYS_timer_create, clock_of(t->tid), (long)&event, (long)&id, 0);
    if (r) {
        if (r != -EINVAL && r != -ESRCH) { /* those: the thread has just ended */
            arm_error = (int)r;
            arm_failures++;
        }
        return;
    }
    struct itimerspec spec = {timespec_of(period_ns), timespec_of(next)};
    if (pf_syscall4(SYS_timer_settime, id, TIMER_ABSTIME, (long)&spec, 0)) {
        pf_syscall4(SYS_timer_delete, id, 0, 0, 0);
        return;
    }
    t->timer = id;
    armed++;
}

void pf_cpu_disarm_locked(pf_thread *t)
{
    if (t->timer < 0)
        return;
    pf_syscall4(SYS_timer_delete, t->timer, 0, 0, 0);
    t->timer = -1;
    int64_t now_ns = clock_ns(t->tid);
    if (t->meter == PF_NO_METER || now_ns < 0)
        return;
    meter *m = &meters[t->meter];
    int64_t since = now_ns - m->base_ns - m->first_ns;
    m->due = since < 0 ? 0 : since / period_ns + 1;
}

/* ---- the drain thread ---- */

static void add_record(pf_rec *rec, void *number)
{
    if (rec->session == *(uint32_t *)number) {
        pf_bucket *b = pf_bucket_get(&table, rec->pcs, (uint32_t)rec->npcs, true, rec->labels, 0);
        pf_bucket_add(b, 0, rec->weight);
        if (rec->meter < METERS)
            meters[rec->meter].last = b;
    }
    pf_labels_unref(rec->labels);
    rec->labels = NULL;
}

/* Ends sampling when the program has put its own handler in place of ours. */
static bool still_ours(void)
{
    struct sigaction now;
    sigaction(SIGPROF, NULL, &now);
    if ((now.sa_flags & SA_SIGINFO) && now.sa_sigaction == on_sigprof)
        return true;
    pf_lock_acquire(&pf_threads_lock);
    pf_threads_disarm_all_locked();
    pf_lock_release(&pf_threads_lock);
    pf_warn("CPU profile: the program took SIGPROF during the profile; sampling has ended");
    return false;
}

static void *drain(void *arg)
{
    uint32_t number = (uint32_t)(uintptr_t)arg;
    bool sampling = true, said = false;
    int64_t wait_ns = SWEEP_MS * 1000000ll;
    while (!atomic_load_explicit(&drain_stop, memory_order_acquire)) {
        pf_futex_wait(&drain_stop, 0, wait_ns);
        pf_ring_drain(&ring, add_record, &number);
        if (!sampling || !(sampling = still_ours()))
            continue;
        int64_t before = weft_now();
        pf_lock_acquire(&pf_threads_lock);
        if (!atomic_load_explicit(&drain_stop, memory_order_relaxed))
            pf_threads_sweep_locked();
        uint32_t failures = arm_failures;
        pf_lock_release(&pf_threads_lock);
        if (failures && !said) {
            said = true;
            pf_warn("CPU profile: no timer for %u threads: %s", failures, strerror(-arm_error));
        }
        /* A sweep over thousands of threads costs milliseconds: it gets at most 2 % of a core. */
        wait_ns = SWEEP_MS * 1000000ll;
        if ((weft_now() - before) * 50 > wait_ns)
            wait_ns = (weft_now() - before) * 50;
        if (wait_ns > 2000000000)
            wait_ns = 2000000000;
    }
    return NULL;
}

/* ---- the session ---- */

static int64_t wall_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Enough for 100 ms of samples on all processors, with a threefold reserve. */
static uint32_t ring_records(void)
{
    long cpus = sysconf(_SC_NPROCESSORS_ONLN);
    uint32_t n = 1024;
    while (n < cpus * 64 && n < 16384)
        n *= 2;
    return n;
}

static void disarm_all(void)
{
    pf_lock_acquire(&pf_threads_lock);
    pf_threads_disarm_all_locked();
    pf_lock_release(&pf_threads_lock);
}

/* No handler takes a sample any more when this returns. Timers are gone before. */
static void end_session(void)
{
    struct timespec tick = {0, 100000};
    atomic_store(&session, 0); /* seq_cst: partner is on_timer */
    for (int i = 0; atomic_load(&busy) && i < BUSY_TRIES; i++)
        nanosleep(&tick, NULL);
}

static int start_locked(int hz)
{
    if (atomic_load_explicit(&session, memory_order_relaxed))
        return -EBUSY;
    int r = pf_signal_ready();
    if (r || (r = pf_ring_init(&ring, ring_records())))
        return r;
    if (!meters && !(meters = pf_map(METERS * sizeof(*meters))))
        return -ENOMEM;
    memset(meters, 0, meters_used * sizeof(*meters));
    pf_table_clear(&table);
    for (int i = 0; i < PF_SYNTHETIC_END; i++)
        atomic_store_explicit(&lost[i], 0, memory_order_relaxed);
    if (!++session_last)
        session_last = 1;
    start_wall_ns = wall_ns();
    start_ns = weft_now();
    pf_lock_acquire(&pf_threads_lock);
    period_ns = 1000000000 / hz;
    random_state = (uint64_t)start_wall_ns ^ (uint64_t)getpid() << 40;
    arm_error = 0;
    arm_failures = armed = meters_used = 0;
    first_sweep = true;
    atomic_store(&session, session_last);
    pf_threads_sweep_locked();
    first_sweep = false;
    r = armed ? 0 : arm_error;
    pf_lock_release(&pf_threads_lock);
    atomic_store_explicit(&drain_stop, 0, memory_order_relaxed);
    if (!r)
        r = pf_thread_spawn(drain, (void *)(uintptr_t)session_last, &drainer);
    if (r) {
        disarm_all();
        end_session();
    }
    return r;
}

int pf_cpu_start(int hz)
{
    if (hz < 0 || hz > HZ_MAX)
        return -EINVAL;
    pf_lock_acquire(&session_lock);
    int r = start_locked(hz ? hz : HZ_DEFAULT);
    pf_lock_release(&session_lock);
    return r;
}

static pf_sample *add_sample(pf_raw *raw, const uintptr_t *pcs, uint32_t npcs, weft_labels *labels,
                             int64_t n)
{
    pf_sample *s = pf_raw_add(raw, pcs, npcs, npcs > 1 || pcs[0] >= PF_SYNTHETIC_END, labels);
    if (s) {
        s->values[0] = n;
        s->values[1] = n * period_ns;
    }
    return s;
}

static int add_bucket(const pf_bucket *b, void *arg)
{
    pf_raw *raw = arg;
    int64_t n = pf_bucket_read(b, 0);
    if (!add_sample(raw, b->pcs, b->npcs, b->labels, n))
        return -ENOMEM;
    if (b == &table.overflow || (b->npcs == 1 && b->pcs[0] == PF_LOST_MEMORY))
        raw->lost += n;
    return 0;
}

/* Gives each thread's periods that no tick has told to the stack it was last seen with. */
static void settle(void)
{
    static const uintptr_t unknown = PF_NO_STACK;
    pf_lock_acquire(&pf_threads_lock);
    for (uint32_t i = 0; i < meters_used; i++) {
        meter *m = &meters[i];
        int64_t rest = m->due - atomic_load_explicit(&m->told, memory_order_relaxed);
        if (rest <= 0)
            continue;
        pf_bucket *b = m->last ? m->last : pf_bucket_get(&table, &unknown, 1, true, NULL, 0);
        pf_bucket_add(b, 0, rest);
    }
    pf_lock_release(&pf_threads_lock);
}

static int fill(pf_raw *raw)
{
    int r = pf_raw_init(raw, &pf_cpu_source);
    if (r)
        return r;
    raw->time_ns = start_wall_ns;
    raw->duration_ns = weft_now() - start_ns;
    raw->period = period_ns;
    r = pf_table_visit(&table, add_bucket, raw);
    for (uintptr_t why = 0; why < PF_SYNTHETIC_END && !r; why++) {
        int64_t n = atomic_load_explicit(&lost[why], memory_order_relaxed);
        if (!n)
            continue;
        raw->lost += n;
        r = add_sample(raw, &why, 1, NULL, n) ? 0 : -ENOMEM;
    }
    if (!r)
        r = pf_raw_modules(raw);
    raw->count = (int64_t)raw->nsamples;
    if (r)
        pf_raw_free(raw);
    return r;
}

int pf_cpu_stop(pf_raw *out)
{
    memset(out, 0, sizeof(*out));
    pf_lock_acquire(&session_lock);
    uint32_t number = atomic_load_explicit(&session, memory_order_relaxed);
    int r = -ENOENT;
    if (number) {
        atomic_store_explicit(&drain_stop, 1, memory_order_release);
        disarm_all();
        pf_futex_wake(&drain_stop, 1);
        pthread_join((pthread_t)drainer, NULL);
        disarm_all(); /* what the last sweep may have armed before it saw the stop */
        end_session();
        pf_ring_drain(&ring, add_record, &number);
        settle();
        r = fill(out);
        pf_table_clear(&table);
    }
    pf_lock_release(&session_lock);
    return r;
}

void pf_cpu_fork(pf_fork_phase phase)
{
    if (phase != PF_FORK_CHILD)
        return;
    /* The parent's timers, drain thread and handlers are not here. The table may have been in use
     * by the drain thread: its memory is left behind. */
    atomic_store_explicit(&session_lock, 0, memory_order_relaxed);
    atomic_store_explicit(&session, 0, memory_order_relaxed);
    atomic_store_explicit(&busy, 0, memory_order_relaxed);
    pf_ring_reset(&ring);
    memset(&table, 0, sizeof(table));
}

static int64_t count_cpu(void)
{
    return 0; /* a session has no standing number of records */
}

const pf_source pf_cpu_source = {
    .name = "profile",
    .help = "CPU time by stack. The seconds parameter sets how long; go tool pprof reads it.",
    .ntypes = 2,
    .types = {{"samples", "count"}, {"cpu", "nanoseconds"}},
    .period_type = {"cpu", "nanoseconds"},
    .snapshot = NULL,
    .count = count_cpu,
};
