/* A plain main for the tests where Criterion cannot run (ThreadSanitizer): each test in its own
 * forked process, judged by how that process ends, and Criterion's closing line, so that one
 * reader sums both.
 *
 * Invariants
 *  1. The parent never starts a thread, so every fork is of a single-threaded process.
 *  2. A test passes only if its process ended the way it declares: .signal, or .exit_code (0 if
 *     unsaid). A sanitizer's report changes the exit status, so a report fails the test.
 *  3. A test that overruns is killed with its whole process group and counts as crashed.
 *
 * Rejected: a thread as watchdog in the child (it would be one more thread in a deadlock test).
 */
#include "check.h"
#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>

/* TSan slows a program 5 to 15 times, so a test's own bound is stretched. */
#define TIMEOUT_STRETCH   10
#define TIMEOUT_DEFAULT_S 200

#ifdef __SANITIZE_THREAD__
/* In the program, not in the environment: a test may run itself again with an empty one. The first
 * report ends the test; a child of fork may start threads, and end with its parent's on the books.
 */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
    return "halt_on_error=1:report_thread_leaks=0:die_after_fork=0";
}
#endif

static struct check_test *first, **last = &first;

void check_register(struct check_test *t)
{
    *last = t;
    last = &t->next;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static _Noreturn void run_child(const struct check_test *t, const sigset_t *mask)
{
    setpgid(0, 0);
    sigprocmask(SIG_SETMASK, mask, NULL);
    if (t->init)
        t->init();
    t->run();
    if (t->fini)
        t->fini();
    exit(0);
}

/* Waits for pid until the time is over, then kills its group. Returns false for that. */
static bool wait_child(pid_t pid, double until_s, int *status)
{
    sigset_t chld;
    sigemptyset(&chld);
    sigaddset(&chld, SIGCHLD);
    for (;;) {
        if (waitpid(pid, status, WNOHANG) == pid) {
            kill(-pid, SIGKILL);
            return true;
        }
        double left = until_s - now_s();
        if (left <= 0)
            break;
        struct timespec ts = {(time_t)left, 1000000};
        sigtimedwait(&chld, NULL, &ts);
    }
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    while (waitpid(pid, status, 0) < 0 && errno == EINTR)
        ;
    return false;
}

enum verdict { PASSED, FAILED, CRASHED };

static enum verdict judge(const struct check_test *t, bool in_time, int status)
{
    if (!in_time) {
        printf("[FAIL] %s::%s: timed out\n", t->suite, t->name);
        return CRASHED;
    }
    if (WIFSIGNALED(status)) {
        if (t->signal && WTERMSIG(status) == t->signal)
            return PASSED;
        printf("[FAIL] %s::%s: ended by signal %d\n", t->suite, t->name, WTERMSIG(status));
        return CRASHED;
    }
    int code = WEXITSTATUS(status);
    if (!t->signal && code == t->exit_code)
        return PASSED;
    printf("[FAIL] %s::%s: exit status %d, expected %s %d\n", t->suite, t->name, code,
           t->signal ? "signal" : "status", t->signal ? t->signal : t->exit_code);
    return FAILED;
}

static enum verdict run_test(const struct check_test *t)
{
    sigset_t block, old;
    sigemptyset(&block);
    sigaddset(&block, SIGCHLD);
    sigprocmask(SIG_BLOCK, &block, &old);
    fflush(NULL);
    double start = now_s();
    double limit = t->timeout > 0 ? t->timeout * TIMEOUT_STRETCH : TIMEOUT_DEFAULT_S;
    pid_t pid = fork();
    if (pid == 0)
        run_child(t, &old);
    if (pid < 0) {
        printf("[FAIL] %s::%s: fork: %s\n", t->suite, t->name, strerror(errno));
        return CRASHED;
    }
    int status = 0;
    bool in_time = wait_child(pid, start + limit, &status);
    sigprocmask(SIG_SETMASK, &old, NULL);
    enum verdict v = judge(t, in_time, status);
    if (v == PASSED)
        printf("[PASS] %s::%s: (%.2fs)\n", t->suite, t->name, now_s() - start);
    return v;
}

/* The value of --filter PATTERN or --filter=PATTERN; Criterion's other arguments are ignored. */
static const char *filter_of(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--filter=", 9) == 0)
            return argv[i] + 9;
        if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc)
            return argv[i + 1];
    }
    return "*";
}

int main(int argc, char **argv)
{
    const char *filter = filter_of(argc, argv);
    int count[3] = {0};
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (const struct check_test *t = first; t; t = t->next) {
        char name[256];
        snprintf(name, sizeof name, "%s/%s", t->suite, t->name);
        if (!t->disabled && fnmatch(filter, name, 0) == 0)
            count[run_test(t)]++;
    }
    printf("[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: %d\n",
           count[PASSED] + count[FAILED] + count[CRASHED], count[PASSED], count[FAILED],
           count[CRASHED]);
    return count[FAILED] + count[CRASHED] ? 1 : 0;
}
