/* H58: signals for the process reach the program's threads, not the profiler's. */
#include "tests/profiler/collect/collect_check.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

Test(p58, sigwait_gets_each_signal, .timeout = 60)
{
    sigset_t set;
    pf_raw raw;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    cr_assert_eq(pf_cpu_start(100), 0);
    struct timespec limit = {20, 0};
    for (int i = 0; i < 200; i++) {
        cr_assert_eq(kill(getpid(), SIGUSR1), 0); /* unblocked in another thread: it would kill */
        int got;
        do
            got = sigtimedwait(&set, NULL, &limit);
        while (got < 0 && errno == EINTR);
        cr_assert_eq(got, SIGUSR1);
    }
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    pf_raw_free(&raw);
}
