/* Stack -> counts: the table that CPU, heap and contention samples are added up in.
 *
 * A table has 16 shards (H56: one lock is a meltdown at 16 cores); a shard is an open-addressed
 * array of bucket pointers, a list of all its buckets, and chunks of raw kernel memory they are cut
 * from. All-zero is an empty table, so that one can be a static variable that malloc hooks use
 * before any constructor has run.
 *
 * Invariants:
 *  1. A bucket never moves and lives as long as its table is not cleared: callers keep pointers.
 *  2. Buckets are pushed at the head of list and never unlinked, so a visitor walks from the head
 *     it read under the lock, without the lock.
 *  3. Memory is bounded by limit (H61): past it, or when the kernel has none, samples go to the
 *     overflow bucket, whose one frame says so; no sample vanishes.
 *  4. Nothing is called out to under a lock but the kernel.
 *
 * Locks: shard lock, rank 3. Taken in malloc hooks: no malloc here.
 *
 * Rejected: lock-free insertion (H2 and H5 need only that nothing is held over a call out; sampled
 * events are rare, and a lock makes growth and fork plain). One malloc'd node per bucket: the heap
 * profile would sample its own table.
 */
#include "profiler/collect/pf.h"
#include <string.h>

enum { CHUNK_BYTES = 64 << 10, CHUNK_MAX = 1 << 20, FIRST_SLOTS = 64 };

static const uintptr_t lost_memory[1] = {PF_LOST_MEMORY};

static uint64_t mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15ull;
    return h ^ h >> 29;
}

static uint64_t bucket_hash(const uintptr_t *pcs, uint32_t npcs, bool leaf_exact,
                            const weft_labels *labels, int64_t block_bytes)
{
    uint64_t h = mix(pf_labels_hash(labels), (uint64_t)block_bytes * 2 + leaf_exact);
    for (uint32_t i = 0; i < npcs; i++)
        h = mix(h, pcs[i]);
    return mix(h, npcs);
}

static bool same_stack(const uintptr_t *a, const uintptr_t *b, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (a[i] != b[i])
            return false;
    return true;
}

/* Counts n bytes against the table's limit; false: there is no room for them. */
static bool charge(pf_table *t, size_t n)
{
    size_t limit = t->limit ? t->limit : PF_TABLE_BYTES;
    if (atomic_fetch_add_explicit(&t->bytes, n, memory_order_relaxed) + n <= limit)
        return true;
    atomic_fetch_sub_explicit(&t->bytes, n, memory_order_relaxed);
    return false;
}

static void *map_charged(pf_table *t, size_t n)
{
    if (!charge(t, n))
        return NULL;
    void *p = pf_map(n);
    if (!p)
        atomic_fetch_sub_explicit(&t->bytes, n, memory_order_relaxed);
    return p;
}

static void *shard_alloc_locked(pf_table *t, pf_shard *s, size_t n)
{
    pf_chunk *c = s->chunks;
    n = (n + 15) & ~(size_t)15;
    if (!c || c->size - c->used < n) {
        size_t size = c ? c->size * 2 : CHUNK_BYTES;
        if (size > CHUNK_MAX)
            size = CHUNK_MAX;
        if (!(c = map_charged(t, size)))
            return NULL;
        c->size = size;
        c->used = (sizeof(*c) + 15) & ~(size_t)15;
        c->next = s->chunks;
        s->chunks = c;
    }
    void *p = (char *)c + c->used;
    c->used += n;
    return p;
}

/* Makes room for one more slot; the old array stays in use when there is no memory for a new. */
static bool grow_locked(pf_table *t, pf_shard *s)
{
    if (s->used < s->cap / 4 * 3)
        return true;
    uint32_t cap = s->cap ? s->cap * 2 : FIRST_SLOTS;
    pf_bucket **slot = cap > s->cap ? map_charged(t, cap * sizeof(*slot)) : NULL;
    if (!slot)
        return s->used + 1 < s->cap;
    for (pf_bucket *b = s->list; b; b = b->next) {
        uint32_t i = (uint32_t)(b->hash >> 8) & (cap - 1);
        while (slot[i])
            i = (i + 1) & (cap - 1);
        slot[i] = b;
    }
    if (s->slot) {
        pf_unmap(s->slot, s->cap * sizeof(*slot));
        atomic_fetch_sub_explicit(&t->bytes, s->cap * sizeof(*slot), memory_order_relaxed);
    }
    s->slot = slot;
    s->cap = cap;
    return true;
}

