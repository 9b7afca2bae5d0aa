/* Reading: what pprof accepts is accepted, anything else is one clear line. */
#include "proto/profile.pb-c.h"
#include "tests/proto/make.h"

#include <zlib.h>

static pb_profile *sample_profile(void)
{
    pb_profile *p = make_profile();
    make_stack(p, "main;run;hash", 5);
    make_stack(p, "main;run", 2);
    return p;
}

static int decode(const void *buf, size_t n, pb_profile **out, char err[200])
{
    void *copy = malloc(n ? n : 1);
    memcpy(copy, buf, n);
    err[0] = '\0';
    int rc = pb_decode(copy, n, out, err, 200);
    free(copy);
    if (rc) {
        cr_assert_null(*out);
        cr_assert_gt(strlen(err), 0);
        cr_assert_null(strchr(err, '\n'));
    }
    return rc;
}

/* Packs a hand-made message and decodes it. */
static int decode_message(const Weft__Pb__Profile *m, pb_profile **out, char err[200])
{
    size_t n = weft__pb__profile__get_packed_size(m);
    uint8_t *buf = malloc(n);
    weft__pb__profile__pack(m, buf);
    int rc = decode(buf, n, out, err);
    free(buf);
    return rc;
}

Test(decode, raw_and_gzip_give_the_same)
{
    pb_profile *p = sample_profile(), *back;
    char err[200], *was = make_folded(p, 0);
    for (int level = -1; level <= 1; level++) {
        void *buf;
        size_t n;
        cr_assert_eq(pb_encode(p, level, &buf, &n), 0);
        cr_assert_eq(decode(buf, n, &back, err), 0, "%s", err);
        char *is = make_folded(back, 0);
        cr_assert_str_eq(is, was);
        free(is);
        free(buf);
        pb_profile_free(back);
    }
    free(was);
    pb_profile_free(p);
}

Test(decode, two_gzip_members_are_one_stream)
{
    pb_profile *p = sample_profile(), *back;
    char err[200];
    void *raw, *half[2];
    size_t n, sizes[2];
    cr_assert_eq(pb_encode(p, -1, &raw, &n), 0);
    for (int i = 0; i < 2; i++) {
        z_stream z = {0};
        deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY);
        half[i] = malloc(1000);
        z.next_in = (Bytef *)raw + (i ? n / 2 : 0);
        z.avail_in = (uInt)(i ? n - n / 2 : n / 2);
        z.next_out = half[i];
        z.avail_out = 1000;
        cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
        sizes[i] = z.total_out;
        deflateEnd(&z);
    }
    char *both = malloc(sizes[0] + sizes[1] + 3);
    memcpy(both, half[0], sizes[0]);
    memcpy(both + sizes[0], half[1], sizes[1]);
    cr_assert_eq(decode(both, sizes[0] + sizes[1], &back, err), 0, "%s", err);
    cr_assert_eq(back->nsamples, 2);
    pb_profile_free(back);
    memcpy(both + sizes[0] + sizes[1], "xyz", 3);
    cr_assert_eq(decode(both, sizes[0] + sizes[1] + 3, &back, err), -EBADMSG, "trailing bytes");
    free(both);
    free(half[0]);
    free(half[1]);
    free(raw);
    pb_profile_free(p);
}

Test(decode, every_truncation_is_an_error_or_smaller)
{
    pb_profile *p = sample_profile(), *back;
    char err[200];
    void *buf;
    size_t n;
    cr_assert_eq(pb_encode(p, 1, &buf, &n), 0);
    for (size_t cut = 0; cut < n; cut++)
        cr_assert_eq(decode(buf, cut, &back, err), -EBADMSG, "cut at %zu of %zu", cut, n);
    free(buf);
    cr_assert_eq(pb_encode(p, -1, &buf, &n), 0);
    for (size_t cut = 0; cut < n; cut++)
        if (decode(buf, cut, &back, err) == 0)
            pb_profile_free(back);
    free(buf);
    pb_profile_free(p);
}

Test(decode, truncation_and_damage_are_told_apart)
{
    pb_profile *p = sample_profile(), *back;
    char err[200];
    unsigned char *buf;
    size_t n;
    cr_assert_eq(pb_encode(p, 1, (void **)&buf, &n), 0);
    cr_assert_eq(decode(buf, n / 2, &back, err), -EBADMSG);
    cr_assert_not_null(strstr(err, "truncated"), "%s", err);
    buf[n - 6] ^= 0x55;
    cr_assert_eq(decode(buf, n, &back, err), -EBADMSG);
    cr_assert_not_null(strstr(err, "damaged"), "%s", err);
    cr_assert_eq(decode("", 0, &back, err), -EBADMSG);
    cr_assert_not_null(strstr(err, "empty"), "%s", err);
    cr_assert_eq(decode("<html>hello</html>", 18, &back, err), -EBADMSG);
    free(buf);
    pb_profile_free(p);
}

