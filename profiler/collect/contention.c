/* The block and mutex profiles, with Go's meaning and Go's arithmetic.
 *
 * block  charges the one who waited, at the place where it waited, when the wait has ended. With
 * rate
 *        r (ns): a wait of t >= r is always recorded as it is; a shorter one with probability t/r,
 *        as r/t waits of together r ns. So the mean is right for counts and for time, and one
 *        sample is taken for each r ns waited.
 * mutex  charges the one who unlocked, at the place that unlocked, for the time that the one it
 * woke
 *        had waited. One of n such events is recorded, as n events.
 *
 * Invariants
 *  1. Off is the default and costs nothing here: the bits WEFT_HOOK_BLOCK and WEFT_HOOK_UNLOCK are
 *     set exactly while the rates are not 0, and the runtime looks at its own mask.
 *  2. Weights are applied when an event is recorded, with the rate that decided about it: a later
 *     change of rate spoils nothing. Counts are kept in 1/65536, because r/t is a fraction; both
 *     sums only grow.
 *  3. The unlocker's stack is taken after the unlock, on its own time, so the profile does not
 *     lengthen what it measures (H40). The waiter's is taken when it runs again.
 *  4. Called outside the runtime's locks; nothing here parks, allocates, or is entered twice (H50):
 *     a wait inside the profiler itself is not charged.
 *
 * Locks: rate_lock (inside it only weft_hook_mask); the tables' shards, rank 3.
 *
 * Rejected: one table for both (their rates are set and read apart, and so are their limits);
 * counting whole events (a count of 1.4 shown as 1 is 30 % low wherever waits are about as long as
 * the rate).
 */
#include <errno.h>
#include "profiler/collect/heap.h"

enum { COUNT, DELAY };
#define COUNT_ONE    65536
#define RATE_MAX     ((int64_t)1 << 36)
#define FRACTION_MAX (1 << 24)

static pf_table waits, unlocks;
static _Atomic(int64_t) block_rate; /* ns, 0 off */
static _Atomic(int) mutex_fraction; /* 0 off */
static pf_lock rate_lock;
static _Thread_local bool recording __attribute__((tls_model("initial-exec")));
static _Thread_local bool fork_skipped __attribute__((tls_model("initial-exec")));

static void record(pf_table *t, const void *frame, int64_t count, int64_t delay_ns)
{
    uintptr_t pcs[PF_DEPTH];
    int n = pf_unwind_here(frame, pcs, PF_DEPTH);
    recording = true;
    pf_bucket *b = pf_bucket_get(t, pcs, (uint32_t)n, false, NULL, 0);
    recording = false;
    pf_bucket_add(b, COUNT, count);
    pf_bucket_add(b, DELAY, delay_ns);
}

PF_NOINLINE void pf_block_end(weft_wait_reason why, int64_t wait_ns)
{
    (void)why;
    int64_t rate = atomic_load_explicit(&block_rate, memory_order_relaxed);
    if (rate <= 0 || wait_ns <= 0 || !pf_enter())
        return;
    if (wait_ns >= rate)
        record(&waits, __builtin_frame_address(0), COUNT_ONE, wait_ns);
    else if (pf_rng_unit(pf_rng_here()) * (double)rate <= (double)wait_ns)
        record(&waits, __builtin_frame_address(0),
               (int64_t)((double)rate / (double)wait_ns * COUNT_ONE), rate);
    pf_leave();
}

PF_NOINLINE void pf_unlock_end(int64_t wait_ns)
{
    int64_t n = atomic_load_explicit(&mutex_fraction, memory_order_relaxed);
    if (n <= 0 || !pf_enter())
        return;
    if (pf_rng_unit(pf_rng_here()) * (double)n <= 1)
        record(&unlocks, __builtin_frame_address(0), n * COUNT_ONE, n * wait_ns);
    pf_leave();
}