static pf_bucket *find_locked(const pf_shard *s, uint64_t hash, const uintptr_t *pcs, uint32_t npcs,
                              bool leaf_exact, const weft_labels *labels, int64_t block_bytes)
{
    if (!s->cap)
        return NULL;
    for (uint32_t i = (uint32_t)(hash >> 8) & (s->cap - 1);; i = (i + 1) & (s->cap - 1)) {
        pf_bucket *b = s->slot[i];
        if (!b)
            return NULL;
        if (b->hash == hash && b->npcs == npcs && b->leaf_exact == leaf_exact &&
            b->block_bytes == block_bytes && same_stack(b->pcs, pcs, npcs) &&
            pf_labels_equal(b->labels, labels))
            return b;
    }
}

pf_bucket *pf_bucket_get(pf_table *t, const uintptr_t *pcs, uint32_t npcs, bool leaf_exact,
                         weft_labels *labels, int64_t block_bytes)
{
    uint64_t hash = bucket_hash(pcs, npcs, leaf_exact, labels, block_bytes);
    pf_shard *s = &t->shard[hash % PF_SHARDS];
    pf_lock_acquire(&s->lock);
    pf_bucket *b = find_locked(s, hash, pcs, npcs, leaf_exact, labels, block_bytes);
    if (!b && grow_locked(t, s) &&
        (b = shard_alloc_locked(t, s, sizeof(*b) + npcs * sizeof(*pcs)))) {
        uintptr_t *copy = (uintptr_t *)(b + 1);
        for (uint32_t i = 0; i < npcs; i++)
            copy[i] = pcs[i];
        b->hash = hash;
        b->pcs = copy;
        b->npcs = npcs;
        b->leaf_exact = leaf_exact;
        b->block_bytes = block_bytes;
        b->labels = pf_labels_ref(labels);
        uint32_t i = (uint32_t)(hash >> 8) & (s->cap - 1);
        while (s->slot[i])
            i = (i + 1) & (s->cap - 1);
        s->slot[i] = b;
        s->used++;
        b->next = s->list;
        s->list = b;
        atomic_fetch_add_explicit(&t->nbuckets, 1, memory_order_relaxed);
    }
    pf_lock_release(&s->lock);
    return b ? b : &t->overflow;
}

static bool has_values(const pf_bucket *b)
{
    for (int i = 0; i < PF_BUCKET_VALUES; i++)
        if (pf_bucket_read(b, i))
            return true;
    return false;
}

int pf_table_visit(pf_table *t, int (*visit)(const pf_bucket *, void *), void *arg)
{
    int r = 0;
    for (int i = 0; i < PF_SHARDS && !r; i++) {
        pf_shard *s = &t->shard[i];
        pf_lock_acquire(&s->lock);
        const pf_bucket *b = s->list;
        pf_lock_release(&s->lock);
        for (; b && !r; b = b->next)
            r = visit(b, arg);
    }
    if (!r && has_values(&t->overflow)) {
        /* A copy: the table's own overflow bucket is all-zero at first, with no stack. */
        pf_bucket lost = {.pcs = lost_memory, .npcs = 1};
        for (int i = 0; i < PF_BUCKET_VALUES; i++)
            atomic_store_explicit(&lost.v[i], pf_bucket_read(&t->overflow, i),
                                  memory_order_relaxed);
        r = visit(&lost, arg);
    }
    return r;
}

void pf_table_clear(pf_table *t)
{
    for (int i = 0; i < PF_SHARDS; i++) {
        pf_shard *s = &t->shard[i];
        for (pf_bucket *b = s->list; b; b = b->next)
            pf_labels_unref(b->labels);
        pf_unmap(s->slot, s->cap * sizeof(*s->slot));
        for (pf_chunk *c = s->chunks, *next; c; c = next) {
            next = c->next;
            pf_unmap(c, c->size);
        }
    }
    size_t limit = t->limit;
    memset(t, 0, sizeof(*t));
    t->limit = limit;
}

void pf_table_fork(pf_table *t, pf_fork_phase phase)
{
    for (int i = 0; i < PF_SHARDS; i++) {
        if (phase == PF_FORK_PREPARE)
            pf_lock_acquire(&t->shard[i].lock);
        else
            pf_lock_release(&t->shard[i].lock);
    }
}
