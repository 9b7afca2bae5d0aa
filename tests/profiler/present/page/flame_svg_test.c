/* The picture as text: what is in it, and what never is. */
#include "profiler/present/page/flame.h"
#include "tests/proto/make.h"

static char *draw(const pb_profile *p, const pf_flame_opts *o)
{
    char *svg = NULL;
    size_t n;
    FILE *f = open_memstream(&svg, &n);
    cr_assert_gt(pf_flame_svg(p, 0, o, f), 0);
    fclose(f);
    return svg;
}

static size_t count(const char *s, const char *what)
{
    size_t n = 0;
    while ((s = strstr(s, what))) {
        n++;
        s += strlen(what);
    }
    return n;
}

Test(flame_svg, boxes_say_name_value_and_share)
{
    pb_profile *p = make_profile();
    make_stack(p, "main;run", 1500);
    make_stack(p, "main", 500);
    char *svg = draw(p, NULL);
    cr_assert_eq(count(svg, "<g class=\""), 4, "three boxes and the heading");
    cr_assert_not_null(strstr(svg, "<title>main\n2,000 samples, 100%; self 500 samples</title>"
                                   "<rect x=\"0%\" y=\"17\" width=\"100%\" height=\"16\"/>"));
    cr_assert_not_null(strstr(svg, "<title>run\n1,500 samples, 75.00%; self 1,500 samples</title>"
                                   "<rect x=\"25%\" y=\"0\" width=\"75%\""));
    cr_assert_not_null(strstr(svg, ">run</text>"));
    cr_assert_not_null(strstr(svg, ">2,000 samples</text>"));
    free(svg);
    pb_profile_free(p);
}

Test(flame_svg, hostile_names_stay_names)
{
    pb_profile *p = make_profile();
    make_stack(p, "</title><script>alert(1)</script>", 1);
    make_stack(p, "a\"b'c&d", 1);
    make_stack(p, "bell\007 esc\033[31m \377 \302\205 \342\200\256rtl \355\240\200", 1);
    make_stack(p, "]]>", 1);
    char *svg = draw(p, NULL);
    cr_assert_eq(count(svg, "<script>"), 1);
    cr_assert_eq(count(svg, "</script>"), 1);
    cr_assert_not_null(strstr(svg, "&lt;/title&gt;&lt;script&gt;alert(1)&lt;/script&gt;\n"));
    cr_assert_not_null(strstr(svg, "a&quot;b&#39;c&amp;d\n"));
    cr_assert_not_null(strstr(svg, "bell\357\277\275 esc\357\277\275[31m \357\277\275 \357\277\275 "
                                   "\357\277\275rtl \357\277\275\357\277\275\357\277\275\n"));
    cr_assert_not_null(strstr(svg, "]]&gt;\n"));
    for (const char *c = svg; *c; c++)
        cr_assert((unsigned char)*c >= ' ' || *c == '\n', "byte %d", *c);
    free(svg);
    pb_profile_free(p);
}

Test(flame_svg, one_script_one_style_and_nothing_from_outside)
{
    pb_profile *p = make_profile();
    make_stack(p, "main;onclick=\"x\"", 1);
    pf_flame_opts o = {.title = "style=\"x\" <b>"};
    char *svg = draw(p, &o);
    size_t n;
    const char *script = pf_flame_script(&n);
    char *bytes = memmem(svg, strlen(svg), script, n);
    cr_assert_not_null(bytes, "the script is in it byte for byte");
    cr_assert(strncmp(bytes - 17, "<script><![CDATA[", 17) == 0);
    memset(bytes, ' ', n);
    const char *style = pf_flame_style(&n);
    bytes = memmem(svg, strlen(svg), style, n);
    cr_assert_not_null(bytes);
    memset(bytes, ' ', n);
    cr_assert_eq(count(svg, "<script"), 1);
    cr_assert_eq(count(svg, "<style"), 1);
    cr_assert_eq(count(svg, "http"), 1, "only the namespace");
    cr_assert_null(strstr(svg, "href"));
    cr_assert_null(strstr(svg, " style=\""));
    cr_assert_null(strstr(svg, " onclick=\""));
    free(svg);
    pb_profile_free(p);
}

Test(flame_svg, labels_are_cut_to_fit)
{
    pb_profile *p = make_profile();
    make_stack(p, "root;abcdefghijklmnopqrstuvwxyz", 10);
    make_stack(p, "root;\303\244\303\266\303\274\303\244\303\266\303\274\303\244\303\266\303\274",
               5);
    make_stack(p, "root;zz", 85);
    pf_flame_opts o = {.width_px = 1000};
    char *svg = draw(p, &o);
    /* 980 px wide: a tenth has room for 12 letters, a twentieth for 5. */
    cr_assert_not_null(strstr(svg, ">abcdefghijk\342\200\246</text>"));
    cr_assert_not_null(strstr(svg, ">\303\244\303\266\303\274\303\244\342\200\246</text>"));
    free(svg);
    pb_profile_free(p);
}

