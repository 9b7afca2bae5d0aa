/* The arithmetic of byte sampling against libm and against the distribution it promises. */
#include "tests/check.h"
#include <math.h>
#include "profiler/collect/heap.h"

Test(gap, follows_the_logarithm)
{
    uint64_t state = pf_rng_seed(1);
    for (int i = 0; i < 200000; i++) {
        uint64_t copy = state;
        double u = pf_rng_unit(&copy);
        cr_assert(u > 0 && u <= 1, "u %g", u);
        double want = -log(u) * 0x1p40;
        double got = (double)pf_gap_draw(&state, (int64_t)1 << 40);
        cr_assert(fabs(got - want) <= 1 + want * 1e-12, "u %.17g: %.0f, libm %.0f", u, got, want);
    }
}

Test(gap, weight_is_the_inverse_chance)
{
    static const int64_t rates[] = {2, 1000, 524288, (int64_t)1 << 40};
    for (int r = 0; r < 4; r++) {
        for (double x = 1; x < 0x1p47; x = floor(x * 1.37) + 1) {
            double want = -1 / expm1(-x / (double)rates[r]);
            double got = pf_gap_weight((uint64_t)x, rates[r]);
            cr_assert(fabs(got - want) <= want * 1e-12, "n %.0f T %lld: %.17g, libm %.17g", x,
                      (long long)rates[r], got, want);
        }
    }
}

Test(gap, one_is_everything_and_zero_is_nothing)
{
    uint64_t state = pf_rng_seed(2);
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(pf_gap_draw(&state, 1), 0);
        cr_assert_eq(pf_gap_draw(&state, 0), PF_GAP_OFF);
    }
    cr_assert(pf_gap_weight(1, 1) == 1);
    cr_assert(pf_gap_weight(12345, 1) == 1);
}

/* Chi-square over 64 cells of equal chance; 63 degrees of freedom, 1e-6 at 125. */
Test(gap, is_geometric)
{
    enum { CELLS = 64, DRAWS = 640000 };
    static const int64_t rates[] = {100000, 524288, 1 << 30};
    for (int r = 0; r < 3; r++) {
        uint64_t state = pf_rng_seed(3 + (uint64_t)r);
        int cell[CELLS] = {0};
        for (int i = 0; i < DRAWS; i++) {
            double g = (double)pf_gap_draw(&state, rates[r]) + 0.5;
            cell[(int)(-expm1(-g / (double)rates[r]) * CELLS)]++;
        }
        double chi = 0, want = (double)DRAWS / CELLS;
        for (int i = 0; i < CELLS; i++)
            chi += (cell[i] - want) * (cell[i] - want) / want;
        cr_assert(chi < 125, "rate %lld: chi-square %.1f", (long long)rates[r], chi);
    }
}

Test(gap, seeds_differ)
{
    uint64_t a = pf_rng_seed(0), b = pf_rng_seed(1);
    cr_assert(a != 0 && b != 0 && a != b);
    cr_assert(pf_rng_next(&a) != pf_rng_next(&b));
}
