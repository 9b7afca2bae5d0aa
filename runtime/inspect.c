/* The seam's pull iterator: looks at every coroutine, holding those that do not run.
 *
 * Invariants:
 *  1. To hold a G: pin = 1, then a full barrier on all threads of the process (membarrier), then
 *     read state. rt_prepare stores RUNNING, then reads pin, with a compiler fence only. So either
 *     we see RUNNING and leave it alone, or the M sees the pin and waits. The barrier is paid here,
 *     once per batch, and not at each switch.
 *  2. A pinned G's context, stack and labels stand still: nobody but itself changes them.
 *  3. At most BATCH coroutines are held at a time, for the time of that many visits.
 *
 * Rejected: a compare-and-swap of the state at each switch (+6 ns of a 20 ns yield), stopping all
 * Ms (the longest stop is then the sum, not the one).
 */
#include "switch.h"
#include "tls.h"
#include <linux/membarrier.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { BATCH = 32 };

static _Atomic(uint32_t) registered;

/* A barrier on every running thread of the process. Without the private expedited command (before
 * Linux 4.14, or under a strict filter) the global one, which waits for a scheduler tick. */
static void barrier_all(void)
{
    if (!load_relaxed(&registered)) {
        long r = syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
        store_relaxed(&registered, r == 0 ? 1 : 2);
    }
    if (load_relaxed(&registered) == 1 &&
        syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) == 0)
        return;
    if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0)
        return;
    /* No membarrier at all: give running Ms time to drain their store buffers; they do within
     * microseconds, and any switch of context does. */
    usleep(1000);
}

static void describe(rt_g *g, uint32_t state, weft_coro *c)
{
    c->id = load_relaxed(&g->id);
    c->creator_id = g->creator_id;
    c->fn = (uintptr_t)g->fn;
    c->creator_pc = g->creator_pc;
    c->name = g->name;
    c->since_ns = load_relaxed(&g->since);
    c->pinned = g->flags & WEFT_PINNED;
    c->tid = load_relaxed(&g->tid);
    if (state == RT_RUNNING) { /* its labels are its own to change while we look */
        c->state = WEFT_CORO_RUNNING;
        return;
    }
    if (state == RT_SYSCALL) {
        c->state = WEFT_CORO_SYSCALL;
        c->pc = g->sys_pc;
        c->sp = g->sys_sp;
        c->fp = g->sys_fp;
        c->lo = g->stack.lo;
        c->hi = g->stack.hi;
        return;
    }
    c->state = state == RT_WAITING ? WEFT_CORO_WAITING : WEFT_CORO_RUNNABLE;
    c->reason = state == RT_WAITING ? (weft_wait_reason)g->why : WEFT_WAIT_NONE;
    c->wait_obj = g->wait_obj;
    c->labels = g->labels;
    if (c->reason != WEFT_WAIT_BLOCKING)
        c->tid = 0;
    c->pc = (uintptr_t)g->fn;
    if (!g->started)
        return;
    c->pc = rt_ctx_pc(g->sp);
    c->fp = rt_ctx_fp(g->sp);
    c->sp = rt_ctx_sp(g->sp);
    c->lo = g->stack.lo;
    c->hi = g->stack.hi;
}

static bool is_live(rt_g *g)
{
    return load_relaxed(&g->kind) == RT_KIND_CORO && load_acquire(&g->id) && /* partner: rt_g_new */
           load_relaxed(&g->state) != RT_FREE && g->epoch == load_relaxed(&rt_sched.epoch);
}

static int visit_batch(rt_g **batch, uint32_t n, weft_coro_fn visit, void *arg)
{
    int r = 0;
    for (uint32_t i = 0; i < n; i++)
        atomic_fetch_add_explicit(&batch[i]->pin, 1, memory_order_relaxed);
    barrier_all();
    for (uint32_t i = 0; i < n; i++) {
        rt_g *g = batch[i];
        uint32_t state = load_acquire(&g->state); /* partner: the commits' release */
        bool held = state == RT_WAITING || state == RT_RUNNABLE || state == RT_SYSCALL;
        if (!held)
            atomic_fetch_sub_explicit(&g->pin, 1, memory_order_release);
        weft_coro c = {0};
        if (r == 0 && state != RT_FREE && is_live(g)) {
            describe(g, state, &c);
            if (c.id)
                r = visit(&c, arg);
        }
        if (held)
            atomic_fetch_sub_explicit(
                &g->pin, 1, memory_order_release); /* partner: the acquire in rt_prepare */
    }
    return r;
}

int weft_hook_coros(weft_coro_fn visit, void *arg)
{
    rt_g *batch[BATCH];
    uint32_t n = 0, all = rt_g_count();
    for (uint32_t i = 0; i < all; i++) {
        rt_g *g = rt_g_at(i);
        if (!is_live(g))
            continue;
        batch[n++] = g;
        if (n == BATCH) {
            int r = visit_batch(batch, n, visit, arg);
            if (r)
                return r;
            n = 0;
        }
    }
    return n ? visit_batch(batch, n, visit, arg) : 0;
}

size_t weft_hook_coro_count(void)
{
    return rt_g_live();
}
