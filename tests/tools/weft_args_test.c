/* Flags: every spelling people use, and refusals that name the flag. */
#include "tests/tools/run.h"

static char *two_columns(void)
{
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "samples", "count");
    pb_type_add(p, "cpu", "nanoseconds");
    uint64_t loc = make_loc(p, "main");
    int64_t v[2] = {3, 30};
    pb_sample_add(p, &loc, 1, v, NULL, 0);
    char *path = run_profile(p, "two.pb.gz");
    pb_profile_free(p);
    return path;
}

Test(weft_args, every_spelling_of_sample_index, .fini = run_clean)
{
    char *p = two_columns();
    cr_assert_str_eq(run_weft(NULL, "collapse", p, NULL).out, "main 30\n");
    cr_assert_str_eq(run_weft(NULL, "collapse", "-sample_index=samples", p, NULL).out, "main 3\n");
    cr_assert_str_eq(run_weft(NULL, "collapse", p, "--sample_index=0", NULL).out, "main 3\n");
    cr_assert_str_eq(run_weft(NULL, "collapse", "-sample_index", "samples", p, NULL).out,
                     "main 3\n");
    cr_assert_str_eq(run_weft(NULL, "collapse", "--sample_index", "1", "--", p, NULL).out,
                     "main 30\n");
}

Test(weft_args, a_missing_column_lists_the_others, .fini = run_clean)
{
    char *p = two_columns();
    run_expect_error(run_weft(NULL, "top", "-sample_index=heap", p, NULL), 1,
                     "no sample_index \"heap\"; it has: samples cpu");
    run_expect_error(run_weft(NULL, "top", "-sample_index=2", p, NULL), 1, "it has: samples cpu");
    run_expect_error(run_weft(NULL, "top", "-inuse_space", p, NULL), 1, "inuse_space");
}

Test(weft_args, shortcuts_choose_a_column, .fini = run_clean)
{
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "alloc_space", "bytes");
    pb_type_add(p, "delay", "nanoseconds");
    uint64_t loc = make_loc(p, "main");
    int64_t v[2] = {4, 50};
    pb_sample_add(p, &loc, 1, v, NULL, 0);
    char *path = run_profile(p, "x.pb.gz");
    cr_assert_str_eq(run_weft(NULL, "collapse", "-alloc_space", path, NULL).out, "main 4\n");
    cr_assert_str_eq(run_weft(NULL, "collapse", "--total_delay", path, NULL).out, "main 50\n");
    pb_profile_free(p);
}

Test(weft_args, refusals_name_the_word, .fini = run_clean)
{
    char *p = two_columns();
    run_expect_error(run_weft(NULL, "top", "--frobnicate", p, NULL), 2,
                     "--frobnicate: unknown flag");
    run_expect_error(run_weft(NULL, "collapse", "-n", "3", p, NULL), 2, "-n: unknown flag");
    run_expect_error(run_weft(NULL, "top", "--cum=yes", p, NULL), 2, "--cum=yes");
    run_expect_error(run_weft(NULL, "top", p, "-n", NULL), 2, "-n: needs a value");
    run_expect_error(run_weft(NULL, "top", p, "-n", "many", NULL), 2, "\"many\" is not a number");
    run_expect_error(run_weft(NULL, "top", p, "-n", "-1", NULL), 2, "\"-1\" is not a number");
    run_expect_error(run_weft(NULL, "top", p, "--seconds=0", NULL), 2, "\"0\" is not a number");
    run_expect_error(run_weft(NULL, "top", p, "second", NULL), 2, "second: one profile is enough");
    run_expect_error(run_weft(NULL, "top", NULL), 2, "which profile?");
    run_expect_error(run_weft(NULL, "top", "", NULL), 2, "which profile?");
    run_expect_error(run_weft(NULL, "flame", "---", p, NULL), 2, "---: unknown flag");
}
