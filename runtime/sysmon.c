/* The watcher: a plain thread that takes Ps back from long system calls, pokes Ps that have not
 * looked around for long, looks at descriptors when nobody does, trims stacks, and finds deadlocks.
 *
 * Invariants:
 *  1. It never touches the queue of a running P; it sets poke, wakes other Ps, or takes a P whose
 *     status is SYSCALL by CAS.
 *  2. It sleeps without a limit only when all Ps are idle and no deadlock is suspected; whoever
 *     takes the first idle P wakes it (rt_sysmon_wake).
 *
 * Rhythm as in Go: 20 us, doubled after 50 rounds without anything to do, at most 10 ms; at most
 * 1 ms while a P is idle, because then it is the net under the rule that a ready into an empty
 * runnext wakes nobody (sched.c).
 */
#include "tls.h"
#include <dirent.h>
#include <errno.h>
#include <string.h>

#define MIN_NS   20000
#define MAX_NS   10000000
#define NET_NS   1000000
#define TRIM_NS  1000000000
#define EAGER_NS 20000000
enum { IDLE_ROUNDS = 50 };

static _Atomic(uint32_t) asleep; /* futex: 1 while it sleeps without a limit */
static _Atomic(uint32_t) started;

void rt_sysmon_wake(void)
{
    if (atomic_exchange_explicit(&asleep, 0, memory_order_acq_rel)) /* partner: deep_sleep */
        rt_futex_wake(&asleep, 1);
}

/* One look at one P. True: something had to be done. */
static bool watch_p(rt_p *p, int64_t now)
{
    uint32_t status = load_acquire(&p->status); /* partner: rt_p_acquire, weft_syscall_enter */
    uint32_t tick = load_relaxed(&p->tick);
    if (status != RT_P_RUNNING && status != RT_P_SYSCALL)
        return false;
    if (tick != p->sys_seen) {
        p->sys_seen = tick;
        p->sys_when = now;
        return false;
    }
    int64_t same_ns = now - p->sys_when;
    if (status == RT_P_SYSCALL) {
        bool others = load_relaxed(&rt_sched.nidle) + load_relaxed(&rt_sched.nspinning) > 0;
        if (same_ns < MIN_NS || (rt_runq_empty(p) && others && same_ns < MAX_NS))
            return false;
        uint32_t expect = RT_P_SYSCALL;
        /* acq_rel: partner is the CAS in weft_syscall_exit; one of the two gets the P. */
        if (!atomic_compare_exchange_strong_explicit(&p->status, &expect, RT_P_IDLE,
                                                     memory_order_acq_rel, memory_order_relaxed))
            return false;
        rt_p_handoff(p);
        return true;
    }
    if (same_ns >= MAX_NS)
        store_relaxed(&p->poke, 1);
    return false;
}

/* Runnable work beside an idle P: what the wake rules left lying. */
static bool net(int64_t now, int64_t *eager_until)
{
    static uint32_t seen[RT_PROCS_MAX];
    bool lying = false;
    uint32_t n = load_acquire(&rt_sched.nalloc);
    if (load_relaxed(&rt_sched.nidle)) {
        for (uint32_t i = 0; i < n; i++) {
            rt_p *p = rt_sched.allp[i];
            uint32_t tick = load_relaxed(&p->tick);
            lying |=
                tick == seen[i] && !rt_runq_empty(p) && load_relaxed(&p->status) == RT_P_RUNNING;
            seen[i] = tick;
        }
        lying |= load_relaxed(&rt_sched.nrunq) > 0;
        lying |= rt_timers_next() < now - MAX_NS;
    }
    if (lying) {
        *eager_until = now + EAGER_NS;
        rt_wake_p();
    }
    store_relaxed(&rt_sched.eager, now < *eager_until);
    return lying;
}

static bool poll_if_nobody_does(int64_t now)
{
    if (!rt_poll_active() || !rt_poll_waiters() || load_relaxed(&rt_sched.poller) ||
        load_relaxed(&rt_sched.last_poll) + MAX_NS > now)
        return false;
    store_relaxed(&rt_sched.last_poll, now);
    rt_glist ready = {0};
    rt_poll_collect(0, &ready);
    if (!ready.n)
        return false;
    rt_ready_list(&ready);
    return true;
}

/* Timers whose P does not come to them: it is in a system call, runs a hog, or was retired with
 * timers left. What they ready goes to the global queue. */
static void overdue_timers(int64_t now)
{
    uint32_t n = load_acquire(&rt_sched.nalloc);
    for (uint32_t i = 0; i < n; i++) {
        rt_p *p = rt_sched.allp[i];
        if (load_relaxed(&p->timer_next) < now - NET_NS) {
            store_relaxed(&p->poke, 1);
            rt_timers_run(p, now);
        }
    }
}

/* ---- deadlock ---- */

