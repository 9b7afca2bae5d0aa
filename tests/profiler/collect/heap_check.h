/* Shared by the heap tests: takes snapshots and adds up the rows of one block size. */
#ifndef WEFT_TESTS_HEAP_CHECK_H
#define WEFT_TESTS_HEAP_CHECK_H

#include <stdlib.h>
#include "profiler/collect/heap.h"
#include "tests/check.h"

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define HEAP_PLAIN 1 /* samples come from our own malloc */
#endif

enum { ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE };

typedef struct heap_row {
    int64_t v[4], unscaled[4];
    int rows;
    uintptr_t leaf; /* of the last row */
} heap_row;

static inline heap_row heap_rows(int64_t size) /* size < 0: of all sizes */
{
    heap_row sum = {0};
    pf_raw raw;
    cr_assert_eq(pf_heap_source.snapshot(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        if (size >= 0 && s->block_bytes != size)
            continue;
        sum.rows++;
        sum.leaf = s->pcs[0];
        for (int k = 0; k < 4; k++) {
            sum.v[k] += s->values[k];
            sum.unscaled[k] += s->unscaled[k];
        }
    }
    pf_raw_free(&raw);
    return sum;
}

/* Keeps the compiler from pairing malloc with free and dropping both. */
static inline void *keep(void *p)
{
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

#endif
