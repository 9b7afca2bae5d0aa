/* The seam's push table and the signal-safe peek. weft_hook.h is the contract.
 *
 * Invariants:
 *  1. The table is set once and never changes or goes away; a probe is one relaxed load of the mask
 *     and a predicted branch. The mask is published after the table (release).
 *  2. weft_hook_peek reads only what its own thread writes: it interrupts that thread, so each
 *     field is before or after a store, never between. The stack pointer decides whose stack it is
 *     (sched.c, invariant 1).
 */
#include "switch.h"
#include "tls.h"
#include <errno.h>

_Atomic(uint32_t) rt_hook_mask;
const weft_hooks *rt_hook_table;
_Atomic(const weft_report *) rt_report;

int weft_hook_set(const weft_hooks *table, uint32_t mask)
{
    if (!table || table->version != WEFT_HOOK_VERSION)
        return -EINVAL;
    if (rt_hook_table && rt_hook_table != table)
        return -EBUSY;
    rt_hook_table = table;
    store_release(&rt_hook_mask, mask); /* partner: data dependency through rt_hook's branch */
    return 0;
}

uint32_t weft_hook_mask(uint32_t set, uint32_t clear)
{
    uint32_t old = load_relaxed(&rt_hook_mask);
    uint32_t next;
    do
        next = (old | set) & ~clear;
    while (!atomic_compare_exchange_weak_explicit(&rt_hook_mask, &old, next, memory_order_release,
                                                  memory_order_relaxed));
    return next;
}

void weft_hook_report_set(const weft_report *report)
{
    store_release(&rt_report, report); /* partner: the acquire in crash.c */
}

void **weft_hook_label_slot(void)
{
    rt_m *m = rt_m_self();
    if (m && m->cur)
        return &m->cur->labels;
    rt_g *g = rt_pool_g(); /* a blocking call is its coroutine's work */
    return g ? &g->labels : NULL;
}

static bool on_stack(const rt_g *g, uintptr_t sp)
{
    return g && sp >= g->stack.lo && sp < g->stack.hi;
}

static void peek_pool(rt_g *g, weft_peek *out)
{
    const void *sp = g->sp;
    out->kind = WEFT_ON_POOL;
    out->id = load_relaxed(&g->id);
    out->labels = g->labels;
    if (!sp)
        return;
    out->join.pc = rt_ctx_pc(sp);
    out->join.fp = rt_ctx_fp(sp);
    out->join.sp = rt_ctx_sp(sp);
    out->join.lo = g->stack.lo;
    out->join.hi = g->stack.hi;
}

void weft_hook_peek(uintptr_t sp, weft_peek *out)
{
    *out = (weft_peek){.kind = WEFT_ON_THREAD};
    rt_m *m = rt_m_self();
    if (!m) {
        rt_g *g = rt_pool_g();
        if (g)
            peek_pool(g, out);
        return;
    }
    rt_g *cur = m->cur, *prev = m->prev;
    rt_g *g = on_stack(cur, sp) ? cur : on_stack(prev, sp) ? prev : NULL;
    if (g) {
        out->kind = WEFT_ON_CORO;
        out->id = load_relaxed(&g->id);
        out->labels = g->labels;
        out->lo = g->stack.lo;
        out->hi = g->stack.hi;
        return;
    }
    out->kind = WEFT_ON_SCHED;
    if (sp >= m->g0_lo && sp < m->g0_hi) {
        out->lo = m->g0_lo;
        out->hi = m->g0_hi;
    }
}

const char *weft_hook_reason_name(weft_wait_reason why)
{
    static const char *const names[WEFT_WAIT_REASONS] = {
        [WEFT_WAIT_NONE] = "waiting",
        [WEFT_WAIT_CHAN_RECV] = "chan receive",
        [WEFT_WAIT_CHAN_SEND] = "chan send",
        [WEFT_WAIT_SELECT] = "select",
        [WEFT_WAIT_SELECT_NO_CASES] = "select (no cases)",
        [WEFT_WAIT_SLEEP] = "sleep",
        [WEFT_WAIT_IO] = "IO wait",
        [WEFT_WAIT_MUTEX] = "sync.Mutex.Lock",
        [WEFT_WAIT_WG] = "sync.WaitGroup.Wait",
        [WEFT_WAIT_ONCE] = "sync.Once.Do",
        [WEFT_WAIT_BLOCKING] = "blocking call",
    };
    return (unsigned)why < WEFT_WAIT_REASONS ? names[why] : "waiting";
}