static uint32_t threads_of_process(void)
{
    DIR *dir = opendir("/proc/self/task");
    if (!dir)
        return UINT32_MAX; /* unknown: then never a deadlock */
    uint32_t n = 0;
    for (struct dirent *e; (e = readdir(dir));)
        n += e->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* All asleep, and nothing inside Weft that could wake anybody. */
static bool stuck_inside(void)
{
    if (!load_relaxed(&rt_sched.running) || load_relaxed(&rt_sched.nout) ||
        load_relaxed(&rt_sched.nspinning) || load_relaxed(&rt_sched.nrunq) ||
        load_relaxed(&rt_sched.nsyscall) || rt_blocking_busy())
        return false;
    uint32_t n = load_acquire(&rt_sched.nalloc);
    for (uint32_t i = 0; i < n; i++)
        if (!rt_runq_empty(rt_sched.allp[i]))
            return false;
    return rt_timers_next() == INT64_MAX && !(rt_poll_active() && rt_poll_waiters());
}

/* The thread in weft_run is one that waits in a Weft call. */
static bool nobody_outside(void)
{
    uint32_t known = rt_threads_own() + rt_threads_waiting() + 1;
    return threads_of_process() <= known;
}

/* Looked at twice, 10 ms apart, with no switch between: a thread that is just starting or ending
 * makes the counts differ for a moment. */
static bool is_deadlock(void)
{
    uint64_t ticks[2];
    for (int look = 0; look < 2; look++) {
        if (!stuck_inside() || !nobody_outside() || !stuck_inside())
            return false;
        ticks[look] = load_relaxed(&rt_thread_wakes);
        uint32_t n = load_acquire(&rt_sched.nalloc);
        for (uint32_t i = 0; i < n; i++)
            ticks[look] += load_relaxed(&rt_sched.allp[i]->tick);
        if (look == 0)
            rt_futex_wait(&asleep, 0, MAX_NS);
    }
    return ticks[0] == ticks[1];
}

/* All Ps are idle. While a deadlock is possible but a foreign thread might still send, look again
 * now and then; else sleep until a P leaves idleness. */
static void deep_sleep(void)
{
    int64_t wait_ns = 100 * (int64_t)NET_NS;
    atomic_exchange_explicit(&asleep, 1, memory_order_acq_rel); /* partner: rt_sysmon_wake */
    while (load_relaxed(&asleep) && load_relaxed(&rt_sched.nout) == 0) {
        bool possible = stuck_inside();
        if (possible && nobody_outside()) {
            store_relaxed(&asleep, 0);
            if (is_deadlock())
                rt_crash_deadlock();
            atomic_exchange_explicit(&asleep, 1, memory_order_acq_rel);
            continue;
        }
        bool moving = load_relaxed(&rt_sched.nspinning) || load_relaxed(&rt_sched.nrunq);
        if (moving)
            rt_wake_p();
        rt_futex_wait(&asleep, 1, possible || moving ? wait_ns : -1);
        if (wait_ns < TRIM_NS)
            wait_ns *= 2;
    }
    store_relaxed(&asleep, 0);
}

static void sysmon_main(void *arg)
{
    (void)arg;
    int64_t sleep_ns = MIN_NS, eager_until = 0, trim_at = 0;
    uint32_t quiet_rounds = 0;
    const weft_hooks *hooks = rt_hook(WEFT_HOOK_THREAD);
    if (hooks) {
        uintptr_t lo, hi;
        rt_thread_bounds(&lo, &hi);
        hooks->thread_start(WEFT_THREAD_OWN, lo, hi);
    }
    _Atomic(uint32_t) never = 0;
    for (;;) {
        rt_futex_wait(&never, 0, sleep_ns);
        int64_t now = weft_now();
        store_relaxed(&rt_sched.coarse_ns, now);
        bool busy = poll_if_nobody_does(now);
        uint32_t n = load_acquire(&rt_sched.nalloc);
        for (uint32_t i = 0; i < n; i++)
            busy |= watch_p(rt_sched.allp[i], now);
        overdue_timers(now);
        busy |= net(now, &eager_until);
        if (now >= trim_at) {
            rt_stack_trim();
            trim_at = now + TRIM_NS;
        }
        if (load_relaxed(&rt_sched.nout) == 0) {
            rt_stack_trim(); /* the last ones; nobody will want a stack soon */
            deep_sleep();
            busy = true;
        }
        quiet_rounds = busy ? 0 : quiet_rounds + 1;
        sleep_ns = quiet_rounds < IDLE_ROUNDS ? MIN_NS : 2 * sleep_ns;
        int64_t limit = load_relaxed(&rt_sched.nidle) ? NET_NS : MAX_NS;
        if (sleep_ns > limit)
            sleep_ns = limit;
    }
}

int rt_sysmon_start(void)
{
    uint32_t no = 0;
    if (!atomic_compare_exchange_strong_explicit(&started, &no, 1, memory_order_relaxed,
                                                 memory_order_relaxed)) {
        rt_sysmon_wake();
        return 0;
    }
    int err = rt_thread_start(sysmon_main, NULL, 64 << 10, true);
    if (err)
        store_relaxed(&started, 0);
    return err;
}
