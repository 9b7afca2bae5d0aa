/* The heap profile: decides which allocations are sampled, counts them by stack and size, and
 * offers the sources `heap` and `allocs` (one set of data, two default columns).
 *
 * The hot path is in the hooks: one subtraction from the thread's heap_left, one branch on the
 * borrow (pf_heap_step). heap_left holds at most CHUNK units of the gap and heap_rest the others,
 * so that a thread looks at the rate once in 64 KiB, and a change of rate needs no list of threads.
 *
 * Invariants
 *  1. Every allocation of n = size + 1 units is sampled with probability 1 - exp(-n/T), whatever
 *     came before (gap.c), T being the rate under which the running gap was drawn. A new rate, and
 *     a sample that had to be suppressed (in_hook, quiet), draw a new gap: postponing to the next
 *     allocation would always hit the same stack.
 *  2. A bucket is one (stack, size, rate number): all its samples have one weight, so it only
 *     counts. v[ALLOCS] and v[FREES] only grow; what is read as in use is their difference.
 *  3. Unbias first, sum later: a row of the snapshot is count x weight. Objects are rounded with a
 *     threshold that is fixed for each bucket and uniform over buckets: rounding neither drifts
 *     when thousands of buckets hold one sample each of weight 1.3, nor ever takes a value back.
 *  4. Nothing here calls malloc, the loader, or pthread_getattr_np (H45, H49); the stack's bounds
 *     come from the coroutine or from the thread's registration, else the stack is the caller
 *     alone.
 *  5. errno is as the allocator left it.
 *
 * What does not fit: a stack over the table's limit goes to the stack [lost: out of memory], with
 * its bytes and, while it lives, its in-use bytes; a block that the live set has no room for counts
 * as allocated but not as in use. Both are in pf_raw.lost.
 *
 * Locks: rate_lock (no other inside). The bucket table's and the live set's are rank 3, never
 * nested. A handler of the program that forks above one of them (recording, pf_live_busy) leaves
 * them alone.
 */
#include <errno.h>
#include <stdlib.h>
#include "profiler/collect/heap.h"

#define CHUNK        65536u
#define RATE_DEFAULT 524288
#define RATE_MAX     ((int64_t)1 << 46)
#define RATES        1024 /* different rates in one process */
#define SIZE_BITS    48   /* a bucket's key: rate number << 48 | size */
#define SIZE_MASK    ((1ull << SIZE_BITS) - 1)

/* The values of a bucket; from W_ALLOC_OBJECTS on only in the overflow bucket, where samples of
 * different weight meet. */
enum {
    ALLOCS,
    FREES,
    W_ALLOC_OBJECTS, /* in 1/256 */
    W_ALLOC_BYTES,
    W_FREE_OBJECTS,
    W_FREE_BYTES,
    ALLOC_BYTES,
    FREE_BYTES
};

static pf_table sites;

/* Rate number 0 is off. An entry is written once, before its number gets into ctl. */
static int64_t rates[RATES] = {0, RATE_DEFAULT};
static unsigned nrates = 2;
static pf_lock rate_lock;
/* generation << 16 | rate number; never 0, so a fresh thread always sees a change */
static _Atomic(uint64_t) ctl = 1u << 16 | 1u;
static _Atomic(uint64_t) untracked;
static _Atomic(uint64_t) seeds;
static _Thread_local bool recording __attribute__((tls_model("initial-exec")));
static _Thread_local bool fork_skipped __attribute__((tls_model("initial-exec")));

static uint64_t ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    uint64_t t;
    __asm__ volatile("mrs %0, cntvct_el0" : "=r"(t));
    return t;
#endif
}

void pf_heap_seed(uint64_t seed)
{
    pf_tls.rng = pf_rng_seed(seed);
    pf_tls.heap_ctl = 0;
    pf_tls.heap_left = 0;
}

uint64_t *pf_rng_here(void)
{
    if (pf_unlikely(pf_tls.rng == 0)) {
        uint64_t n = atomic_fetch_add_explicit(&seeds, 1, memory_order_relaxed);
        pf_tls.rng = pf_rng_seed(ticks() ^ (uintptr_t)&pf_tls << 16 ^ n << 48);
    }
    return &pf_tls.rng;
}

static void gap_set(uint64_t gap)
{
    pf_tls.heap_left = gap < CHUNK ? gap : CHUNK;
    pf_tls.heap_rest = gap - pf_tls.heap_left;
}

unsigned pf_heap_crossed(uint64_t units)
{
    uint64_t now = atomic_load_explicit(&ctl, memory_order_acquire); /* partner: rate_set */
    uint64_t gap = pf_tls.heap_left + units + pf_tls.heap_rest;
    if (pf_unlikely(pf_tls.heap_ctl != now)) {
        pf_tls.heap_ctl = now;
        gap = pf_gap_draw(pf_rng_here(), rates[now & 0xffff]);
    }
    if (gap >= units) {
        gap_set(gap - units);
        return 0;
    }
    unsigned rate_no = now & 0xffff;
    gap_set(pf_gap_draw(pf_rng_here(), rates[rate_no]));
    return rate_no;
}

