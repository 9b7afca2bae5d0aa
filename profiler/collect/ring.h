/* The buffer between the SIGPROF handler and the thread that drains it. See ring.c. */
#ifndef WEFT_PF_RING_H
#define WEFT_PF_RING_H

#include "profiler/collect/pf.h"

typedef struct pf_rec {
    weft_labels *labels; /* holds a reference */
    uint32_t weight;     /* periods of CPU time this sample stands for */
    uint32_t session;    /* of the timer that caused it */
    uint32_t meter;      /* of the thread's, in cpu.c */
    int32_t npcs;
    uintptr_t pcs[PF_DEPTH];
} pf_rec;

typedef struct pf_ring {
    uint32_t n; /* records, a power of two; 0 before pf_ring_init */
    _Alignas(64) _Atomic(uint32_t) ticket;
    _Alignas(64) _Atomic(uint32_t) *state;
    pf_rec *rec;
} pf_ring;

PF_HIDDEN int pf_ring_init(pf_ring *, uint32_t n);   /* 0 (also when it is made already), -ENOMEM */
PF_HIDDEN pf_rec *pf_ring_claim(pf_ring *);          /* NULL: full. Handler. */
PF_HIDDEN void pf_ring_publish(pf_ring *, pf_rec *); /* handler */
/* Calls take for each published record and frees it; returns how many. One drainer at a time. */
PF_HIDDEN int pf_ring_drain(pf_ring *, void (*take)(pf_rec *, void *), void *arg);
PF_HIDDEN void pf_ring_reset(pf_ring *); /* in a forked child: all records are free */

#endif
