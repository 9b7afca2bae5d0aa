/* weft top: the layout and the figures of `go tool pprof -top`. */
#include "tests/tools/run.h"

#include <time.h>

static pb_profile *cpu(void)
{
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "cpu", "nanoseconds");
    p->duration_ns = 1500000000;
    p->time_ns = 1700000000000000000;
    pb_mapping m = {0x1000, 0x2000, 0, pb_string(p, "/opt/demo"), pb_string(p, "ab12"), 0, 0, 0, 0};
    pb_mapping_add(p, &m);
    make_stack(p, "main;run;hash", 540000000);
    make_stack(p, "main;run", 60000000);
    make_stack(p, "main;fib;fib;fib", 200000000);
    make_stack(p, "main;rare", 1000000);
    return p;
}

Test(weft_top, table, .fini = run_clean)
{
    pb_profile *p = cpu();
    char *path = run_profile(p, "p.pb.gz");
    setenv("TZ", "UTC", 1);
    run_result r = run_weft(NULL, "top", path, NULL);
    cr_assert_str_eq(r.err, "");
    cr_assert_str_eq(r.out, "File: demo\n"
                            "Build ID: ab12\n"
                            "Type: cpu\n"
                            "Time: 2023-11-14 22:13:20 UTC\n"
                            "Duration: 1.50s, Total samples = 801ms (53.40%)\n"
                            "Showing nodes accounting for 800ms, 99.88% of 801ms total\n"
                            "Dropped 1 node (cum <= 4ms)\n"
                            "      flat  flat%   sum%        cum   cum%\n"
                            "     540ms 67.42% 67.42%      540ms 67.42%  hash\n"
                            "     200ms 24.97% 92.38%      200ms 24.97%  fib\n"
                            "      60ms  7.49% 99.88%      600ms 74.91%  run\n"
                            "         0     0% 99.88%      801ms   100%  main\n");
    pb_profile_free(p);
}

Test(weft_top, rows_and_order_can_be_chosen, .fini = run_clean)
{
    pb_profile *p = cpu();
    char *path = run_profile(p, "p.pb.gz");
    run_result r = run_weft(NULL, "top", "--cum", "-n", "2", path, NULL);
    cr_assert_not_null(strstr(r.out, "Showing top 2 nodes out of 4\n"));
    const char *rows = strstr(r.out, "cum%\n");
    cr_assert_not_null(strstr(rows, "main\n"));
    cr_assert_gt(strstr(rows, "run\n") - rows, strstr(rows, "main\n") - rows);
    cr_assert_null(strstr(rows, "hash"));
    r = run_weft(NULL, "top", "-n=0", path, NULL);
    cr_assert_null(strstr(r.out, "Showing top"));
    pb_profile_free(p);
}

Test(weft_top, differences_have_shares_of_what_moved, .fini = run_clean)
{
    pb_profile *p = make_profile();
    make_stack(p, "main;grew", 30);
    make_stack(p, "main;shrank", -10);
    run_result r = run_weft(NULL, "top", run_profile(p, "p.pb.gz"), NULL);
    cr_assert_not_null(strstr(r.out, "        30 75.00% 75.00%         30 75.00%  grew\n"));
    cr_assert_not_null(strstr(r.out, "       -10 25.00% 50.00%        -10 25.00%  shrank\n"));
    cr_assert_not_null(strstr(r.out, "         0     0% 50.00%         20 50.00%  main\n"));
    pb_profile_free(p);
}

Test(weft_top, inlined_names_are_marked, .fini = run_clean)
{
    pb_profile *p = make_profile();
    int64_t in = pb_string(p, "in"), both = pb_string(p, "both"), out = pb_string(p, "out"), v = 4;
    pb_line lines[3] = {{pb_function_add(p, in, in, 0, 0), 0},
                        {pb_function_add(p, both, both, 0, 0), 0},
                        {pb_function_add(p, out, out, 0, 0), 0}};
    uint64_t locs[2] = {pb_location_add(p, 0, 1, lines, 3), pb_location_add(p, 0, 2, lines + 2, 1)};
    uint64_t other[2] = {pb_location_add(p, 0, 3, lines + 1, 1), locs[1]};
    pb_sample_add(p, locs, 1, &v, NULL, 0);
    pb_sample_add(p, other, 2, &v, NULL, 0);
    run_result r = run_weft(NULL, "top", run_profile(p, "p.pb.gz"), NULL);
    cr_assert_not_null(strstr(r.out, "  in (inline)\n"), "%s", r.out);
    cr_assert_not_null(strstr(r.out, "  both (partial-inline)\n"), "%s", r.out);
    cr_assert_not_null(strstr(r.out, "  out\n"), "%s", r.out);
    pb_profile_free(p);
}

Test(weft_top, foreign_text_cannot_move_the_cursor, .fini = run_clean)
{
    pb_profile *p = make_profile();
    make_stack(p, "a\033[2Jb\nc", 4);
    pb_comment_add(p, "x\033]0;title\007\ny");
    run_result r = run_weft(NULL, "top", run_profile(p, "p.pb.gz"), NULL);
    cr_assert_null(strchr(r.out, '\033'));
    cr_assert_not_null(strstr(r.out, "  a [2Jb c\n"));
    cr_assert_not_null(strstr(r.out, "\nType") ? r.out : NULL);
    pb_profile_free(p);
}
