/* What the heap rooms share: gap.c (arithmetic), live.c (which sampled blocks are alive), heap.c
 * (taking a sample, the sources) and malloc_hook.c (the interposed names).
 */
#ifndef WEFT_PF_HEAP_H
#define WEFT_PF_HEAP_H

#include "profiler/collect/pf.h"

/* ---- gap.c; all of it may be called from a hook ---- */

#define PF_GAP_OFF (UINT64_MAX >> 1)           /* the gap while sampling is off: it never ends */
PF_HIDDEN uint64_t pf_rng_seed(uint64_t salt); /* a good state for pf_rng_next, never 0 */
PF_HIDDEN uint64_t pf_rng_next(uint64_t *state);
PF_HIDDEN uint64_t *pf_rng_here(void);         /* the calling thread's state; heap.c */
PF_HIDDEN double pf_rng_unit(uint64_t *state); /* uniform in (0, 1] */
/* Units that pass before the next sampled one: geometric with mean rate; 0 for rate 1, PF_GAP_OFF
 * for rate 0. */
PF_HIDDEN uint64_t pf_gap_draw(uint64_t *state, int64_t rate);
/* How many allocations of this many units one sample stands for. */
PF_HIDDEN double pf_gap_weight(uint64_t units, int64_t rate);

/* ---- live.c ---- */

/* One bit for each value of 16 hash bits: clear means that no live block with that hash was
 * sampled. It only rejects; a set bit decides nothing. */
#define PF_FILTER_WORDS 1024
extern PF_HIDDEN _Atomic(uint64_t) pf_live_filter[PF_FILTER_WORDS];
static inline uint64_t pf_live_hash(uintptr_t addr)
{
    return addr * 0x9e3779b97f4a7c15ull;
}
static inline bool pf_live_maybe(const void *p)
{
    uint64_t h = pf_live_hash((uintptr_t)p) >> 48;
    return atomic_load_explicit(&pf_live_filter[h >> 6], memory_order_relaxed) >> (h & 63) & 1;
}

/* A sampled block's site: what heap.c credits when the block goes. Never 0. */
typedef uint64_t pf_site;
/* Remembers a block. 0; -EEXIST with *old the site that was there (replaced: its free was never
 * seen); -ENOMEM when the set is full. Hook. */
PF_HIDDEN int pf_live_add(uintptr_t addr, pf_site site, pf_site *old);
/* Forgets a block and returns its site, 0 when it was never sampled. Hook. */
PF_HIDDEN pf_site pf_live_take(uintptr_t addr);
PF_HIDDEN size_t pf_live_count(void);
PF_HIDDEN bool pf_live_busy(void); /* in a signal handler: it interrupted an operation of the set */
PF_HIDDEN void pf_live_limit(size_t entries_per_shard); /* for tests; before the first add */
PF_HIDDEN void pf_live_fork(pf_fork_phase);

/* ---- heap.c ---- */

/* The countdown ran out by an allocation of this many units: moves on. Returns the number of the
 * rate under which the allocation is to be sampled, 0 when it is not. Hook. */
PF_HIDDEN unsigned pf_heap_crossed(uint64_t units);
/* Records block p of n bytes; frame is the hook's, whose return address is the caller of malloc. */
PF_HIDDEN void pf_heap_record(const void *p, size_t n, unsigned rate_no, const void *frame);
/* The same with a stack that somebody else has walked: return addresses, leaf first. */
PF_HIDDEN void pf_heap_record_stack(const void *p, size_t n, unsigned rate_no, const uintptr_t *pcs,
                                    int npcs);
/* The block with this site is gone. */
PF_HIDDEN void pf_heap_gone(pf_site site);
/* realloc failed: the block whose site was taken is alive after all. */
PF_HIDDEN void pf_heap_restore(const void *p, pf_site site);
/* The calling thread's random state from now on; for tests. */
PF_HIDDEN void pf_heap_seed(uint64_t seed);

/* One step of the countdown; true when pf_heap_crossed is to be called. */
static inline bool pf_heap_step(uint64_t units)
{
    return pf_unlikely(__builtin_sub_overflow(pf_tls.heap_left, units, &pf_tls.heap_left));
}

#endif
