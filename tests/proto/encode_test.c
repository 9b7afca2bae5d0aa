/* What is written: ids in order, packed lists, gzip, valid text. */
#include "proto/profile.pb-c.h"
#include "tests/proto/make.h"

#include <zlib.h>

static Weft__Pb__Profile *encode_raw(const pb_profile *p)
{
    void *buf;
    size_t n;
    cr_assert_eq(pb_encode(p, -1, &buf, &n), 0);
    Weft__Pb__Profile *m = weft__pb__profile__unpack(NULL, n, buf);
    cr_assert_not_null(m);
    free(buf);
    return m;
}

static pb_profile *full(void)
{
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "samples", "count");
    pb_type_add(p, "cpu", "nanoseconds");
    pb_mapping m = {0x1000, 0x2000, 64, pb_string(p, "/bin/x"), pb_string(p, "abcd"), 1, 1, 1, 1};
    pb_mapping_add(p, &m);
    int64_t a = pb_string(p, "a"), b = pb_string(p, "b"), file = pb_string(p, "x.c");
    pb_line lines[2] = {{pb_function_add(p, a, a, file, 1), 10},
                        {pb_function_add(p, b, b, file, 2), 20}};
    uint64_t locs[2] = {pb_location_add(p, 1, 0x1010, lines, 2),
                        pb_location_add(p, 1, 0x1020, lines + 1, 1)};
    int64_t values[2] = {3, 30000000};
    pb_label label = {pb_string(p, "route"), pb_string(p, "/hash"), 0, 0};
    pb_sample_add(p, locs, 2, values, &label, 1);
    p->period = 10000000;
    p->period_type = p->types[1];
    p->time_ns = 5;
    p->duration_ns = 6;
    p->default_type = pb_string(p, "samples");
    pb_comment_add(p, "made by a test");
    return p;
}

Test(encode, everything_is_there_in_order)
{
    pb_profile *p = full();
    Weft__Pb__Profile *m = encode_raw(p);
    cr_assert_str_eq(m->string_table[0], "");
    cr_assert_eq(m->n_string_table, p->nstrings);
    cr_assert_eq(m->n_sample_type, 2);
    cr_assert_eq(m->mapping[0]->id, 1);
    cr_assert(m->mapping[0]->has_functions && m->mapping[0]->has_inline_frames);
    cr_assert_str_eq(m->string_table[m->mapping[0]->build_id], "abcd");
    for (size_t i = 0; i < m->n_location; i++)
        cr_assert_eq(m->location[i]->id, i + 1);
    for (size_t i = 0; i < m->n_function; i++)
        cr_assert_eq(m->function[i]->id, i + 1);
    cr_assert_eq(m->location[0]->n_line, 2);
    cr_assert_eq(m->location[0]->line[1]->line, 20);
    cr_assert_eq(m->sample[0]->location_id[0], 1);
    cr_assert_eq(m->sample[0]->value[1], 30000000);
    cr_assert_str_eq(m->string_table[m->sample[0]->label[0]->str], "/hash");
    cr_assert_eq(m->period, 10000000);
    cr_assert_str_eq(m->string_table[m->period_type->unit], "nanoseconds");
    cr_assert_eq(m->time_nanos, 5);
    cr_assert_eq(m->duration_nanos, 6);
    cr_assert_str_eq(m->string_table[m->default_sample_type], "samples");
    cr_assert_str_eq(m->string_table[m->comment[0]], "made by a test");
    weft__pb__profile__free_unpacked(m, NULL);
    pb_profile_free(p);
}

Test(encode, lists_of_numbers_are_packed)
{
    pb_profile *p = make_profile();
    make_stack(p, "a;b;c", 1);
    void *buf;
    size_t n;
    cr_assert_eq(pb_encode(p, -1, &buf, &n), 0);
    /* Field 2 of the profile: a sample of 8 bytes, whose first field is the packed ids 3 2 1. */
    const unsigned char sample[] = {0x12, 8, 0x0a, 3, 3, 2, 1, 0x12, 1, 1};
    cr_assert_not_null(memmem(buf, n, sample, sizeof sample));
    free(buf);
    pb_profile_free(p);
}

Test(encode, gzip_is_a_whole_member_without_a_time)
{
    pb_profile *p = full();
    for (int level = 0; level <= 9; level++) {
        void *buf;
        size_t n;
        cr_assert_eq(pb_encode(p, level, &buf, &n), 0);
        const unsigned char *b = buf;
        cr_assert(n > 18 && b[0] == 0x1f && b[1] == 0x8b && b[2] == 8);
        cr_assert(memcmp(b + 4, "\0\0\0", 4) == 0);
        free(buf);
    }
    void *buf;
    size_t n;
    cr_assert_eq(pb_encode(p, 10, &buf, &n), -EINVAL);
    cr_assert_null(buf);
    pb_profile_free(p);
}

Test(encode, text_is_valid_utf8)
{
    pb_profile *p = make_profile();
    make_stack(p, "ok \303\244;bad \377\300\200;cut \342\202", 1);
    Weft__Pb__Profile *m = encode_raw(p);
    bool seen = false;
    for (size_t i = 0; i < m->n_string_table; i++) {
        cr_assert_null(strpbrk(m->string_table[i], "\377\300"));
        seen = seen || strcmp(m->string_table[i], "bad \357\277\275\357\277\275\357\277\275") == 0;
    }
    cr_assert(seen);
    cr_assert_not_null(strchr(pb_str(p, p->functions[1].name), '\377'), "the model is not changed");
    weft__pb__profile__free_unpacked(m, NULL);
    pb_profile_free(p);
}

Test(encode, labels_without_a_key_are_left_out)
{
    pb_profile *p = make_profile();
    int64_t one = 1;
    pb_label labels[2] = {{0, pb_string(p, "v"), 0, 0}, {pb_string(p, "k"), 0, 7, 0}};
    cr_assert_eq(pb_sample_add(p, NULL, 0, &one, labels, 2), 0);
    Weft__Pb__Profile *m = encode_raw(p);
    cr_assert_eq(m->sample[0]->n_label, 1);
    cr_assert_eq(m->sample[0]->label[0]->num, 7);
    weft__pb__profile__free_unpacked(m, NULL);
    pb_profile_free(p);
}

Test(encode, an_empty_profile_can_be_read_again)
{
    pb_profile *p = make_profile(), *back;
    char err[128] = "";
    void *buf;
    size_t n;
    cr_assert_eq(pb_encode(p, 0, &buf, &n), 0);
    cr_assert_eq(pb_decode(buf, n, &back, err, sizeof err), 0, "%s", err);
    cr_assert_eq(back->nsamples, 0);
    cr_assert_eq(back->ntypes, 1);
    free(buf);
    pb_profile_free(back);
    pb_profile_free(p);
}