/* ---- sites ---- */

/* The site of a block: its bucket, or, when that is the overflow bucket, what is needed to take the
 * block's share out again: rate number << 49 | size << 1 | 1. */
static pf_site site_of(pf_bucket *b, size_t n, unsigned rate_no)
{
    if (b != &sites.overflow)
        return (uintptr_t)b;
    return (uint64_t)rate_no << (SIZE_BITS + 1) | (uint64_t)n << 1 | 1;
}

static void overflow_add(size_t n, unsigned rate_no, bool alloc)
{
    pf_bucket *b = &sites.overflow;
    double w = pf_gap_weight((uint64_t)n + 1, rates[rate_no]);
    pf_bucket_add(b, alloc ? ALLOCS : FREES, 1);
    pf_bucket_add(b, alloc ? W_ALLOC_OBJECTS : W_FREE_OBJECTS, (int64_t)(w * 256 + 0.5));
    pf_bucket_add(b, alloc ? W_ALLOC_BYTES : W_FREE_BYTES, (int64_t)(w * (double)n + 0.5));
    pf_bucket_add(b, alloc ? ALLOC_BYTES : FREE_BYTES, (int64_t)n);
}

void pf_heap_gone(pf_site site)
{
    if (site & 1)
        overflow_add(site >> 1 & SIZE_MASK, (unsigned)(site >> (SIZE_BITS + 1)), false);
    else
        pf_bucket_add((pf_bucket *)(uintptr_t)site, FREES, 1);
}

/* A block that cannot be tracked is taken as freed at once. */
static void live_add(const void *p, pf_site site)
{
    pf_site old;
    int ret = pf_live_add((uintptr_t)p, site, &old);
    if (ret == -EEXIST) {
        pf_heap_gone(old);
    } else if (ret != 0) {
        pf_heap_gone(site);
        atomic_fetch_add_explicit(&untracked, 1, memory_order_relaxed);
    }
}

static void record(const void *p, size_t n, unsigned rate_no, const uintptr_t *pcs, int npcs)
{
    recording = true;
    pf_bucket *b = pf_bucket_get(&sites, pcs, (uint32_t)npcs, false, NULL,
                                 (int64_t)((uint64_t)rate_no << SIZE_BITS | n));
    if (b == &sites.overflow)
        overflow_add(n, rate_no, true);
    else
        pf_bucket_add(b, ALLOCS, 1);
    live_add(p, site_of(b, n, rate_no));
    recording = false;
}

void pf_heap_record(const void *p, size_t n, unsigned rate_no, const void *frame)
{
    if (n > SIZE_MASK || !pf_enter())
        return;
    uintptr_t pcs[PF_DEPTH];
    int npcs = pf_unwind_here(frame, pcs, PF_DEPTH);
    record(p, n, rate_no, pcs, npcs);
    pf_leave();
}

void pf_heap_record_stack(const void *p, size_t n, unsigned rate_no, const uintptr_t *pcs, int npcs)
{
    if (n > SIZE_MASK || !pf_enter())
        return;
    record(p, n, rate_no, pcs, npcs);
    pf_leave();
}

void pf_heap_restore(const void *p, pf_site site)
{
    live_add(p, site);
}

/* ---- the rate ---- */

static unsigned rate_number_locked(int64_t rate)
{
    unsigned nearest = 1;
    for (unsigned i = 0; i < nrates; i++) {
        if (rates[i] == rate)
            return i;
        if (i > 0 && llabs(rates[i] - rate) < llabs(rates[nearest] - rate))
            nearest = i;
    }
    if (nrates == RATES)
        return nearest;
    rates[nrates] = rate;
    return nrates++;
}

int64_t weft_pprof_heap_rate(int64_t bytes)
{
    pf_lock_acquire(&rate_lock);
    uint64_t old = atomic_load_explicit(&ctl, memory_order_relaxed);
    if (bytes >= 0) {
        uint64_t no = rate_number_locked(bytes < RATE_MAX ? bytes : RATE_MAX);
        /* release: partner is the load in pf_heap_crossed, which then reads rates[no] */
        atomic_store_explicit(&ctl, ((old >> 16) + 1) << 16 | no, memory_order_release);
        pf_tls.heap_left = 0;
    }
    int64_t previous = rates[old & 0xffff];
    pf_lock_release(&rate_lock);
    return previous;
}

/* ---- snapshots ---- */

/* Rounds x so that the mean over buckets is right and a growing x never gives less. */
static int64_t round_for(const pf_bucket *b, double x)
{
    double threshold = (double)(pf_rng_seed(b->hash) >> 11) * 0x1p-53;
    return (int64_t)(x + threshold);
}

