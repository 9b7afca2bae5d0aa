/* The live set: which sampled blocks are alive, and the filter that lets all other frees pass.
 *
 * 64 shards of open addressing (linear probing, deletion by shifting back), each in raw mmap memory
 * that doubles. A block's hash gives its filter bit (top 16 bits), its shard (top 6 of those) and
 * its place in the shard (middle bits), so one shard lock covers the bit, its counter and the
 * entry.
 *
 * Invariants
 *  1. An entry is in the set from before the block is handed to the program until before the
 *     allocator gets it back (H44): an address is never in the set for a block that does not exist.
 *  2. A filter bit is set while at least one entry has its hash. Clear means "never sampled",
 *     exactly: whoever frees a block has got it from the thread that allocated it, by some order of
 *     the program's own, and that order carries the bit along. A set bit decides nothing, the table
 *     does.
 *  3. A free is never dropped (a lost sample is noise, a lost free is a false leak): there is no
 *     buffer between free and the set that could be full.
 *  4. Readers without a lock (the second look, when a bit is set by another block) use a sequence
 *     number that is odd while entries move. They walk the table they have loaded, so an outgrown
 *     table stays mapped; all outgrown ones together are smaller than the current one.
 *  5. A lock is held for one operation and calls nothing. Rank 3 (pf.h), one at a time; fork takes
 *     all, in order. Between fork's prepare and its end the forking thread owns them all, so its
 *     frees go in without locking.
 *  6. A signal handler of the program that frees a block while its thread is in here (no portable
 *     program does) must not wait for its own thread: me.busy tells, the address waits in me.later,
 *     and the operation that was interrupted takes it out at its end.
 *
 * Memory: 16 bytes an entry, at most 3/4 of 64 Ki entries in each shard: 3.1 million sampled blocks
 * (1.5 TiB of heap at the default rate) in 64 MiB, with outgrown tables 128. What does not fit is
 * not tracked and is counted; see heap.c.
 *
 * Rejected: a header or a tag in the block (foreign frees, alignment, malloc_usable_size: H64); a
 * hash bitset that also confirms (6 % wrong in ddprof); tombstones (rebuilds under the readers);
 * all signals blocked while a lock is held (two system calls, +0.6 ns on every malloc/free pair of
 * 260 bytes).
 */
#include <errno.h>
#include "profiler/collect/heap.h"

#define SHARDS     64
#define WORDS      (PF_FILTER_WORDS / SHARDS)
#define FIRST_CAP  256u
#define CAP_LIMIT  65536u
#define PAIR_BYTES 16

typedef struct entry {
    _Atomic(uintptr_t) addr; /* 0: empty */
    _Atomic(pf_site) site;
} entry;
_Static_assert(sizeof(entry) == PAIR_BYTES, "two words an entry");

typedef struct table {
    uintptr_t mask; /* capacity - 1 */
    entry e[];
} table;

static struct shard {
    _Alignas(64) pf_lock lock;
    _Atomic(uint32_t) seq; /* odd while entries move */
    _Atomic(table *) tab;  /* NULL until the first add */
    _Atomic(uint32_t) n;
} shards[SHARDS];

_Alignas(64) _Atomic(uint64_t) pf_live_filter[PF_FILTER_WORDS];
static uint16_t blocks_of_bit[PF_FILTER_WORDS * 64]; /* under the shard's lock */
static uint32_t cap_limit = CAP_LIMIT;
static _Atomic(const void *) forker; /* &pf_tls of the thread that holds all locks for fork */

#define LATER 16
static _Thread_local struct {
    uint32_t busy;   /* this thread holds a shard's lock or waits for it */
    uint32_t nlater; /* frees of a signal handler meanwhile */
    uintptr_t later[LATER];
} me __attribute__((tls_model("initial-exec")));

static struct shard *shard_of(uint64_t hash)
{
    return &shards[hash >> 58];
}

static uintptr_t home(const table *t, uintptr_t addr)
{
    return (pf_live_hash(addr) >> 24) & t->mask;
}

static void bit_add(uint64_t hash)
{
    uint64_t h = hash >> 48;
    if (blocks_of_bit[h]++ == 0) {
        _Atomic(uint64_t) *w = &pf_live_filter[h >> 6];
        uint64_t word = atomic_load_explicit(w, memory_order_relaxed) | 1ull << (h & 63);
        atomic_store_explicit(w, word, memory_order_relaxed);
    }
}

