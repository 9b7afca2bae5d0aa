/* The arithmetic of sampling by bytes: how far to the next sample, and what one sample stands for.
 *
 * An allocation of k bytes is n = k + 1 units long, so that malloc(0) has a chance to be seen.
 * Samples fall on the line of units with independent gaps G = floor(E), E exponential with mean T.
 * Then
 *
 *     P(an allocation of n units is sampled) = P(G < n) = 1 - exp(-n/T) =: p(n, T)
 *
 * whatever came before it, because floor(E) is geometric and so has no memory. One sample of size k
 * therefore stands for 1/p objects and k/p bytes (Horvitz and Thompson), and the sum over samples
 * is an unbiased estimate of both, for every mix of sizes.
 *
 * Invariants
 *  1. The weight depends on (n, T) alone. All samples of one (stack, size, T) weigh the same, so a
 *     bucket keeps counts, and the weight is applied once, when a snapshot is written: unbias
 *     first, sum later, and in-use is exactly zero when all is freed.
 *  2. T is the mean with which the gap was drawn, not the one in force later: a change of rate is
 *     exact.
 *  3. No libm: libweft.so needs libc only, and a lazily bound call has no place in a malloc hook.
 *     Both functions are good to 1e-12, far below what 1e9 samples could show.
 *
 * Rejected: weight T + k - f from the overshoot (tcmalloc): the same mean, but it differs from
 * sample to sample, so it must be stored and summed with each block, and a block of 100 T is known
 * to 1 % only, where 1/p gives it exactly. A log2 table of 1024 entries: 1e-4 wrong, 8 KiB of
 * cache, for 15 ns once in 512 KiB.
 */
#include "profiler/collect/heap.h"

/* ln x for x in (0, 1]: x = m * 2^e with m in [sqrt(1/2), sqrt 2), ln m = 2 artanh((m-1)/(m+1)). */
static double ln(double x)
{
    union {
        double d;
        uint64_t u;
    } v = {.d = x};
    int e = (int)(v.u >> 52) - 1023;
    v.u = (v.u & ((1ull << 52) - 1)) | (1023ull << 52);
    if (v.d > 1.4142135623730951) {
        v.d /= 2;
        e++;
    }
    double s = (v.d - 1) / (v.d + 1), q = s * s;
    double sum = 1.0 / 15;
    for (int k = 13; k >= 1; k -= 2)
        sum = sum * q + 1.0 / k;
    return e * 0.6931471805599453 + 2 * s * sum;
}

/* xorshift64*; the state is never 0. */
uint64_t pf_rng_next(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

uint64_t pf_rng_seed(uint64_t salt)
{
    uint64_t x = salt + 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    x ^= x >> 31;
    return x ? x : 1;
}

/* Uniform in (0, 1], never 0: 53 bits, so the longest gap is 36.7 T. */
double pf_rng_unit(uint64_t *state)
{
    return (double)((pf_rng_next(state) >> 11) + 1) * 0x1p-53;
}

uint64_t pf_gap_draw(uint64_t *state, int64_t rate)
{
    if (rate <= 0)
        return PF_GAP_OFF;
    if (rate == 1)
        return 0;
    return (uint64_t)(-ln(pf_rng_unit(state)) * (double)rate);
}

/* 1 - exp(-x), x >= 0. The series below 1/8, then 1 - exp(-2r) = y(2 - y), which loses nothing. */
static double one_minus_exp(double x)
{
    if (x > 40)
        return 1;
    int doublings = 0;
    while (x > 0.125) {
        x /= 2;
        doublings++;
    }
    double sum = 1;
    for (int k = 10; k >= 2; k--)
        sum = 1 - sum * x / k;
    double y = x * sum;
    while (doublings-- > 0)
        y *= 2 - y;
    return y;
}

double pf_gap_weight(uint64_t units, int64_t rate)
{
    if (rate <= 1)
        return 1;
    return 1 / one_minus_exp((double)units / (double)rate);
}
