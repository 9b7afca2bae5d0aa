/* H10: a tick that is pending when profiling stops kills the process, if the handler was reset to
 * the default; and timers must not follow an exec. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static _Atomic(bool) enough;

static void *burn(void *arg)
{
    while (!enough)
        check_sink++;
    return arg;
}

Test(p10, a_thousand_cycles_under_load, .timeout = 120)
{
    pthread_t t[3];
    pf_raw raw;
    for (int i = 0; i < 3; i++)
        pthread_create(&t[i], NULL, burn, NULL);
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(pf_cpu_start(1000), 0);
        cr_assert_eq(pf_cpu_stop(&raw), 0);
        cr_assert_eq(raw.lost, 0);
        pf_raw_free(&raw);
    }
    enough = true;
    for (int i = 0; i < 3; i++)
        pthread_join(t[i], NULL);
    struct sigaction now;
    sigaction(SIGPROF, NULL, &now);
    cr_assert((now.sa_flags & SA_SIGINFO) && (now.sa_flags & SA_RESTART));
    raise(SIGPROF); /* a stray one is nobody's death */
}

Test(p10, an_exec_while_sampling, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1000), 0);
    pid_t pid = fork();
    if (!pid) {
        cr_assert_eq(pf_cpu_start(1000), 0);
        check_burn(20000000);
        /* Loops for a while: a timer that lived on would end it. */
        execl("/bin/sh", "sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done", NULL);
        _exit(9);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    pf_raw_free(&raw);
}
