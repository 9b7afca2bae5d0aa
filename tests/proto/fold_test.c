/* Folded text, both ways. */
#include "tests/proto/make.h"

static pb_profile *parse(const char *text, size_t *junk)
{
    pb_profile *p;
    char err[160] = "";
    cr_assert_eq(pb_fold_parse(text, strlen(text), &p, junk, err, sizeof err), 0, "%s", err);
    return p;
}

static void expect(const char *in, const char *out, size_t junk_wanted)
{
    size_t junk;
    pb_profile *p = parse(in, &junk);
    char *text = make_folded(p, 0);
    cr_assert_str_eq(text, out);
    cr_assert_eq(junk, junk_wanted);
    free(text);
    pb_profile_free(p);
}

Test(fold, lines_are_summed_and_sorted)
{
    expect("b;c 2\na 1\nb;c 3\nb 4\n", "a 1\nb 4\nb;c 5\n", 0);
}

/* The order is that of the bytes of the line: what follows a name decides as well. */
Test(fold, order_is_that_of_sort)
{
    expect("foo;bar 50\nfoo(int);x 50\nfoo 50\n", "foo 50\nfoo(int);x 50\nfoo;bar 50\n", 0);
    expect("a 9\na (b) 1\na;x 1\na b;c 2\n", "a (b) 1\na 9\na b;c 2\na;x 1\n", 0);
    expect("a 12\na 10x;q 1\n", "a 10x;q 1\na 12\n", 0);
    expect("x;a 12\nx;a 1;q 1\n", "x;a 12\nx;a 1;q 1\n", 0);
}

Test(fold, random_names_are_in_byte_order)
{
    static const char bytes[] = " ()+,-./059:<Az~\303";
    pb_profile *p = make_profile();
    uint64_t seed = 99;
    for (int i = 0; i < 3000; i++) {
        char stack[64];
        size_t n = 0;
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint64_t r = seed >> 16;
        for (unsigned frames = 1 + r % 3; frames; frames--, r >>= 3) {
            stack[n++] = "abc"[r % 3];
            for (unsigned k = (unsigned)(r / 3 % 4); k; k--, r >>= 4)
                stack[n++] = bytes[r % (sizeof bytes - 1)];
            stack[n++] = frames > 1 ? ';' : '\0';
            r ^= seed << 3;
        }
        make_stack(p, stack, 1 + (int64_t)(seed >> 33) % 200);
    }
    char *text = make_folded(p, 0), *prev = NULL, *rest = text, *line;
    size_t lines = 0, junk;
    pb_profile *back = parse(text, &junk);
    char *again = make_folded(back, 0);
    cr_assert_str_eq(again, text, "reading back changes nothing");
    cr_assert_eq(junk, 0);
    while ((line = strsep(&rest, "\n")) && *line) {
        if (prev)
            cr_assert_lt(strcmp(prev, line), 0, "\"%s\" before \"%s\"", prev, line);
        prev = line;
        lines++;
    }
    cr_assert_gt(lines, 1000);
    free(text);
    free(again);
    pb_profile_free(back);
    pb_profile_free(p);
}

Test(fold, junk_is_counted_and_skipped)
{
    expect(
        "# a comment\n\na;b 3\nno count\n 500\nnegative -3\nx 1e5\nx 99999999999999999999\n;; 4\n"
        "a;b 4\r\n",
        "a;b 7\n", 6);
}

Test(fold, fractions_are_rounded)
{
    expect("a 1.5\nb 1.4\nc 2.\n", "a 2\nb 1\nc 2\n", 0);
}

Test(fold, a_second_count_belongs_to_the_name)
{
    expect("a b 12 34\n", "a b_12 34\n", 0);
}

Test(fold, empty_frames_vanish)
{
    expect(";a;;b; 3\n", "a;b 3\n", 0);
}

Test(fold, shared_prefixes_are_seen_where_they_end)
{
    expect("main;run;a 1\nmain;run;ab 2\nmain;runner;a 3\nmain;run 4\nmain;run;a;b 5\nmain 6\n",
           "main 6\nmain;run 4\nmain;run;a 1\nmain;run;a;b 5\nmain;run;ab 2\nmain;runner;a 3\n", 0);
}

Test(fold, nothing_good_is_an_error)
{
    pb_profile *p;
    size_t junk;
    char err[160];
    cr_assert_eq(pb_fold_parse("<html>\n", 7, &p, &junk, err, sizeof err), -EBADMSG);
    cr_assert_null(p);
    cr_assert_eq(junk, 1);
    cr_assert_not_null(strstr(err, "not folded stacks"));
    cr_assert_eq(pb_fold_parse("", 0, &p, &junk, err, sizeof err), -EBADMSG);
    cr_assert_eq(pb_fold_parse("a\0b 3\n", 6, &p, &junk, err, sizeof err), -EBADMSG);
}

Test(fold, names_lose_what_the_format_cannot_hold)
{
    pb_profile *p = make_profile();
    uint64_t locs[2] = {make_loc(p, "leaf 12"), make_loc(p, "#root;x")};
    int64_t v = 5;
    pb_sample_add(p, locs, 2, &v, NULL, 0);
    pb_sample_add(p, locs, 1, &v, NULL, 0);
    uint64_t other = make_loc(p, "leaf_12");
    pb_sample_add(p, &other, 1, &v, NULL, 0);
    char *text = make_folded(p, 0);
    cr_assert_str_eq(text, "_root:x;leaf_12 5\nleaf_12 10\n");
    free(text);
    pb_profile_free(p);
}

Test(fold, inlined_lines_negative_values_and_other_columns)
{
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "n", "count");
    pb_type_add(p, "t", "nanoseconds");
    int64_t in = pb_string(p, "in"), out = pb_string(p, "out"), v[2] = {-1, 7};
    pb_line lines[2] = {{pb_function_add(p, in, in, 0, 0), 0},
                        {pb_function_add(p, out, out, 0, 0), 0}};
    uint64_t loc = pb_location_add(p, 0, 1, lines, 2);
    pb_sample_add(p, &loc, 1, v, NULL, 0);
    char *text = make_folded(p, 1);
    cr_assert_str_eq(text, "out;in 7\n");
    free(text);
    text = make_folded(p, 0);
    cr_assert_str_eq(text, "");
    free(text);
    cr_assert_eq(pb_fold_write(p, 2, stdout), -EINVAL);
    pb_profile_free(p);
}

Test(fold, a_full_disk_is_an_error)
{
    pb_profile *p = make_profile();
    make_stack(p, "a", 1);
    FILE *full = fopen("/dev/full", "w");
    cr_assert_not_null(full);
    cr_assert_eq(pb_fold_write(p, 0, full), -ENOSPC);
    fclose(full);
    pb_profile_free(p);
}

Test(fold, depth_is_no_limit)
{
    enum { DEPTH = 20000 };
    char *text = malloc(DEPTH * 2 + 40), *at = text;
    for (int i = 0; i < DEPTH; i++)
        at += sprintf(at, "%s%c", i ? ";" : "", 'a' + i % 26);
    strcpy(at, " 3\n");
    expect(text, text, 0);
    free(text);
}
