/* weft collapse, end to end. */
#include "tests/tools/run.h"

Test(weft_collapse, keeps_every_value, .fini = run_clean)
{
    pb_profile *p = make_profile();
    int64_t five = 5;
    make_stack(p, "main;run;hash", 7);
    make_stack(p, "main;run", 2);
    make_stack(p, "main;none", 0);
    pb_sample_add(p, NULL, 0, &five, NULL, 0);
    run_result r = run_weft(NULL, "collapse", run_profile(p, "p.pb.gz"), NULL);
    cr_assert_eq(r.status, 0);
    cr_assert_str_eq(r.out, "[no stack] 5\nmain;run 2\nmain;run;hash 7\n");
    pb_profile_free(p);
}

Test(weft_collapse, an_idle_profile_is_no_error, .fini = run_clean)
{
    pb_profile *p = make_profile();
    run_result r = run_weft(NULL, "collapse", run_profile(p, "p.pb.gz"), NULL);
    cr_assert_eq(r.status, 0);
    cr_assert_str_eq(r.out, "");
    cr_assert_str_eq(r.err, "");
    pb_profile_free(p);
}
