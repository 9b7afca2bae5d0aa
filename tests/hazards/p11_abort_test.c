/* H11: a program that dies while it is sampled dies of what killed it, at once. */
#include "tests/profiler/collect/collect_check.h"
#include <signal.h>
#include <stdlib.h>

Test(p11, abort_while_sampling, .signal = SIGABRT, .timeout = 30)
{
    cr_assert_eq(pf_cpu_start(1000), 0);
    check_burn(50000000);
    abort();
}