static void bit_drop(uint64_t hash)
{
    uint64_t h = hash >> 48;
    if (--blocks_of_bit[h] == 0) {
        _Atomic(uint64_t) *w = &pf_live_filter[h >> 6];
        uint64_t word = atomic_load_explicit(w, memory_order_relaxed) & ~(1ull << (h & 63));
        atomic_store_explicit(w, word, memory_order_relaxed);
    }
}

/* The slot of addr, or the empty one where it would be. There always is an empty one. */
static entry *find(table *t, uintptr_t addr)
{
    for (uintptr_t i = home(t, addr);; i = (i + 1) & t->mask) {
        uintptr_t a = atomic_load_explicit(&t->e[i].addr, memory_order_relaxed);
        if (a == addr || a == 0)
            return &t->e[i];
    }
}

static void entry_set(entry *e, uintptr_t addr, pf_site site)
{
    atomic_store_explicit(&e->site, site, memory_order_relaxed);
    /* release: partner is the load in in_set */
    atomic_store_explicit(&e->addr, addr, memory_order_release);
}

static table *table_new(uint32_t cap)
{
    size_t bytes = sizeof(table) + (size_t)cap * sizeof(entry);
    table *t = pf_map(bytes);
    if (t)
        t->mask = cap - 1;
    return t;
}

/* Room for one more entry; the caller holds the lock. */
static bool grow_locked(struct shard *s)
{
    table *t = atomic_load_explicit(&s->tab, memory_order_relaxed);
    uint32_t n = atomic_load_explicit(&s->n, memory_order_relaxed);
    if (t && (n + 1) * 4 <= (t->mask + 1) * 3)
        return true;
    uint32_t cap = t ? (uint32_t)(t->mask + 1) * 2 : FIRST_CAP;
    if (cap > cap_limit)
        return false;
    table *bigger = table_new(cap);
    if (!bigger)
        return false;
    for (uintptr_t i = 0; t && i <= t->mask; i++) {
        uintptr_t a = atomic_load_explicit(&t->e[i].addr, memory_order_relaxed);
        if (a)
            entry_set(find(bigger, a), a,
                      atomic_load_explicit(&t->e[i].site, memory_order_relaxed));
    }
    /* release: partner is the load in in_set */
    atomic_store_explicit(&s->tab, bigger, memory_order_release);
    return true;
}

/* Is addr in the set? May say yes wrongly (entries move just now), never no. */
static bool in_set(struct shard *s, uintptr_t addr)
{
    /* acquire: partner is the release of an even number in remove_locked */
    uint32_t seq = atomic_load_explicit(&s->seq, memory_order_acquire);
    if (seq & 1)
        return true;
    table *t = atomic_load_explicit(&s->tab, memory_order_acquire); /* partner: grow_locked */
    if (!t)
        return false;
    uintptr_t i = home(t, addr);
    for (uintptr_t steps = 0; steps <= t->mask; steps++, i = (i + 1) & t->mask) {
        /* acquire: partner is the release in entry_set; keeps the loads before the second seq */
        uintptr_t a = atomic_load_explicit(&t->e[i].addr, memory_order_acquire);
        if (a == addr)
            return true;
        if (a == 0)
            break;
    }
    return atomic_load_explicit(&s->seq, memory_order_relaxed) != seq;
}

/* Empties slot hole and closes the gap: an entry further on moves back unless that would put it
 * before its home. */
static void remove_locked(struct shard *s, table *t, uintptr_t hole)
{
    uint32_t seq = atomic_load_explicit(&s->seq, memory_order_relaxed);
    atomic_store_explicit(&s->seq, seq + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release); /* odd before any entry moves; partner: in_set */
    for (uintptr_t i = (hole + 1) & t->mask;; i = (i + 1) & t->mask) {
        uintptr_t a = atomic_load_explicit(&t->e[i].addr, memory_order_relaxed);
        if (a == 0)
            break;
        if (((i - home(t, a)) & t->mask) >= ((i - hole) & t->mask)) {
            entry_set(&t->e[hole], a, atomic_load_explicit(&t->e[i].site, memory_order_relaxed));
            hole = i;
        }
    }
    atomic_store_explicit(&t->e[hole].addr, 0, memory_order_release); /* partner: in_set */
    /* release: partner is the first load in in_set */
    atomic_store_explicit(&s->seq, seq + 2, memory_order_release);
}

