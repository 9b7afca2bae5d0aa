/* Thread-local state of the runtime: the one header that touches the thread register; see tls.c. */
#ifndef WEFT_TLS_H
#define WEFT_TLS_H

#include "rt.h"

extern RT_HIDDEN __thread rt_m *rt_tls_m __attribute__((tls_model("initial-exec")));

/* The worker that runs the caller, NULL on other threads. The load is volatile assembly, so no
 * compiler can keep the value, or the thread pointer, from before a switch (R1). */
static inline rt_m *rt_m_self(void)
{
    rt_m *m;
#if defined(__x86_64__)
    __asm__ volatile("movq rt_tls_m@gottpoff(%%rip), %0\n\tmovq %%fs:(%0), %0" : "=r"(m));
#elif defined(__aarch64__)
    uintptr_t off;
    __asm__ volatile("mrs %0, tpidr_el0\n\tadrp %1, :gottprel:rt_tls_m\n\t"
                     "ldr %1, [%1, #:gottprel_lo12:rt_tls_m]\n\tldr %0, [%0, %1]"
                     : "=&r"(m), "=&r"(off));
#else
#error "Weft runs on x86-64 and aarch64"
#endif
    return m;
}

RT_HIDDEN void rt_m_set(rt_m *m);
/* The plain thread's own G record, NULL until its first wait; and the coroutine for which a pool
 * thread works, NULL on others. */
RT_HIDDEN rt_g *rt_thread_g(void);
RT_HIDDEN void rt_thread_g_set(rt_g *g);
RT_HIDDEN rt_g *rt_pool_g(void);
RT_HIDDEN void rt_pool_g_set(rt_g *g);
/* errno through calls that no compiler can merge: __errno_location is declared const, so a plain
 * `errno` after a switch may still be the old thread's (R1). */
RT_HIDDEN int rt_errno_get(void);
RT_HIDDEN void rt_errno_set(int value);

#endif
