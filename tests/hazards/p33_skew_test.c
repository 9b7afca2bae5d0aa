/* H33: with one timer for the process, equal threads measure as unequal. Each of n threads that
 * burn the same has its own CPU time in the profile within 3 %. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>
#include <stdlib.h>

enum { MOST = 8 };
static pthread_barrier_t ready;
static int64_t used[MOST];

static void *burn(void *arg)
{
    int i = (int)(intptr_t)arg;
    char name[2] = {(char)('0' + i), 0};
    weft_label_set("burner", name);
    pthread_barrier_wait(&ready); /* it is here before the session is */
    pthread_barrier_wait(&ready);
    int64_t before = check_clock(CLOCK_THREAD_CPUTIME_ID);
    check_burn(400000000);
    used[i] = check_clock(CLOCK_THREAD_CPUTIME_ID) - before;
    return NULL;
}

static void burners(int n)
{
    pthread_t t[MOST];
    pf_raw raw;
    pthread_barrier_init(&ready, NULL, (unsigned)n + 1);
    for (int i = 0; i < n; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, burn, (void *)(intptr_t)i), 0);
    pthread_barrier_wait(&ready);
    cr_assert_eq(pf_cpu_start(500), 0);
    pthread_barrier_wait(&ready);
    for (int i = 0; i < n; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    int64_t sums[MOST] = {0};
    for (size_t i = 0; i < raw.nsamples; i++) {
        const char *name = check_label(&raw.samples[i], "burner");
        if (*name)
            sums[*name - '0'] += raw.samples[i].values[1];
    }
    for (int i = 0; i < n; i++)
        cr_assert_leq(llabs(sums[i] - used[i]) * 100, used[i] * 3, "burner %d of %d: %ld of %ld", i,
                      n, (long)sums[i], (long)used[i]);
    pf_raw_free(&raw);
    pthread_barrier_destroy(&ready);
}

Test(p33, equal_burners_measure_equal, .timeout = 120)
{
    check_needs_prompt_signals();
    burners(1);
    burners(2);
    burners(4);
    burners(MOST);
}
