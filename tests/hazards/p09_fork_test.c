/* H9: fork of a program with much memory never ends when ticks interrupt the copying of its page
 * tables: the signal is blocked around it. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

Test(p09, fork_of_a_large_program_under_1000_hz, .timeout = 60)
{
    enum { BYTES = 256 << 20 };
    pf_raw raw;
    char *big = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(big != MAP_FAILED);
    madvise(big, BYTES, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < BYTES; i += 4096)
        big[i] = 1;
    cr_assert_eq(pf_cpu_start(1000), 0);
    for (int i = 0; i < 10; i++) {
        sigset_t mask;
        pid_t pid = fork();
        cr_assert_geq(pid, 0);
        pthread_sigmask(SIG_SETMASK, NULL, &mask);
        bool open = !sigismember(&mask, SIGPROF); /* as it was before, on both sides */
        if (!pid)
            _exit(open ? 0 : 1);
        int status;
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0);
        cr_assert(open);
    }
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    pf_raw_free(&raw);
}
