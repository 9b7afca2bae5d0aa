/* The model: interning, ids, refusals, the choice of a column. */
#include "tests/proto/make.h"

Test(profile, string_zero_is_empty)
{
    pb_profile *p = pb_profile_new();
    cr_assert_eq(p->nstrings, 1);
    cr_assert_str_eq(pb_str(p, 0), "");
    cr_assert_eq(pb_string(p, NULL), 0);
    cr_assert_eq(pb_string(p, ""), 0);
    cr_assert_eq(pb_string(p, "x"), 1);
    cr_assert_str_eq(pb_str(p, -1), "");
    cr_assert_str_eq(pb_str(p, 2), "");
    pb_profile_free(p);
    pb_profile_free(NULL);
}

Test(profile, equal_content_gives_the_same_id)
{
    pb_profile *p = make_profile();
    int64_t a = pb_string(p, "a"), f = pb_string(p, "f.c");
    uint64_t fn = pb_function_add(p, a, a, f, 3);
    cr_assert_eq(fn, 1);
    cr_assert_eq(pb_function_add(p, a, a, f, 3), 1);
    cr_assert_eq(pb_function_add(p, a, a, f, 4), 2);
    pb_line lines[2] = {{1, 10}, {2, 20}};
    cr_assert_eq(pb_location_add(p, 0, 0x10, lines, 2), 1);
    cr_assert_eq(pb_location_add(p, 0, 0x10, lines, 2), 1);
    cr_assert_eq(pb_location_add(p, 0, 0x10, lines, 1), 2);
    cr_assert_eq(pb_location_add(p, 0, 0x11, NULL, 0), 3);
    pb_profile_free(p);
}

Test(profile, mapping_flags_are_what_all_claim)
{
    pb_profile *p = make_profile();
    pb_mapping m = {.start = 1, .limit = 2, .has_functions = true, .has_filenames = true};
    cr_assert_eq(pb_mapping_add(p, &m), 1);
    m.has_filenames = false;
    cr_assert_eq(pb_mapping_add(p, &m), 1);
    cr_assert(p->mappings[0].has_functions && !p->mappings[0].has_filenames);
    m.offset = 4096;
    cr_assert_eq(pb_mapping_add(p, &m), 2);
    pb_profile_free(p);
}

Test(profile, samples_of_one_stack_and_label_set_meet)
{
    pb_profile *p = make_profile();
    uint64_t loc = make_loc(p, "f");
    pb_label two[2] = {{pb_string(p, "k"), pb_string(p, "v"), 0, 0}, {pb_string(p, "n"), 0, 5, 0}};
    pb_label turned[2] = {two[1], two[0]};
    int64_t one = 1, most = INT64_MAX;
    cr_assert_eq(pb_sample_add(p, &loc, 1, &one, two, 2), 0);
    cr_assert_eq(pb_sample_add(p, &loc, 1, &one, turned, 2), 0);
    cr_assert_eq(pb_sample_add(p, &loc, 1, &one, NULL, 0), 0);
    cr_assert_eq(p->nsamples, 2);
    cr_assert_eq(p->samples[0].values[0], 2);
    cr_assert_eq(pb_sample_add(p, &loc, 1, &most, NULL, 0), 0);
    cr_assert_eq(p->samples[1].values[0], INT64_MAX, "a sum must not wrap");
    pb_profile_free(p);
}

Test(profile, bad_references_are_refused)
{
    pb_profile *p = make_profile();
    uint64_t bad = 1, zero = 0;
    int64_t one = 1;
    pb_label label = {99, 0, 0, 0};
    pb_line line = {7, 0};
    pb_mapping m = {.file = 99};
    cr_assert_eq(pb_sample_add(p, &bad, 1, &one, NULL, 0), -EINVAL);
    cr_assert_eq(pb_sample_add(p, &zero, 1, &one, NULL, 0), -EINVAL);
    cr_assert_eq(pb_sample_add(p, NULL, 0, &one, &label, 1), -EINVAL);
    cr_assert_eq(pb_function_add(p, 99, 0, 0, 0), 0);
    cr_assert_eq(pb_function_add(p, 0, -1, 0, 0), 0);
    cr_assert_eq(pb_location_add(p, 1, 0, NULL, 0), 0);
    cr_assert_eq(pb_location_add(p, 0, 0, &line, 1), 0);
    cr_assert_eq(pb_mapping_add(p, &m), 0);
    cr_assert_eq(pb_sample_add(p, NULL, 0, &one, NULL, 0), 0);
    cr_assert_eq(pb_type_add(p, "late", "count"), -EINVAL);
    pb_profile_free(p);
}

Test(profile, a_profile_without_columns_takes_no_sample)
{
    pb_profile *p = pb_profile_new();
    int64_t one = 1;
    cr_assert_eq(pb_sample_add(p, NULL, 0, &one, NULL, 0), -EINVAL);
    cr_assert_eq(pb_sample_index(p, NULL), -EINVAL);
    cr_assert_eq(pb_sample_index(p, "0"), -EINVAL);
    pb_profile_free(p);
}

Test(profile, sample_index_means_what_pprof_means)
{
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "alloc_space", "bytes");
    pb_type_add(p, "space", "bytes");
    pb_type_add(p, "inuse_objects", "count");
    cr_assert_eq(pb_sample_index(p, NULL), 2, "the last when there is no default");
    cr_assert_eq(pb_sample_index(p, ""), 2);
    p->default_type = pb_string(p, "alloc_space");
    cr_assert_eq(pb_sample_index(p, NULL), 0);
    p->default_type = pb_string(p, "not a column");
    cr_assert_eq(pb_sample_index(p, NULL), 2);
    cr_assert_eq(pb_sample_index(p, "alloc_space"), 0);
    cr_assert_eq(pb_sample_index(p, "inuse_space"), 1, "inuse_x also finds x");
    cr_assert_eq(pb_sample_index(p, "inuse_objects"), 2);
    cr_assert_eq(pb_sample_index(p, "1"), 1);
    cr_assert_eq(pb_sample_index(p, "3"), -EINVAL);
    cr_assert_eq(pb_sample_index(p, "-1"), -EINVAL);
    cr_assert_eq(pb_sample_index(p, "99999999999999999999"), -EINVAL);
    cr_assert_eq(pb_sample_index(p, "nope"), -EINVAL);
    pb_profile_free(p);
}
