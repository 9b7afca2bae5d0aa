/* The one file that owns thread-local storage in runtime/.
 *
 * Invariants:
 *  1. Nothing here is inlined elsewhere but rt_m_self, which is volatile assembly: an address that
 *     was derived from the thread register never lives across a switch (R1).
 *  2. All variables are initial-exec: reading one never allocates, so signal handlers may.
 *
 * Rejected: returning the M from the switch alone. Callers several frames up would have to hand it
 * down after each call that may park; one load by volatile assembly costs under a nanosecond.
 */
#include "tls.h"
#include <errno.h>

#if defined(__clang__)
#define OPAQUE __attribute__((noinline))
#else
#define OPAQUE __attribute__((noipa))
#endif

__thread rt_m *rt_tls_m;
static __thread rt_g *thread_g;
static __thread rt_g *volatile pool_g;

OPAQUE void rt_m_set(rt_m *m)
{
    rt_tls_m = m;
}

OPAQUE rt_g *rt_thread_g(void)
{
    return thread_g;
}

OPAQUE void rt_thread_g_set(rt_g *g)
{
    thread_g = g;
}

OPAQUE rt_g *rt_pool_g(void)
{
    return pool_g;
}

OPAQUE void rt_pool_g_set(rt_g *g)
{
    pool_g = g;
}

OPAQUE int rt_errno_get(void)
{
    return errno;
}

OPAQUE void rt_errno_set(int value)
{
    errno = value;
}
