/* What a frame is called. */
#include "proto/frames.h"
#include "tests/proto/make.h"

static const char *only_name(pb_profile *p, bool folded)
{
    pb_frames f;
    static char name[100];
    cr_assert_eq(pb_frames_new(&f, p, folded), 0);
    snprintf(name, sizeof name, "%s", f.names[PB_FRAME_NAME(f.list[0])]);
    pb_frames_free(&f);
    return name;
}

Test(frames, names_fall_back)
{
    pb_profile *p = make_profile();
    int64_t sys = pb_string(p, "_Z1fv");
    pb_line line = {pb_function_add(p, 0, sys, 0, 0), 0};
    pb_location_add(p, 0, 0x10, &line, 1);
    cr_assert_str_eq(only_name(p, false), "_Z1fv");
    pb_profile_free(p);

    p = make_profile();
    pb_mapping m = {.limit = 1, .file = pb_string(p, "/lib/libc.so.6")};
    pb_location_add(p, pb_mapping_add(p, &m), 0xabc, NULL, 0);
    cr_assert_str_eq(only_name(p, false), "[libc.so.6]");
    pb_profile_free(p);

    p = make_profile();
    pb_location_add(p, 0, 0xabc, NULL, 0);
    cr_assert_str_eq(only_name(p, false), "0xabc");
    pb_profile_free(p);

    p = make_profile();
    pb_location_add(p, 0, 0, NULL, 0);
    cr_assert_str_eq(only_name(p, false), "[unknown]");
    pb_profile_free(p);
}

Test(frames, inlined_lines_are_frames_outermost_first)
{
    pb_profile *p = make_profile();
    int64_t in = pb_string(p, "inner"), mid = pb_string(p, "middle"), out = pb_string(p, "outer");
    pb_line lines[3] = {{pb_function_add(p, in, in, 0, 0), 1},
                        {pb_function_add(p, mid, mid, 0, 0), 2},
                        {pb_function_add(p, out, out, 0, 0), 3}};
    pb_location_add(p, 0, 1, lines, 3);
    pb_frames f;
    cr_assert_eq(pb_frames_new(&f, p, false), 0);
    cr_assert_eq(f.first[1] - f.first[0], 3);
    cr_assert_str_eq(f.names[PB_FRAME_NAME(f.list[0])], "outer");
    cr_assert_str_eq(f.names[PB_FRAME_NAME(f.list[2])], "inner");
    cr_assert(!PB_FRAME_INLINED(f.list[0]) && PB_FRAME_INLINED(f.list[1]) &&
              PB_FRAME_INLINED(f.list[2]));
    pb_frames_free(&f);
    pb_profile_free(p);
}

Test(frames, one_name_is_one_frame_and_numbers_sort)
{
    pb_profile *p = make_profile();
    int64_t f1 = pb_string(p, "a.c"), f2 = pb_string(p, "b.c"), s = pb_string(p, "same");
    pb_line l1 = {pb_function_add(p, s, s, f1, 0), 0}, l2 = {pb_function_add(p, s, s, f2, 0), 0};
    pb_location_add(p, 0, 1, &l1, 1);
    pb_location_add(p, 0, 2, &l2, 1);
    make_loc(p, "\303\244");
    make_loc(p, "Z");
    pb_frames f;
    cr_assert_eq(pb_frames_new(&f, p, false), 0);
    cr_assert_eq(f.nnames, 3);
    cr_assert_eq(f.list[0], f.list[1]);
    for (size_t i = 1; i < f.nnames; i++)
        cr_assert_lt(strcmp(f.names[i - 1], f.names[i]), 0);
    pb_frames_free(&f);
    pb_profile_free(p);
}

Test(frames, folded_names_are_safe)
{
    pb_profile *p = make_profile();
    make_loc(p, "Ljava/lang/String;:f\r\n\tx\001\177\377");
    cr_assert_str_eq(only_name(p, true), "Ljava/lang/String::f   x  \357\277\275");
    pb_profile_free(p);
}
