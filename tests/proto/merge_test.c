/* Sums and differences of profiles. */
#include "tests/proto/make.h"

static char *sum(const pb_profile *a, const pb_profile *b, int64_t scale)
{
    pb_profile *dst = pb_profile_new();
    cr_assert_eq(pb_merge(dst, a, 1), 0);
    cr_assert_eq(pb_merge(dst, b, scale), 0);
    char *text = make_folded(dst, 0);
    pb_profile_free(dst);
    return text;
}

Test(merge, stacks_meet_by_content)
{
    pb_profile *a = make_profile(), *b = make_profile();
    make_stack(a, "x", 1);
    make_stack(a, "m;f", 2);
    make_stack(b, "zz;yy", 9);
    make_stack(b, "m;f", 40);
    char *text = sum(a, b, 1);
    cr_assert_str_eq(text, "m;f 42\nx 1\nzz;yy 9\n");
    free(text);
    text = sum(b, a, -1);
    cr_assert_str_eq(text, "m;f 38\nzz;yy 9\n");
    free(text);
    pb_profile_free(a);
    pb_profile_free(b);
}

Test(merge, zero_samples_vanish_and_can_come_back)
{
    pb_profile *a = make_profile();
    make_stack(a, "m;f", 2);
    make_stack(a, "m;g", 3);
    pb_profile *d = pb_profile_new();
    cr_assert_eq(pb_merge(d, a, 1), 0);
    cr_assert_eq(pb_merge(d, a, -1), 0);
    cr_assert_eq(d->nsamples, 0);
    cr_assert_eq(pb_merge(d, a, 0), 0);
    cr_assert_eq(d->nsamples, 0);
    cr_assert_eq(pb_merge(d, a, 2), 0);
    cr_assert_eq(pb_merge(d, a, 2), 0);
    cr_assert_eq(d->nsamples, 2, "the index knows the samples that came back");
    cr_assert_eq(d->samples[0].values[0], 8);
    pb_profile_free(d);
    pb_profile_free(a);
}

Test(merge, labels_and_addresses_keep_samples_apart)
{
    pb_profile *a = make_profile(), *b = make_profile();
    int64_t one = 1;
    for (int i = 0; i < 2; i++) {
        pb_profile *p = i ? b : a;
        if (i)
            pb_string(p, "shifts all numbers");
        pb_mapping m = {0x1000, 0x2000, 0, pb_string(p, "/bin/x"), 0, 0, 0, 0, 0};
        uint64_t loc = pb_location_add(p, pb_mapping_add(p, &m), 0x1234, NULL, 0);
        pb_label label = {pb_string(p, "route"), pb_string(p, i ? "/b" : "/a"), 0, 0};
        pb_sample_add(p, &loc, 1, &one, &label, 1);
        pb_sample_add(p, &loc, 1, &one, NULL, 0);
    }
    cr_assert_eq(pb_merge(a, b, 1), 0);
    cr_assert_eq(a->nsamples, 3);
    cr_assert_eq(a->nlocations, 1);
    cr_assert_eq(a->nmappings, 1);
    cr_assert_eq(a->samples[1].values[0], 2);
    pb_profile_free(a);
    pb_profile_free(b);
}

Test(merge, other_columns_are_refused)
{
    pb_profile *a = make_profile(), *b = pb_profile_new(), *c = pb_profile_new();
    pb_type_add(b, "samples", "bytes");
    cr_assert_eq(pb_merge(a, b, 1), -EINVAL);
    pb_type_add(c, "samples", "count");
    pb_type_add(c, "more", "count");
    cr_assert_eq(pb_merge(a, c, 1), -EINVAL);
    cr_assert_eq(pb_merge(a, a, 1), -EINVAL);
    pb_profile_free(a);
    pb_profile_free(b);
    pb_profile_free(c);
}

Test(merge, the_first_gives_the_header)
{
    pb_profile *a = make_profile(), *d = pb_profile_new();
    a->period = 7;
    a->period_type = a->types[0];
    a->default_type = a->types[0].type;
    a->time_ns = 100;
    a->duration_ns = 10;
    pb_comment_add(a, "note");
    cr_assert_eq(pb_merge(d, a, 1), 0);
    a->time_ns = 50;
    cr_assert_eq(pb_merge(d, a, 1), 0);
    cr_assert_eq(d->period, 7);
    cr_assert_str_eq(pb_str(d, d->period_type.type), "samples");
    cr_assert_str_eq(pb_str(d, d->default_type), "samples");
    cr_assert_str_eq(pb_str(d, d->comments[0]), "note");
    cr_assert_eq(d->ncomments, 1);
    cr_assert_eq(d->time_ns, 50);
    cr_assert_eq(d->duration_ns, 20);
    cr_assert_eq(pb_merge(d, a, -1), 0);
    cr_assert_eq(d->duration_ns, 20);
    pb_profile_free(a);
    pb_profile_free(d);
}
