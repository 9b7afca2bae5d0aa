/* The thread-local block: its guard, and that each thread has its own. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>

Test(tls, the_guard_does_not_nest)
{
    cr_assert(pf_enter());
    cr_assert(!pf_enter());
    pf_leave();
    cr_assert(pf_enter());
    pf_leave();
    pf_tls.quiet = 1;
    cr_assert(!pf_enter()); /* a quiet thread is never inside */
    pf_tls.quiet = 0;
}

static void *look(void *other)
{
    bool own = &pf_tls != other && !pf_tls.in_hook && !pf_tls.lo && !pf_tls.tid;
    return (void *)(uintptr_t)own;
}

Test(tls, a_new_thread_starts_empty)
{
    pthread_t t;
    void *own;
    cr_assert(pf_enter());
    pthread_create(&t, NULL, look, &pf_tls);
    pthread_join(t, &own);
    pf_leave();
    cr_assert_not_null(own);
}

Test(tls, the_main_thread_is_registered_before_main)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    cr_assert_eq(pf_tls.tid, (int32_t)pf_syscall4(SYS_gettid, 0, 0, 0, 0));
    cr_assert(pf_tls.lo < here && here < pf_tls.hi);
}