int64_t weft_pprof_block_rate(int64_t ns)
{
    pf_lock_acquire(&rate_lock);
    int64_t old = atomic_load_explicit(&block_rate, memory_order_relaxed);
    if (ns >= 0) {
        int64_t rate = ns < RATE_MAX ? ns : RATE_MAX;
        atomic_store_explicit(&block_rate, rate, memory_order_relaxed);
        weft_hook_mask(rate ? WEFT_HOOK_BLOCK : 0, rate ? 0 : WEFT_HOOK_BLOCK);
    }
    pf_lock_release(&rate_lock);
    return old;
}

int weft_pprof_mutex_fraction(int n)
{
    pf_lock_acquire(&rate_lock);
    int old = atomic_load_explicit(&mutex_fraction, memory_order_relaxed);
    if (n >= 0) {
        atomic_store_explicit(&mutex_fraction, n < FRACTION_MAX ? n : FRACTION_MAX,
                              memory_order_relaxed);
        weft_hook_mask(n ? WEFT_HOOK_UNLOCK : 0, n ? 0 : WEFT_HOOK_UNLOCK);
    }
    pf_lock_release(&rate_lock);
    return old;
}

/* ---- snapshots ---- */

static int visit(const pf_bucket *b, void *arg)
{
    pf_raw *raw = arg;
    pf_sample *s = pf_raw_add(raw, b->pcs, b->npcs, b->leaf_exact, NULL);
    if (!s)
        return -ENOMEM;
    s->values[0] = s->unscaled[0] = (pf_bucket_read(b, COUNT) + COUNT_ONE / 2) / COUNT_ONE;
    s->values[1] = s->unscaled[1] = pf_bucket_read(b, DELAY);
    if (b->pcs[0] == PF_LOST_MEMORY)
        raw->lost += s->values[0];
    return 0;
}

static int64_t count_of(pf_table *t)
{
    return (int64_t)atomic_load_explicit(&t->nbuckets, memory_order_relaxed);
}

static int snapshot(pf_raw *out, const pf_source *source, pf_table *t, int64_t rate)
{
    int ret = pf_raw_init(out, source);
    if (ret)
        return ret;
    out->rate = rate;
    out->period = 1;
    out->count = count_of(t);
    ret = pf_table_visit(t, visit, out);
    if (ret == 0)
        ret = pf_raw_modules(out);
    if (ret)
        pf_raw_free(out);
    return ret;
}

static int block_snapshot(pf_raw *out)
{
    return snapshot(out, &pf_block_source, &waits, weft_pprof_block_rate(-1));
}

static int mutex_snapshot(pf_raw *out)
{
    return snapshot(out, &pf_mutex_source, &unlocks, weft_pprof_mutex_fraction(-1));
}

static int64_t block_count(void)
{
    return count_of(&waits);
}

static int64_t mutex_count(void)
{
    return count_of(&unlocks);
}

#define CONTENTION_TYPES                                                                           \
    .ntypes = 2, .types = {{"contentions", "count"}, {"delay", "nanoseconds"}},                    \
    .period_type = {"contentions", "count"}

const pf_source pf_block_source = {
    .name = "block",
    .help = "Where coroutines and threads have waited for channels, locks and wait groups.",
    CONTENTION_TYPES,
    .snapshot = block_snapshot,
    .count = block_count,
};

const pf_source pf_mutex_source = {
    .name = "mutex",
    .help = "The places that unlocked a mutex somebody else was waiting for.",
    CONTENTION_TYPES,
    .snapshot = mutex_snapshot,
    .count = mutex_count,
};

/* ---- fork ---- */

void pf_contention_fork(pf_fork_phase phase)
{
    if (phase == PF_FORK_PREPARE) {
        fork_skipped = recording; /* fork in a signal handler above a shard's lock */
        if (fork_skipped)
            return;
        pf_tls.in_hook++;
        pf_lock_acquire(&rate_lock);
        pf_table_fork(&waits, phase);
        pf_table_fork(&unlocks, phase);
        return;
    }
    if (fork_skipped)
        return;
    pf_table_fork(&unlocks, phase);
    pf_table_fork(&waits, phase);
    pf_lock_release(&rate_lock);
    pf_tls.in_hook--;
}
