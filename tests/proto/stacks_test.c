/* Distinct stacks, sorted and summed. */
#include "proto/frames.h"
#include "tests/proto/make.h"

static void build(const pb_profile *p, pb_frames *f, pb_stacks *s)
{
    cr_assert_eq(pb_frames_new(f, p, false), 0);
    cr_assert_eq(pb_stacks_new(s, p, f, 0), 0);
}

static int order(const pb_stacks *s, size_t a, size_t b)
{
    const pb_stack *x = &s->v[a], *y = &s->v[b];
    for (uint32_t i = 0; i < x->n && i < y->n; i++) {
        uint32_t m = PB_FRAME_NAME(s->frames[x->at + i]), n = PB_FRAME_NAME(s->frames[y->at + i]);
        if (m != n)
            return m < n ? -1 : 1;
    }
    return x->n < y->n ? -1 : x->n > y->n;
}

Test(stacks, shared_paths_are_neighbours)
{
    pb_profile *p = make_profile();
    make_stack(p, "foo", 50);
    make_stack(p, "foo(int);x", 50);
    make_stack(p, "foo;bar", 50);
    pb_frames f;
    pb_stacks s;
    build(p, &f, &s);
    cr_assert_eq(s.n, 3);
    cr_assert_eq(s.total, 150);
    const char *roots[3];
    for (size_t i = 0; i < 3; i++)
        roots[i] = f.names[PB_FRAME_NAME(s.frames[s.v[i].at])];
    cr_assert_str_eq(roots[0], "foo");
    cr_assert_str_eq(roots[1], "foo");
    cr_assert_str_eq(roots[2], "foo(int)");
    pb_stacks_free(&s);
    pb_frames_free(&f);
    pb_profile_free(p);
}

Test(stacks, thousands_at_random_are_sorted_and_keep_their_sum)
{
    pb_profile *p = make_profile();
    uint64_t seed = 5;
    int64_t sum = 0;
    for (int i = 0; i < 5000; i++) {
        char stack[200] = "";
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        for (unsigned k = 0; k <= (seed >> 40) % 6; k++)
            snprintf(stack + strlen(stack), 20, "%s%c%c", k ? ";" : "",
                     (char)('a' + (seed >> (33 + k)) % 3), (char)('a' + (seed >> (20 + k)) % 2));
        make_stack(p, stack, i % 7);
        sum += i % 7;
    }
    pb_frames f;
    pb_stacks s;
    build(p, &f, &s);
    int64_t is = 0;
    for (size_t i = 0; i < s.n; i++) {
        is += s.v[i].value;
        if (i)
            cr_assert_lt(order(&s, i - 1, i), 0, "at %zu", i);
    }
    cr_assert_eq(is, sum);
    cr_assert_eq(s.total, sum);
    pb_stacks_free(&s);
    pb_frames_free(&f);
    pb_profile_free(p);
}

Test(stacks, zero_and_negative_values_stay_out)
{
    pb_profile *p = make_profile();
    make_stack(p, "a", 0);
    make_stack(p, "b", -3);
    make_stack(p, "c", 2);
    int64_t five = 5;
    pb_sample_add(p, NULL, 0, &five, NULL, 0);
    pb_frames f;
    pb_stacks s;
    build(p, &f, &s);
    cr_assert_eq(s.n, 2);
    cr_assert_eq(s.negative, 1);
    cr_assert_eq(s.total, 7);
    cr_assert_str_eq(f.names[PB_FRAME_NAME(s.frames[s.v[0].at])], "[no stack]");
    pb_stacks_free(&s);
    pb_frames_free(&f);
    pb_profile_free(p);
}

Test(stacks, inlined_only_where_always_inlined)
{
    pb_profile *p = make_profile();
    int64_t a = pb_string(p, "in"), b = pb_string(p, "out"), one = 1;
    pb_line lines[2] = {{pb_function_add(p, a, a, 0, 0), 0}, {pb_function_add(p, b, b, 0, 0), 0}};
    uint64_t both = pb_location_add(p, 0, 1, lines, 2);
    uint64_t apart[2] = {pb_location_add(p, 0, 2, lines, 1),
                         pb_location_add(p, 0, 3, lines + 1, 1)};
    pb_sample_add(p, &both, 1, &one, NULL, 0);
    pb_frames f;
    pb_stacks s;
    build(p, &f, &s);
    cr_assert(PB_FRAME_INLINED(s.frames[s.v[0].at + 1]));
    pb_stacks_free(&s);
    pb_frames_free(&f);
    pb_sample_add(p, apart, 2, &one, NULL, 0);
    build(p, &f, &s);
    cr_assert_eq(s.n, 1);
    cr_assert_eq(s.v[0].value, 2);
    cr_assert(!PB_FRAME_INLINED(s.frames[s.v[0].at + 1]));
    pb_stacks_free(&s);
    pb_frames_free(&f);
    pb_profile_free(p);
}

/* A location of 3000 inlined lines, 3000 times in each of 100 samples: 900 million frames out of a
 * file of some kilobytes. */
Test(stacks, frames_that_multiply_are_refused)
{
    enum { N = 3000 };
    pb_profile *p = make_profile();
    int64_t a = pb_string(p, "f"), one = 1;
    pb_line *lines = calloc(N, sizeof *lines);
    uint64_t *locs = calloc(N, sizeof *locs);
    for (int i = 0; i < N; i++)
        lines[i] = (pb_line){pb_function_add(p, a, a, 0, 0), i};
    uint64_t loc = pb_location_add(p, 0, 1, lines, N);
    for (int i = 0; i < N; i++)
        locs[i] = loc;
    for (uint32_t i = 0; i < 100; i++)
        cr_assert_eq(pb_sample_add(p, locs, N - i, &one, NULL, 0), 0);
    pb_frames f;
    pb_stacks s;
    cr_assert_eq(pb_frames_new(&f, p, false), 0);
    cr_assert_eq(pb_stacks_new(&s, p, &f, 0), -EFBIG);
    cr_assert_eq(pb_stacks_new(&s, p, &f, 1), -EINVAL);
    cr_assert_eq(pb_stacks_new(&s, p, &f, -1), -EINVAL);
    pb_frames_free(&f);
    pb_profile_free(p);
    free(lines);
    free(locs);
}
