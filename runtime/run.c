/* The life of a program's coroutines: weft_run, weft_go.
 *
 * Invariants:
 *  1. rt_sched.epoch names the weft_run that a coroutine belongs to: the one that runs, or before
 *     it the next. It counts up when fn returns, so all others are abandoned at that moment.
 *  2. The first coroutine has id 1 in a process whose first coroutine it is.
 *
 * Locks: rt_sched.lock (rank 3) around the change of epoch.
 */
#include "tls.h"
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { MAIN_STACK = 8 << 20, FAILED = 125 };

struct main_call {
    int (*fn)(int, char **);
    int argc;
    char **argv;
    int result;
    _Atomic(uint32_t) done;
};

static _Atomic(uint32_t) in_run; /* a weft_run is between its start and its return */
static _Atomic(uint32_t) ended;  /* one has returned, and none runs */

static void abandon_all(void)
{
    rt_lock_acquire(&rt_sched.lock);
    store_relaxed(&rt_sched.running, 0);
    store_relaxed(&rt_sched.epoch, load_relaxed(&rt_sched.epoch) + 1);
    store_relaxed(&ended, 1);
    rt_lock_release(&rt_sched.lock);
    rt_poll_break();
}

static void main_coro(void *arg)
{
    struct main_call *call = arg;
    call->result = call->fn(call->argc, call->argv);
    abandon_all();
    store_release(&call->done, 1); /* partner: the acquire in weft_run; call may be gone then */
    rt_futex_wake(&call->done, 1);
}

static int fail(const char *why)
{
    fprintf(stderr, "weft: weft_run: %s\n", why);
    return FAILED;
}

/* Some worker lives, or is being started: sysmon may have seen the work first and hold the right to
 * wake (nspinning) while it makes the thread. False: none could be made. */
static bool start_worker(void)
{
    for (;;) {
        rt_wake_p();
        if (load_relaxed(&rt_sched.nm))
            return true;
        if (!load_acquire(&rt_sched.nspinning)) /* partner: findwork.c's stop_spinning */
            return load_relaxed(&rt_sched.nm);
        sched_yield();
    }
}

int weft_run(int (*fn)(int argc, char **argv), int argc, char **argv)
{
    rt_m *m = rt_m_self();
    uint32_t no = 0;
    if (!fn)
        return fail("no function");
    if (m || !atomic_compare_exchange_strong_explicit(&in_run, &no, 1, memory_order_acquire,
                                                      memory_order_relaxed))
        return fail("called while another weft_run is running");
    int err = rt_proc_start();
    if (err) {
        store_release(&in_run, 0);
        return fail(strerror(-err));
    }
    const weft_hooks *hooks = rt_hook(WEFT_HOOK_RUN);
    if (hooks)
        hooks->run_start();
    struct main_call call = {.fn = fn, .argc = argc, .argv = argv};
    weft_opts opts = WEFT_OPTS_INIT;
    opts.stack_bytes = MAIN_STACK;
    rt_g *g;
    store_relaxed(&ended, 0);
    err = rt_spawn(&opts, main_coro, &call, (uintptr_t)__builtin_return_address(0), &g);
    if (err) {
        store_release(&in_run, 0);
        return fail(strerror(-err));
    }
    store_relaxed(&rt_sched.coarse_ns, weft_now());
    rt_globq_put(g);
    store_relaxed(&rt_sched.running, 1);
    if (!start_worker()) {
        abandon_all();
        store_release(&in_run, 0);
        return fail("cannot start a thread");
    }
    while (!load_acquire(&call.done)) /* partner: the release in main_coro */
        rt_futex_wait(&call.done, 0, -1);
    store_release(&in_run, 0); /* partner: the acquire of the next weft_run */
    return call.result;
}

int weft_go_opts(const weft_opts *opts, void (*fn)(void *), void *arg)
{
    rt_m *m = rt_m_self();
    rt_g *g;
    if (load_relaxed(&ended) || (m && m->cur && m->cur->epoch != load_relaxed(&rt_sched.epoch)))
        return -ESHUTDOWN;
    int err = rt_spawn(opts, fn, arg, (uintptr_t)__builtin_return_address(0), &g);
    if (!err)
        rt_ready(g);
    return err;
}

int weft_go(void (*fn)(void *), void *arg)
{
    rt_m *m = rt_m_self();
    rt_g *g;
    if (load_relaxed(&ended) || (m && m->cur && m->cur->epoch != load_relaxed(&rt_sched.epoch)))
        return -ESHUTDOWN;
    int err = rt_spawn(NULL, fn, arg, (uintptr_t)__builtin_return_address(0), &g);
    if (!err)
        rt_ready(g);
    return err;
}

const char *weft_version(void)
{
    return WEFT_VERSION;
}
