/* The thread's own M is read anew after each switch (R1): a coroutine that moves sees the new one,
 * at any optimisation the build has. */
#include "runtime/tls.h"
#include "tests/runtime/together.h"
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic(long) moved;
static void moves(void *arg)
{
    (void)arg;
    rt_m *before = rt_m_self();
    for (int i = 0; i < SCALE(20000); i++) {
        weft_yield();
        rt_m *m = rt_m_self();
        cr_assert_eq(m->tid, (int32_t)syscall(SYS_gettid));
        moved += m != before;
        before = m;
    }
}
BODY(all_move)
{
    weft_wg left = WEFT_WG_INIT;
    cr_assert_null(rt_pool_g());
    start(&left, 16, moves, NULL);
    join(&left);
    return 0;
}
Test(tls, the_worker_is_the_current_one, .timeout = 60)
{
    cr_assert_null(rt_m_self());
    RUN(4, all_move);
    cr_assert_gt(moved, 0, "no coroutine moved: the test saw nothing");
}
