/* H37: threads that end while they are sampled, by return, by exit and by cancellation: no tick
 * meets freed state, no timer is left for a reused thread id. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
enum { THREADS = 500, CANCEL = 0 }; /* a cancelled thread's locks are not seen by libtsan */
#else
enum { THREADS = 3000, CANCEL = 1 };
#endif

static void *short_lived(void *arg)
{
    uintptr_t how = (uintptr_t)arg % 3;
    if ((uintptr_t)arg % 2)
        weft_label_set("short", "lived"); /* half of them register, the others are swept up */
    for (int i = 0; i < 20000; i++)
        check_sink += check_sink * 3;
    if (how == 1)
        pthread_exit(NULL);
    for (int i = 0; how == 2 && i < (CANCEL ? 1000 : 10); i++) {
        usleep(100); /* a cancellation point */
        check_sink++;
    }
    return NULL;
}

/* Kernel timers of this process. */
static int timers(void)
{
    FILE *f = fopen("/proc/self/timers", "r");
    char line[256];
    int n = 0;
    while (f && fgets(line, sizeof(line), f))
        n += !strncmp(line, "ID:", 3);
    if (f)
        fclose(f);
    return n;
}

Test(p37, threads_end_under_the_clock, .timeout = 240)
{
    pf_raw raw;
    int before = timers();
    cr_assert_eq(pf_cpu_start(1000), 0);
    for (uintptr_t i = 0; i < THREADS; i += 4) {
        pthread_t t[4];
        for (uintptr_t k = 0; k < 4; k++)
            cr_assert_eq(pthread_create(&t[k], NULL, short_lived, (void *)(i + k)), 0);
        for (uintptr_t k = 0; k < 4; k++) {
            if (CANCEL && (i + k) % 3 == 2)
                pthread_cancel(t[k]);
            pthread_join(t[k], NULL);
        }
    }
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    cr_assert_eq(raw.lost, 0);
    cr_assert_eq(timers(), before);
    pf_raw_free(&raw);
}
