/* The buffer between handlers and drainer: full, stalled writers, many writers. */
#include "tests/profiler/collect/collect_check.h"
#include "profiler/collect/ring.h"
#include <pthread.h>

static pf_ring ring;

static void add(pf_rec *rec, void *sum)
{
    *(int64_t *)sum += rec->weight;
}

Test(ring, full_is_told_and_drained_is_free)
{
    int64_t sum = 0;
    cr_assert_eq(pf_ring_init(&ring, 64), 0);
    for (uint32_t i = 0; i < 64; i++) {
        pf_rec *rec = pf_ring_claim(&ring);
        cr_assert_not_null(rec);
        rec->weight = i;
        pf_ring_publish(&ring, rec);
    }
    cr_assert_null(pf_ring_claim(&ring));
    cr_assert_eq(pf_ring_drain(&ring, add, &sum), 64);
    cr_assert_eq(sum, 63 * 64 / 2);
    cr_assert_not_null(pf_ring_claim(&ring));
}

Test(ring, a_stalled_writer_stops_nobody)
{
    int64_t sum = 0;
    cr_assert_eq(pf_ring_init(&ring, 8), 0);
    pf_rec *stalled = pf_ring_claim(&ring);
    for (int round = 0; round < 1000; round++) {
        pf_rec *rec = pf_ring_claim(&ring);
        cr_assert_not_null(rec);
        cr_assert_neq(rec, stalled);
        rec->weight = 1;
        pf_ring_publish(&ring, rec);
        pf_ring_drain(&ring, add, &sum);
    }
    cr_assert_eq(sum, 1000);
    stalled->weight = 5;
    pf_ring_publish(&ring, stalled);
    cr_assert_eq(pf_ring_drain(&ring, add, &sum), 1);
    cr_assert_eq(sum, 1005);
}

static _Atomic(int64_t) written, dropped;
static _Atomic(int) writers;

static void *writer(void *arg)
{
    (void)arg;
    for (uint32_t i = 1; i <= 100000; i++) {
        pf_rec *rec = pf_ring_claim(&ring);
        if (!rec) {
            dropped += i;
            continue;
        }
        rec->weight = i;
        pf_ring_publish(&ring, rec);
        written += i;
    }
    writers--;
    return NULL;
}

Test(ring, nothing_is_lost_or_doubled)
{
    pthread_t t[3];
    int64_t sum = 0;
    cr_assert_eq(pf_ring_init(&ring, 256), 0);
    writers = 3;
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, writer, NULL);
    while (writers)
        pf_ring_drain(&ring, add, &sum);
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    pf_ring_drain(&ring, add, &sum);
    cr_assert_eq(sum, written);
    cr_assert_eq(written + dropped, 3 * (100000ll * 100001 / 2));
    cr_assert_gt(sum, 0);
}
