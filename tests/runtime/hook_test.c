/* The push table, the peek from a signal handler, the names of wait reasons. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static _Atomic(int) inherited, dropped, blocked, unlocked, started, stopped, run_starts;
static _Atomic(int64_t) blocked_ns, unlocked_ns;
static _Atomic(int) last_why;

static void *inherit(void *set)
{
    inherited++;
    return set ? set : (void *)&inherited;
}
static void drop(void *set)
{
    dropped += set != NULL;
}
static void block_end(weft_wait_reason why, int64_t wait_ns)
{
    blocked++;
    blocked_ns = wait_ns;
    last_why = why;
}
static void unlock_end(int64_t wait_ns)
{
    unlocked++;
    unlocked_ns = wait_ns;
}
static void thread_start(weft_thread_kind kind, uintptr_t lo, uintptr_t hi)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    cr_assert(here >= lo && here < hi, "bounds of a thread of kind %d", kind);
    started++;
}
static void thread_stop(weft_thread_kind kind)
{
    (void)kind;
    stopped++;
}
static void run_start(void)
{
    run_starts++;
}
static const weft_hooks table = {WEFT_HOOK_VERSION, inherit,      drop,        block_end,
                                 unlock_end,        thread_start, thread_stop, run_start};
enum {
    ALL = WEFT_HOOK_LABEL | WEFT_HOOK_BLOCK | WEFT_HOOK_UNLOCK | WEFT_HOOK_THREAD | WEFT_HOOK_RUN
};

static weft_chan *c;
static weft_mutex mutex;
static void late_sender(void *arg)
{
    (void)arg;
    weft_sleep(20 * MS);
    weft_chan_send(c, NULL);
}
static void wants_mutex(void *arg)
{
    weft_mutex_lock(&mutex);
    weft_mutex_unlock(&mutex);
    weft_wg_done(arg);
}
BODY(events)
{
    c = weft_chan_new(0, 0);
    weft_go(late_sender, NULL);
    weft_chan_recv(c, NULL);
    cr_assert_eq(blocked, 1, "sleep does not count");
    cr_assert_eq(last_why, WEFT_WAIT_CHAN_RECV);
    cr_assert_geq(blocked_ns, 15 * MS);
    weft_wg left = WEFT_WG_INIT;
    weft_wg_add(&left, 1);
    weft_mutex_lock(&mutex);
    weft_go(wants_mutex, &left);
    weft_sleep(20 * MS);
    cr_assert_eq(unlocked, 0);
    weft_mutex_unlock(&mutex);
    cr_assert_eq(unlocked, 1, "charged to the unlocker, at once");
    cr_assert_geq(unlocked_ns, 15 * MS);
    weft_wg_wait(&left);
    return 0;
}
Test(hook, events_reach_the_table, .timeout = 60)
{
    cr_assert_eq(weft_hook_set(&table, ALL), 0);
    RUN(1, events);
    cr_assert_eq(run_starts, 1);
    cr_assert_geq(started, 2, "sysmon and a worker");
    cr_assert_eq(inherited, 3);
}

BODY(quiet_events)
{
    c = weft_chan_new(0, 0);
    weft_go(late_sender, NULL);
    weft_chan_recv(c, NULL);
    return 0;
}
Test(hook, a_cleared_mask_is_silent)
{
    weft_hook_set(&table, ALL);
    cr_assert_eq(weft_hook_mask(0, ALL), 0u);
    RUN(1, quiet_events);
    cr_assert_eq(blocked + inherited + started + run_starts, 0);
}
Test(hook, only_one_table)
{
    static const weft_hooks other = {.version = WEFT_HOOK_VERSION};
    static const weft_hooks wrong = {.version = 99};
    cr_assert_eq(weft_hook_set(&wrong, 0), -EINVAL);
    cr_assert_eq(weft_hook_set(NULL, 0), -EINVAL);
    cr_assert_eq(weft_hook_set(&table, 0), 0);
    cr_assert_eq(weft_hook_set(&table, ALL), 0);
    cr_assert_eq(weft_hook_set(&other, 0), -EBUSY);
}

Test(hook, every_reason_has_a_name)
{
    for (int i = 0; i < WEFT_WAIT_REASONS; i++)
        cr_assert_not_null(weft_hook_reason_name((weft_wait_reason)i));
    cr_assert_str_eq(weft_hook_reason_name(WEFT_WAIT_IO), "IO wait");
    cr_assert_str_eq(weft_hook_reason_name((weft_wait_reason)77), "waiting");
}

#if !defined(__SANITIZE_THREAD__) && defined(__x86_64__)
/* R47: a signal at any instruction of a switch storm finds the stack that its sp is on. Under gcc's
 * ThreadSanitizer signals are delivered late, at other points. */
static _Atomic(long) on_coro, on_sched, wrong;
static void on_tick(int sig, siginfo_t *info, void *context)
{
    (void)sig, (void)info;
    ucontext_t *uc = context;
    uintptr_t sp = (uintptr_t)uc->uc_mcontext.gregs[REG_RSP];
    weft_peek peek;
    weft_hook_peek(sp, &peek);
    if (peek.kind == WEFT_ON_CORO)
        on_coro++;
    else
        on_sched++;
    if (sp < peek.lo || sp >= peek.hi || (peek.kind == WEFT_ON_CORO) != (peek.id != 0))
        wrong++;
}
static _Atomic(int) stop;
static void storm(void *arg)
{
    (void)arg;
    while (!stop)
        weft_yield();
    weft_wg_done(arg);
}
BODY(storms)
{
    weft_wg left = WEFT_WG_INIT;
    pid_t tid = (pid_t)syscall(SYS_gettid); /* one P: mostly this worker */
    timer_t timer;
    struct sigevent ev = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGUSR1};
    ev._sigev_un._tid = tid;
    struct itimerspec every = {{0, 97000}, {0, 97000}};
    cr_assert_eq(timer_create(CLOCK_MONOTONIC, &ev, &timer), 0);
    weft_wg_add(&left, 4);
    for (int i = 0; i < 4; i++)
        weft_go(storm, &left);
    timer_settime(timer, 0, &every, NULL);
    for (int64_t end = weft_now() + 2000 * MS; weft_now() < end && on_coro < 3000;)
        weft_yield();
    timer_delete(timer);
    stop = 1;
    weft_wg_wait(&left);
    return 0;
}
Test(hook, peek_in_a_switch_storm, .timeout = 60)
{
    struct sigaction sa = {.sa_sigaction = on_tick,
                           .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART};
    sigaction(SIGUSR1, &sa, NULL);
    RUN(1, storms);
    cr_assert_gt(on_coro, 100);
    cr_assert_eq(wrong, 0);
}
#endif