Test(flame_svg, what_is_left_out_is_said)
{
    pb_profile *p = make_profile();
    make_stack(p, "wide", 1000000);
    make_stack(p, "narrow;n1;n2", 1);
    make_stack(p, "below", -4);
    char *svg = draw(p, NULL);
    cr_assert_not_null(strstr(svg, ">3 boxes narrower than 0.1 px left out. 1 samples below zero"));
    cr_assert_null(strstr(svg, "narrow\n"));
    free(svg);
    pf_flame_opts o = {.min_px = -1};
    svg = draw(p, &o);
    cr_assert_not_null(strstr(svg, "<title>narrow\n"));
    cr_assert_null(strstr(svg, "boxes narrower"));
    free(svg);
    pb_profile_free(p);
}

static const char *class_of(const char *svg, const char *name)
{
    static char class[32];
    char title[100];
    snprintf(title, sizeof title, "<title>%s\n", name);
    const char *at = strstr(svg, title);
    cr_assert_not_null(at, "%s", name);
    while (*at != '"' || at[1] != '>')
        at--;
    const char *end = at;
    while (at[-1] != '"')
        at--;
    snprintf(class, sizeof class, "%.*s", (int)(end - at), at);
    return class;
}

Test(flame_svg, colours_follow_name_and_module)
{
    pb_profile *p = make_profile(), *q = make_profile();
    make_stack(p, "main;work.part.0", 1);
    make_stack(p, "main;weft_chan_send", 1);
    make_stack(p, "std::sort<int>", 1);
    make_stack(p, "do_syscall_64_[k]", 1);
    make_stack(q, "other;main", 7);
    pb_mapping m = {0x1000, 0x2000, 0, pb_string(p, "/bin/x"), 0, 0, 0, 0, 0};
    pb_mapping_add(p, &m);
    m.file = pb_string(p, "/lib/libc.so.6");
    int64_t s = pb_string(p, "memcpy"), one = 1;
    pb_line line = {pb_function_add(p, s, s, 0, 0), 0};
    uint64_t loc = pb_location_add(p, pb_mapping_add(p, &m), 0x1, &line, 1);
    pb_sample_add(p, &loc, 1, &one, NULL, 0);
    char *a = draw(p, NULL), *b = draw(q, NULL), first[32];
    snprintf(first, sizeof first, "%s", class_of(a, "main"));
    cr_assert_str_eq(class_of(b, "main"), first, "a name has one colour everywhere");
    cr_assert_eq(first[0], 'w');
    cr_assert_eq(class_of(a, "work.part.0")[0], 'w');
    cr_assert_eq(class_of(a, "weft_chan_send")[0], 's');
    cr_assert_eq(class_of(a, "memcpy")[0], 's');
    cr_assert_eq(class_of(a, "do_syscall_64_[k]")[0], 'k');
    cr_assert_not_null(strchr("abcde", class_of(a, "std::sort&lt;int&gt;")[0]));
    free(a);
    free(b);
    pb_profile_free(p);
    pb_profile_free(q);
}

Test(flame_svg, heading_and_inlined_frames)
{
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "cpu", "nanoseconds");
    p->duration_ns = 5000000000;
    p->time_ns = 1700000000000000000;
    pb_mapping m = {0x1000, 0x2000, 0, pb_string(p, "/opt/demo"), 0, 0, 0, 0, 0};
    int64_t in = pb_string(p, "mix"), out = pb_string(p, "hash"), v = 1000000000;
    pb_line lines[2] = {{pb_function_add(p, in, in, 0, 0), 0},
                        {pb_function_add(p, out, out, 0, 0), 0}};
    uint64_t loc = pb_location_add(p, pb_mapping_add(p, &m), 0x1001, lines, 2);
    pb_sample_add(p, &loc, 1, &v, NULL, 0);
    char *svg = draw(p, NULL);
    cr_assert_not_null(strstr(svg, "<title>demo: cpu</title>"));
    cr_assert_not_null(strstr(svg, ">1s in 5s (20.00%) \302\267 2023-11-14 22:13:20 UTC</text>"));
    cr_assert_not_null(strstr(svg, "<title>mix (inlined)\n1s, 100%; self 1s</title>"));
    cr_assert_not_null(strstr(class_of(svg, "mix (inlined)"), " i"));
    free(svg);
    pb_profile_free(p);
}

Test(flame_svg, empty_profiles_and_bad_columns)
{
    pb_profile *p = make_profile();
    char *svg = draw(p, NULL);
    cr_assert_not_null(strstr(svg, ">no samples</text>"));
    cr_assert_eq(pf_flame_svg(p, 1, NULL, stdout), -EINVAL);
    cr_assert_eq(pf_flame_svg(p, -1, NULL, stdout), -EINVAL);
    FILE *full = fopen("/dev/full", "w");
    cr_assert_eq(pf_flame_svg(p, 0, NULL, full), -ENOSPC);
    fclose(full);
    free(svg);
    pb_profile_free(p);
}
