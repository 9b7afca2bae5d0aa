/* What heap sampling adds to malloc and free: the interposed names against __libc_malloc and
 * __libc_free in one run, alternating, medians. Two patterns: a tight pair of 64 bytes, and a
 * random window of 4096 slots with sizes 16..512.
 *
 *     malloc_bench [rate]      (default 524288; 0 measures the bare interposition)
 *
 * Prints one line a pattern: nanoseconds of both, the ratio, and the difference.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "profiler/weft_pprof.h"

#define ROUNDS 101
#define PAIRS  200000
#define SLOTS  4096

extern void *__libc_malloc(size_t);
extern void __libc_free(void *);

static void *slots[SLOTS];

/* CPU time of this thread: a loaded machine then costs noise, not nonsense. */
static int64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static uint64_t rng(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

#define DEFINE_PATTERNS(suffix, alloc, release)                                                    \
    static double tight_##suffix(void)                                                             \
    {                                                                                              \
        int64_t t = cpu_ns();                                                                      \
        for (int i = 0; i < PAIRS; i++) {                                                          \
            void *p = alloc(64);                                                                   \
            __asm__ volatile("" : : "r"(p) : "memory");                                            \
            release(p);                                                                            \
        }                                                                                          \
        return (double)(cpu_ns() - t) / PAIRS;                                                     \
    }                                                                                              \
    static double window_##suffix(void)                                                            \
    {                                                                                              \
        uint64_t s = 88172645463325252ull;                                                         \
        int64_t t = cpu_ns();                                                                      \
        for (int i = 0; i < PAIRS; i++) {                                                          \
            uint64_t r = rng(&s);                                                                  \
            void **slot = &slots[r % SLOTS];                                                       \
            release(*slot);                                                                        \
            *slot = alloc(16 + (r >> 40) % 497);                                                   \
        }                                                                                          \
        double ns = (double)(cpu_ns() - t) / PAIRS;                                                \
        for (int i = 0; i < SLOTS; i++) {                                                          \
            release(slots[i]);                                                                     \
            slots[i] = NULL;                                                                       \
        }                                                                                          \
        return ns;                                                                                 \
    }

DEFINE_PATTERNS(weft, malloc, free)
DEFINE_PATTERNS(libc, __libc_malloc, __libc_free)

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void compare(const char *name, double (*ours)(void), double (*theirs)(void))
{
    double a[ROUNDS], b[ROUNDS], d[ROUNDS];
    ours();
    theirs();
    for (int i = 0; i < ROUNDS; i++) {
        a[i] = ours();
        b[i] = theirs();
        d[i] = a[i] - b[i];
    }
    qsort(a, ROUNDS, sizeof *a, by_value);
    qsort(b, ROUNDS, sizeof *b, by_value);
    qsort(d, ROUNDS, sizeof *d, by_value);
    printf("malloc+free %-6s weft %6.2f ns  libc %6.2f ns  ratio %.3f  added %+.2f ns a pair\n",
           name, a[ROUNDS / 2], b[ROUNDS / 2], a[ROUNDS / 2] / b[ROUNDS / 2], d[ROUNDS / 2]);
}

int main(int argc, char **argv)
{
    weft_pprof_heap_rate(argc > 1 ? strtoll(argv[1], NULL, 10) : 524288);
    compare("tight", tight_weft, tight_libc);
    compare("window", window_weft, window_libc);
    return 0;
}
