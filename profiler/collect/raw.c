/* Building raw snapshots: plain data in memory straight from the kernel.
 *
 * Invariants:
 *  1. No malloc: a snapshot never shows in the heap profile, and one of a million coroutines does
 *     not tear at the program's allocator.
 *  2. Equal stacks of one snapshot share one copy, so that a million coroutines parked at one place
 *     cost their records only, and whoever merges can compare pointers first.
 *  3. The samples are one array that grows by mremap: doubling moves page tables, not bytes.
 *
 * One snapshot is built by one thread; no locks.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "profiler/collect/pf.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

enum { CHUNK_BYTES = 256 << 10, FIRST_SAMPLES = 512, FIRST_STACKS = 1024 };

typedef struct stack {
    uint32_t hash, n;
    uintptr_t pcs[];
} stack;

typedef struct arena {
    pf_chunk *chunks;
    size_t cap;   /* of pf_raw.samples */
    stack **slot; /* open addressing; no entry is removed */
    uint32_t slots, used;
} arena;

static void *chunk_alloc(arena *a, size_t n)
{
    pf_chunk *c = a->chunks;
    n = (n + 15) & ~(size_t)15;
    if (!c || c->size - c->used < n) {
        size_t size = n + 64 > CHUNK_BYTES ? (n + 64 + 4095) & ~(size_t)4095 : CHUNK_BYTES;
        if (!(c = pf_map(size)))
            return NULL;
        c->size = size;
        c->used = (sizeof(*c) + 15) & ~(size_t)15;
        c->next = a->chunks;
        a->chunks = c;
    }
    void *p = (char *)c + c->used;
    c->used += n;
    return p;
}

int pf_raw_init(pf_raw *raw, const pf_source *source)
{
    struct timespec ts;
    memset(raw, 0, sizeof(*raw));
    clock_gettime(CLOCK_REALTIME, &ts);
    raw->source = source;
    raw->time_ns = ts.tv_sec * 1000000000ll + ts.tv_nsec;
    raw->period = 1;
    arena first = {0}, *a = chunk_alloc(&first, sizeof(arena));
    if (!a)
        return -ENOMEM;
    *a = first;
    raw->arena = a;
    return 0;
}

void *pf_raw_alloc(pf_raw *raw, size_t n)
{
    return chunk_alloc(raw->arena, n);
}

static bool stacks_grow(arena *a)
{
    if (a->used < a->slots / 4 * 3)
        return true;
    uint32_t slots = a->slots ? a->slots * 2 : FIRST_STACKS;
    stack **slot = pf_map(slots * sizeof(*slot));
    if (!slot)
        return false;
    for (uint32_t i = 0; i < a->slots; i++) {
        if (!a->slot[i])
            continue;
        uint32_t j = a->slot[i]->hash & (slots - 1);
        while (slot[j])
            j = (j + 1) & (slots - 1);
        slot[j] = a->slot[i];
    }
    pf_unmap(a->slot, a->slots * sizeof(*slot));
    a->slot = slot;
    a->slots = slots;
    return true;
}

static const uintptr_t *intern(arena *a, const uintptr_t *pcs, uint32_t n)
{
    uint64_t h = n;
    for (uint32_t i = 0; i < n; i++) {
        h = (h ^ pcs[i]) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    if (!stacks_grow(a))
        return NULL;
    uint32_t i = (uint32_t)h & (a->slots - 1);
    for (stack *s; (s = a->slot[i]); i = (i + 1) & (a->slots - 1))
        if (s->hash == (uint32_t)h && s->n == n && !memcmp(s->pcs, pcs, n * sizeof(*pcs)))
            return s->pcs;
    stack *s = chunk_alloc(a, sizeof(*s) + n * sizeof(*pcs));
    if (!s)
        return NULL;
    s->hash = (uint32_t)h;
    s->n = n;
    memcpy(s->pcs, pcs, n * sizeof(*pcs));
    a->slot[i] = s;
    a->used++;
    return s->pcs;
}

static bool samples_grow(pf_raw *raw)
{
    arena *a = raw->arena;
    if (raw->nsamples < a->cap)
        return true;
    size_t cap = a->cap ? a->cap * 2 : FIRST_SAMPLES;
    void *p;
    if (!raw->samples)
        p = pf_map(cap * sizeof(pf_sample));
    else
        p = mremap(raw->samples, a->cap * sizeof(pf_sample), cap * sizeof(pf_sample),
                   MREMAP_MAYMOVE);
    if (!p || p == MAP_FAILED)
        return false;
    raw->samples = p;
    a->cap = cap;
    return true;
}

pf_sample *pf_raw_add(pf_raw *raw, const uintptr_t *pcs, uint32_t npcs, bool leaf_exact,
                      weft_labels *labels)
{
    const uintptr_t *copy = intern(raw->arena, pcs, npcs);
    if (!copy || !samples_grow(raw))
        return NULL;
    pf_sample *s = &raw->samples[raw->nsamples++];
    memset(s, 0, sizeof(*s));
    s->pcs = copy;
    s->npcs = npcs;
    s->leaf_exact = leaf_exact;
    s->labels = pf_labels_ref(labels);
    return s;
}

void pf_raw_free(pf_raw *raw)
{
    arena *a = raw->arena;
    if (!a)
        return;
    for (size_t i = 0; i < raw->nsamples; i++)
        pf_labels_unref((weft_labels *)raw->samples[i].labels);
    pf_unmap(raw->samples, a->cap * sizeof(pf_sample));
    pf_unmap(a->slot, a->slots * sizeof(*a->slot));
    pf_chunk *c = a->chunks; /* the arena itself is in the last of them */
    memset(raw, 0, sizeof(*raw));
    while (c) {
        pf_chunk *next = c->next;
        pf_unmap(c, c->size);
        c = next;
    }
}