/* A profile of one sample whose parts the tests below bend. */
typedef struct hand {
    char *strings[3];
    Weft__Pb__Profile m;
    Weft__Pb__ValueType type, *types[1];
    Weft__Pb__Function fn[2], *fns[2];
    Weft__Pb__Line line, *lines[1];
    Weft__Pb__Location loc, *locs[1];
    Weft__Pb__Sample sample, *samples[2];
    uint64_t ids[1];
    int64_t values[2];
} hand;

static void hand_init(hand *h)
{
    memset(h, 0, sizeof *h);
    h->strings[0] = (char *)"";
    h->strings[1] = (char *)"samples";
    h->strings[2] = (char *)"f";
    weft__pb__profile__init(&h->m);
    weft__pb__value_type__init(&h->type);
    weft__pb__function__init(&h->fn[0]);
    weft__pb__function__init(&h->fn[1]);
    weft__pb__line__init(&h->line);
    weft__pb__location__init(&h->loc);
    weft__pb__sample__init(&h->sample);
    h->type.type = 1;
    h->fn[0].id = UINT64_MAX;
    h->fn[0].name = 2;
    h->line.function_id = UINT64_MAX;
    h->loc.id = 77;
    h->ids[0] = 77;
    h->values[0] = 4;
    h->types[0] = &h->type;
    h->fns[0] = &h->fn[0];
    h->fns[1] = &h->fn[1];
    h->lines[0] = &h->line;
    h->locs[0] = &h->loc;
    h->samples[0] = h->samples[1] = &h->sample;
    h->loc.n_line = 1;
    h->loc.line = h->lines;
    h->sample.n_location_id = 1;
    h->sample.location_id = h->ids;
    h->sample.n_value = 1;
    h->sample.value = h->values;
    h->m.n_string_table = 3;
    h->m.string_table = h->strings;
    h->m.n_sample_type = 1;
    h->m.sample_type = h->types;
    h->m.n_function = 1;
    h->m.function = h->fns;
    h->m.n_location = 1;
    h->m.location = h->locs;
    h->m.n_sample = 1;
    h->m.sample = h->samples;
}

Test(decode, any_ids_are_mapped)
{
    hand h;
    char err[200];
    pb_profile *p;
    hand_init(&h);
    h.m.n_sample = 2;
    cr_assert_eq(decode_message(&h.m, &p, err), 0, "%s", err);
    cr_assert_eq(p->nsamples, 1, "equal samples meet");
    cr_assert_eq(p->samples[0].values[0], 8);
    cr_assert_eq(p->samples[0].locs[0], 1);
    cr_assert_str_eq(pb_str(p, p->functions[p->locations[0].lines[0].function - 1].name), "f");
    pb_profile_free(p);
}

#define EXPECT(change, text)                                                                       \
    do {                                                                                           \
        hand_init(&h);                                                                             \
        change;                                                                                    \
        cr_assert_eq(decode_message(&h.m, &p, err), -EBADMSG, "accepted: %s", #change);            \
        cr_assert_not_null(strstr(err, text), "%s", err);                                          \
    } while (0)

Test(decode, broken_references_are_named)
{
    hand h;
    char err[200];
    pb_profile *p;
    EXPECT(h.strings[0] = (char *)"x", "string_table[0]");
    EXPECT(h.m.n_string_table = 0, "no string table");
    EXPECT(h.fn[0].name = 3, "function 1 has a string outside the table: 3");
    EXPECT(h.fn[0].filename = -1, "function 1");
    EXPECT(h.fn[0].id = 0, "function 1 has the id 0");
    EXPECT(h.loc.id = 0, "location 1 has the id 0");
    EXPECT(h.line.function_id = 5, "location 1 names the missing function 5");
    EXPECT(h.ids[0] = 1, "sample 1 names the missing location 1");
    EXPECT(h.ids[0] = 0, "sample 1 names the missing location 0");
    EXPECT(h.sample.n_value = 2, "sample 1 has 2 values for 1 sample types");
    EXPECT(h.sample.n_value = 0, "sample 1 has 0 values");
    EXPECT(h.m.n_sample_type = 0, "sample 1 has 1 values for 0 sample types");
    EXPECT(h.type.unit = 9, "sample type 1");
    EXPECT(h.m.default_sample_type = 9, "header");
    EXPECT((h.m.n_function = 2, h.fn[1].id = UINT64_MAX), "two functions have id");
}

Test(decode, what_pprof_lets_pass)
{
    hand h;
    char err[200];
    pb_profile *p;
    hand_init(&h);
    h.loc.mapping_id = 42;
    h.line.function_id = 0;
    h.sample.n_location_id = 0;
    cr_assert_eq(decode_message(&h.m, &p, err), 0, "%s", err);
    cr_assert_eq(p->locations[0].mapping, 0);
    cr_assert_eq(p->samples[0].nlocs, 0);
    pb_profile_free(p);
}

Test(decode, no_room_for_an_error_is_fine)
{
    pb_profile *p;
    cr_assert_eq(pb_decode("zzz", 3, &p, NULL, 0), -EBADMSG);
}
