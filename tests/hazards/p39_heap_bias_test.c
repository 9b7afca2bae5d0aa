/* H39: heap estimates that lie. Every size class is estimated without bias, bytes and objects: the
 * 95 % interval holds the truth as often as it should, and sums over mixed sizes are right too.
 */
#include "tests/profiler/collect/heap_check.h"
#include <math.h>

/* Runs n allocations of `size` bytes through the countdown; how many were sampled. */
static int64_t sampled(uint64_t units, int64_t n)
{
    int64_t hits = 0;
    for (int64_t i = 0; i < n; i++)
        if (pf_heap_step(units) && pf_heap_crossed(units))
            hits++;
    return hits;
}

static double chance(double units, double rate)
{
    return -expm1(-units / rate);
}

/* Ten million allocations of each size at the default rate: bytes and objects, both k times the
 * weight, within 3.5 standard deviations. */
Test(p39, ten_million_of_each_size, .timeout = 120)
{
    enum { T = 524288, N = 10000000 };
    static const uint64_t sizes[] = {0, 8, 100, 4096, T - 1, T, T + 1, 100 * T};
    for (int k = 0; k < 8; k++) {
        weft_pprof_heap_rate(T);
        pf_heap_seed(1000 + (uint64_t)k);
        double p = chance((double)sizes[k] + 1, T), sd = sqrt(N * p * (1 - p)) / p;
        double objects = (double)sampled(sizes[k] + 1, N) * pf_gap_weight(sizes[k] + 1, T);
        cr_assert(fabs(objects - N) <= 3.5 * sd + 1, "size %llu: %.0f objects, sd %.0f",
                  (unsigned long long)sizes[k], objects, sd);
    }
}

/* How often does the 95 % interval hold the truth? 400 runs a size: 95 % +- 3 standard deviations.
 * And the mean of all runs is within 3 of its own standard deviations. */
Test(p39, the_interval_holds_the_truth, .timeout = 120)
{
    enum { T = 2048, RUNS = 400, N = 50000 };
    static const uint64_t sizes[] = {0, 8, 100, 1024, T - 1, T, T + 1, 3 * T};
    for (int k = 0; k < 8; k++) {
        uint64_t units = sizes[k] + 1;
        double p = chance((double)units, T), sd = sqrt(N * p * (1 - p)) / p, sum = 0;
        int holds = 0;
        weft_pprof_heap_rate(T);
        for (int run = 0; run < RUNS; run++) {
            pf_heap_seed(7919 * (uint64_t)run + (uint64_t)k);
            double objects = (double)sampled(units, N) * pf_gap_weight(units, T);
            holds += fabs(objects - N) <= 1.96 * sd;
            sum += (objects - N) / sd;
        }
        cr_assert(holds >= 366 && holds <= 394, "size %llu: %d of %d intervals hold",
                  (unsigned long long)sizes[k], holds, RUNS);
        cr_assert(fabs(sum) < 3 * sqrt(RUNS), "size %llu: bias of %.3f sd",
                  (unsigned long long)sizes[k], sum / RUNS);
    }
}

/* One stack, sizes mixed over four orders of magnitude in a repeating pattern, through the real
 * malloc and the snapshot. Unbiasing a mean size afterwards would be 20 % off here. */
Test(p39, mixed_sizes_of_one_stack, .timeout = 120)
{
    enum { T = 8192, N = 300000 };
    static const size_t sizes[] = {0, 16, 100, 700, 5000, 8191, 8192, 40000};
    pf_heap_seed(3);
    weft_pprof_heap_rate(T);
    double objects = 0, bytes = 0, var_objects = 0, var_bytes = 0;
    heap_row before = heap_rows(-1);
    for (int i = 0; i < N; i++) {
        size_t n = sizes[(i * 5 + i / 8) % 8];
        free(keep(malloc(n)));
        double p = chance((double)n + 1, T);
        objects += 1;
        bytes += (double)n;
        var_objects += (1 - p) / p;
        var_bytes += (double)n * (double)n * (1 - p) / p;
    }
    heap_row after = heap_rows(-1);
    double got_objects = (double)(after.v[ALLOC_OBJECTS] - before.v[ALLOC_OBJECTS]);
    double got_bytes = (double)(after.v[ALLOC_SPACE] - before.v[ALLOC_SPACE]);
    cr_assert(fabs(got_objects - objects) < 3 * sqrt(var_objects) + 8, "%.0f of %.0f objects",
              got_objects, objects);
    cr_assert(fabs(got_bytes - bytes) < 3 * sqrt(var_bytes) + 8, "%.0f of %.0f bytes", got_bytes,
              bytes);
}

/* A sample that had to be suppressed must not move to the next allocation: B, which always follows
 * A's suppressed one, is not over-counted. */
Test(p39, a_suppressed_sample_is_not_passed_on)
{
    enum { T = 4096, N = 200000 };
    pf_heap_seed(17);
    weft_pprof_heap_rate(T);
    for (int i = 0; i < N; i++) {
        pf_tls.in_hook = 1;
        free(keep(malloc(3000)));
        pf_tls.in_hook = 0;
        free(keep(malloc(151)));
    }
    double p = chance(152, T), sd = sqrt(N * p * (1 - p)) / p;
    double got = (double)heap_rows(151).v[ALLOC_OBJECTS];
    cr_assert(fabs(got - N) < 3 * sd, "%.0f of %d, sd %.0f", got, N, sd);
    cr_assert_eq(heap_rows(3000).v[ALLOC_OBJECTS], 0);
}