static void fill_overflow(const pf_bucket *b, pf_sample *s)
{
    int64_t freed_objects = pf_bucket_read(b, W_FREE_OBJECTS);
    int64_t freed_bytes = pf_bucket_read(b, W_FREE_BYTES);
    int64_t frees = pf_bucket_read(b, FREES), free_bytes = pf_bucket_read(b, FREE_BYTES);
    s->values[0] = pf_bucket_read(b, W_ALLOC_OBJECTS) / 256;
    s->values[1] = pf_bucket_read(b, W_ALLOC_BYTES);
    s->values[2] = s->values[0] - freed_objects / 256;
    s->values[3] = s->values[1] - freed_bytes;
    s->unscaled[0] = pf_bucket_read(b, ALLOCS);
    s->unscaled[1] = pf_bucket_read(b, ALLOC_BYTES);
    s->unscaled[2] = s->unscaled[0] - frees;
    s->unscaled[3] = s->unscaled[1] - free_bytes;
}

static void fill(const pf_bucket *b, pf_sample *s)
{
    uint64_t key = (uint64_t)b->block_bytes;
    int64_t size = (int64_t)(key & SIZE_MASK);
    double weight = pf_gap_weight((uint64_t)size + 1, rates[key >> SIZE_BITS]);
    int64_t frees = pf_bucket_read(b, FREES); /* before the allocations: never more than those */
    atomic_thread_fence(memory_order_acquire);
    int64_t allocs = pf_bucket_read(b, ALLOCS);
    int64_t inuse = allocs > frees ? allocs - frees : 0;
    s->values[0] = round_for(b, (double)allocs * weight);
    s->values[1] = (int64_t)((double)allocs * weight * (double)size + 0.5);
    s->values[2] = round_for(b, (double)inuse * weight);
    s->values[3] = (int64_t)((double)inuse * weight * (double)size + 0.5);
    s->unscaled[0] = allocs;
    s->unscaled[1] = allocs * size;
    s->unscaled[2] = inuse;
    s->unscaled[3] = inuse * size;
    s->block_bytes = size;
}

static int visit(const pf_bucket *b, void *arg)
{
    pf_raw *raw = arg;
    pf_sample *s = pf_raw_add(raw, b->pcs, b->npcs, b->leaf_exact, NULL);
    if (!s)
        return -ENOMEM;
    if (b->pcs[0] == PF_LOST_MEMORY) {
        fill_overflow(b, s);
        raw->lost += s->unscaled[0];
    } else {
        fill(b, s);
    }
    return 0;
}

static int snapshot(pf_raw *out, const pf_source *source)
{
    int ret = pf_raw_init(out, source);
    if (ret)
        return ret;
    out->rate = out->period = weft_pprof_heap_rate(-1);
    out->lost = (int64_t)atomic_load_explicit(&untracked, memory_order_relaxed);
    out->count = source->count();
    ret = pf_table_visit(&sites, visit, out);
    if (ret == 0)
        ret = pf_raw_modules(out);
    if (ret)
        pf_raw_free(out);
    return ret;
}

static int heap_snapshot(pf_raw *out)
{
    return snapshot(out, &pf_heap_source);
}

static int allocs_snapshot(pf_raw *out)
{
    return snapshot(out, &pf_allocs_source);
}

static int64_t count(void)
{
    return (int64_t)atomic_load_explicit(&sites.nbuckets, memory_order_relaxed);
}

#define HEAP_TYPES                                                                                 \
    .ntypes = 4,                                                                                   \
    .types = {{"alloc_objects", "count"},                                                          \
              {"alloc_space", "bytes"},                                                            \
              {"inuse_objects", "count"},                                                          \
              {"inuse_space", "bytes"}},                                                           \
    .period_type = {"space", "bytes"}

const pf_source pf_heap_source = {
    .name = "heap",
    .help = "A sampling of the memory in use now, by the place that allocated it.",
    HEAP_TYPES,
    .snapshot = heap_snapshot,
    .count = count,
};

const pf_source pf_allocs_source = {
    .name = "allocs",
    .help = "A sampling of all memory allocated since the start, freed or not.",
    HEAP_TYPES,
    .default_type = "alloc_space",
    .snapshot = allocs_snapshot,
    .count = count,
};

/* ---- fork ---- */

/* The forking thread takes no samples while it holds the locks: in_hook. */
void pf_heap_fork(pf_fork_phase phase)
{
    if (phase == PF_FORK_PREPARE) {
        fork_skipped = recording || pf_live_busy();
        if (fork_skipped)
            return;
        pf_tls.in_hook++;
        pf_lock_acquire(&rate_lock);
        pf_table_fork(&sites, phase);
        pf_live_fork(phase);
        return;
    }
    if (fork_skipped)
        return;
    pf_live_fork(phase);
    pf_table_fork(&sites, phase);
    if (phase == PF_FORK_CHILD) {
        atomic_store_explicit(&rate_lock, 0, memory_order_relaxed);
        pf_tls.rng = 0; /* children of one parent must not sample the same places */
    } else {
        pf_lock_release(&rate_lock);
    }
    pf_tls.in_hook--;
}
