/* H35: the user's limit of queued signals is used up: no timer can be made. Start says so. */
#include "tests/profiler/collect/collect_check.h"
#include <errno.h>
#include <sys/resource.h>

Test(p35, no_room_for_timers)
{
    pf_raw raw;
    struct rlimit none = {0, 0};
    cr_assert_eq(setrlimit(RLIMIT_SIGPENDING, &none), 0);
    cr_assert_eq(pf_cpu_start(100), -EAGAIN);
    cr_assert_eq(pf_cpu_stop(&raw), -ENOENT);
}
