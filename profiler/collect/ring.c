/* A lock-free buffer of samples: many handlers write, one thread reads.
 *
 * It is an array of records of fixed size with one state word each: FREE -> WRITING (a handler's
 * compare-and-swap) -> READY (it has published) -> FREE (the drainer is done). A ticket spreads the
 * writers over the array; order does not matter, because samples are added up.
 *
 * Invariants:
 *  1. A writer owns its record from the swap to the publish, so a handler that is preempted in the
 *     middle, for however long, stops nobody: the drainer passes over WRITING.
 *  2. Claiming is bounded: CLAIM_TRIES records are looked at, then the sample is lost and the
 *     caller counts it (H38).
 *  3. Memory is mapped once and never unmapped: a late handler finds it (H37).
 *
 * Rejected: a byte ring with records of variable length. It holds more samples in a megabyte, but a
 * stalled writer blocks the reader behind it. One ring per thread: nothing would be shared, but
 * ten thousand threads would need ten thousand rings; at 100 Hz two handlers meet on the ticket
 * about never.
 */
#include "profiler/collect/ring.h"
#include <errno.h>

enum { FREE, WRITING, READY };
enum { CLAIM_TRIES = 8 };

int pf_ring_init(pf_ring *r, uint32_t n)
{
    if (r->n)
        return 0;
    r->state = pf_map(n * sizeof(*r->state));
    r->rec = pf_map(n * sizeof(*r->rec));
    if (!r->state || !r->rec) {
        pf_unmap((void *)r->state, n * sizeof(*r->state));
        pf_unmap(r->rec, n * sizeof(*r->rec));
        return -ENOMEM;
    }
    r->n = n;
    return 0;
}

pf_rec *pf_ring_claim(pf_ring *r)
{
    for (int i = 0; i < CLAIM_TRIES; i++) {
        uint32_t at = atomic_fetch_add_explicit(&r->ticket, 1, memory_order_relaxed) & (r->n - 1);
        uint32_t seen = FREE; /* acquire: partner is the drainer's release of the record */
        if (atomic_compare_exchange_strong_explicit(&r->state[at], &seen, WRITING,
                                                    memory_order_acquire, memory_order_relaxed))
            return &r->rec[at];
    }
    return NULL;
}

void pf_ring_publish(pf_ring *r, pf_rec *rec)
{
    /* release: partner is the acquire load in pf_ring_drain */
    atomic_store_explicit(&r->state[rec - r->rec], READY, memory_order_release);
}

int pf_ring_drain(pf_ring *r, void (*take)(pf_rec *, void *), void *arg)
{
    int n = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        if (atomic_load_explicit(&r->state[i], memory_order_acquire) != READY)
            continue;
        take(&r->rec[i], arg);
        n++;
        /* release: partner is the acquire swap in pf_ring_claim */
        atomic_store_explicit(&r->state[i], FREE, memory_order_release);
    }
    return n;
}

void pf_ring_reset(pf_ring *r)
{
    for (uint32_t i = 0; i < r->n; i++)
        atomic_store_explicit(&r->state[i], FREE, memory_order_relaxed);
}
