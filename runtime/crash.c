/* Reports of a program that cannot go on: the deadlock report with every coroutine's stack.
 *
 * Invariants:
 *  1. Nothing here allocates or takes a lock that the program may hold; output is by write(2).
 *  2. The walk follows frame pointers and stays inside the coroutine's own stack.
 *
 * Names are module+0xoffset; a profiler that is linked fills weft_hook.h's report slot with a
 * better walk and with symbol names.
 */
#include "rt.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { DEPTH = 64 };

__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    char line[512];
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line, sizeof line, format, args);
    va_end(args);
    if (n > (int)sizeof line - 1)
        n = sizeof line - 1;
    ssize_t ignored = write(2, line, (size_t)n);
    (void)ignored;
}

static int walk_frames(const weft_coro *c, uintptr_t *pcs, int max)
{
    const weft_report *report = load_acquire(&rt_report); /* partner: weft_hook_report_set */
    if (report && report->walk)
        return report->walk(c->pc, c->sp, c->fp, c->lo, c->hi, pcs, max);
    int n = 0;
    uintptr_t fp = c->fp, low = c->sp;
    if (max > 0)
        pcs[n++] = c->pc;
    while (n < max && fp >= low && fp + 2 * sizeof fp <= c->hi && fp % sizeof fp == 0) {
        const uintptr_t *frame = (const uintptr_t *)fp;
        if (!frame[1])
            break;
        pcs[n++] = frame[1];
        low = fp + 2 * sizeof fp;
        fp = frame[0];
    }
    return n;
}

static void say_pc(uintptr_t pc)
{
    char name[256];
    const weft_report *report = load_acquire(&rt_report);
    int have = report && report->name ? report->name(pc - 1, name, sizeof name) : 0;
    Dl_info info;
    if (dladdr((void *)(pc - 1), &info) && info.dli_fname)
        say("\t%s%s%s+0x%lx%s\n", have ? name : "", have ? " (" : "", info.dli_fname,
            (unsigned long)(pc - 1 - (uintptr_t)info.dli_fbase), have ? ")" : "");
    else
        say("\t%s 0x%lx\n", have ? name : "?", (unsigned long)(pc - 1));
}

static int say_coro(const weft_coro *c, void *arg)
{
    (void)arg;
    static const char *const states[] = {"?", "runnable", "running", "waiting", "syscall"};
    say("\ncoroutine %llu [%s]%s%s:\n", (unsigned long long)c->id,
        c->state == WEFT_CORO_WAITING ? weft_hook_reason_name(c->reason) : states[c->state],
        c->name[0] ? " " : "", c->name);
    uintptr_t pcs[DEPTH];
    int n = c->lo ? walk_frames(c, pcs, DEPTH) : 0;
    for (int i = 0; i < n; i++)
        say_pc(pcs[i]);
    say("created by coroutine %llu at\n", (unsigned long long)c->creator_id);
    say_pc(c->creator_pc);
    return 0;
}

_Atomic(uint64_t) rt_thread_wakes;

uint32_t rt_threads_waiting(void)
{
    uint32_t waiting = 0, n = rt_g_count();
    for (uint32_t i = 0; i < n; i++) {
        rt_g *g = rt_g_at(i);
        waiting += load_relaxed(&g->kind) == RT_KIND_THREAD &&
                   load_acquire(&g->state) == RT_WAITING; /* partner: wait_thread */
    }
    return waiting;
}

/* WEFT_DEBUG=deadlock=stay prints and lets the process hang, for a debugger. */
void rt_crash_deadlock(void)
{
    static _Atomic(uint32_t) said;
    if (atomic_exchange_explicit(&said, 1, memory_order_relaxed)) {
        usleep(100000);
        return;
    }
    say("fatal error: all coroutines are asleep - deadlock!\n");
    weft_hook_coros(say_coro, NULL);
    const char *debug = getenv("WEFT_DEBUG");
    if (!debug || !strstr(debug, "deadlock=stay"))
        _exit(2);
}