static pf_site take_locked(struct shard *s, uintptr_t addr)
{
    table *t = atomic_load_explicit(&s->tab, memory_order_relaxed);
    entry *e = t ? find(t, addr) : NULL;
    if (!e || atomic_load_explicit(&e->addr, memory_order_relaxed) == 0)
        return 0;
    pf_site site = atomic_load_explicit(&e->site, memory_order_relaxed);
    remove_locked(s, t, (uintptr_t)(e - t->e));
    atomic_fetch_sub_explicit(&s->n, 1, memory_order_relaxed);
    bit_drop(pf_live_hash(addr));
    return site;
}

static void later_push(uintptr_t addr)
{
    if (me.nlater < LATER)
        me.later[me.nlater++] = addr;
}

static void lock_shard(struct shard *s)
{
    me.busy++;
    atomic_signal_fence(memory_order_seq_cst); /* busy is seen by a handler before the lock is */
    pf_lock_acquire(&s->lock);
}

static void unlock_shard(struct shard *s)
{
    pf_lock_release(&s->lock);
    atomic_signal_fence(memory_order_seq_cst);
    me.busy--;
    while (pf_unlikely(me.nlater && !me.busy)) {
        pf_site site = pf_live_take(me.later[--me.nlater]);
        if (site)
            pf_heap_gone(site);
    }
}

int pf_live_add(uintptr_t addr, pf_site site, pf_site *old)
{
    uint64_t hash = pf_live_hash(addr);
    struct shard *s = shard_of(hash);
    int ret = 0;
    lock_shard(s);
    table *t = atomic_load_explicit(&s->tab, memory_order_relaxed);
    entry *e = t ? find(t, addr) : NULL;
    if (e && atomic_load_explicit(&e->addr, memory_order_relaxed) == addr) {
        *old = atomic_load_explicit(&e->site, memory_order_relaxed);
        atomic_store_explicit(&e->site, site, memory_order_relaxed);
        ret = -EEXIST;
    } else if (!grow_locked(s)) {
        ret = -ENOMEM;
    } else {
        t = atomic_load_explicit(&s->tab, memory_order_relaxed);
        entry_set(find(t, addr), addr, site);
        atomic_fetch_add_explicit(&s->n, 1, memory_order_relaxed);
        bit_add(hash);
    }
    unlock_shard(s);
    return ret;
}

pf_site pf_live_take(uintptr_t addr)
{
    struct shard *s = shard_of(pf_live_hash(addr));
    if (addr == 0 || !in_set(s, addr))
        return 0;
    if (atomic_load_explicit(&forker, memory_order_relaxed) == &pf_tls)
        return take_locked(s, addr);
    if (pf_unlikely(me.busy)) {
        later_push(addr);
        return 0;
    }
    lock_shard(s);
    pf_site site = take_locked(s, addr);
    unlock_shard(s);
    return site;
}

bool pf_live_busy(void)
{
    return me.busy != 0;
}

size_t pf_live_count(void)
{
    size_t n = 0;
    for (int i = 0; i < SHARDS; i++)
        n += atomic_load_explicit(&shards[i].n, memory_order_relaxed);
    return n;
}

void pf_live_limit(size_t entries_per_shard)
{
    cap_limit = entries_per_shard < FIRST_CAP ? FIRST_CAP : (uint32_t)entries_per_shard;
}

void pf_live_fork(pf_fork_phase phase)
{
    if (phase == PF_FORK_PREPARE) {
        for (int i = 0; i < SHARDS; i++)
            pf_lock_acquire(&shards[i].lock);
        atomic_store_explicit(&forker, &pf_tls, memory_order_relaxed);
        return;
    }
    atomic_store_explicit(&forker, NULL, memory_order_relaxed);
    for (int i = 0; i < SHARDS; i++) {
        if (phase == PF_FORK_CHILD) /* those who slept on it are not here: nobody to wake */
            atomic_store_explicit(&shards[i].lock, 0, memory_order_release);
        else
            pf_lock_release(&shards[i].lock);
    }
}
