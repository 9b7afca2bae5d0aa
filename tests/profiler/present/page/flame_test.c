/* The layout: one box per path, sums, order, pruning, depth. */
#include "profiler/present/page/flame_layout.h"
#include "tests/proto/make.h"

typedef struct made {
    pb_frames f;
    pb_stacks s;
    pf_layout l;
} made;

static void lay_out(made *m, const pb_profile *p, int64_t least)
{
    cr_assert_eq(pb_frames_new(&m->f, p, false), 0);
    cr_assert_eq(pb_stacks_new(&m->s, p, &m->f, 0), 0);
    cr_assert_eq(pf_layout_new(&m->l, &m->s, least), 0);
}

static void made_free(made *m)
{
    pf_layout_free(&m->l);
    pb_stacks_free(&m->s);
    pb_frames_free(&m->f);
}

/* "depth name start+total" of every box, for comparing at a glance. */
static const char *describe(const made *m)
{
    static char text[2000];
    text[0] = '\0';
    for (size_t i = 0; i < m->l.n; i++) {
        const pf_box *b = &m->l.boxes[i];
        snprintf(text + strlen(text), sizeof text - strlen(text), "%u %s %lld+%lld self %lld\n",
                 b->depth, b->depth ? m->f.names[b->name] : "all", (long long)b->start,
                 (long long)b->total, (long long)b->self);
    }
    return text;
}

Test(flame, one_box_for_one_path_whatever_the_bytes)
{
    made m;
    pb_profile *p = make_profile();
    make_stack(p, "foo", 50);
    make_stack(p, "foo(int);x", 50);
    make_stack(p, "foo;bar", 50);
    lay_out(&m, p, 0);
    cr_assert_str_eq(describe(&m), "0 all 0+150 self 0\n"
                                   "1 foo 0+100 self 50\n"
                                   "2 bar 50+50 self 50\n"
                                   "1 foo(int) 100+50 self 0\n"
                                   "2 x 100+50 self 50\n");
    cr_assert_eq(m.l.depth_max, 2);
    made_free(&m);
    pb_profile_free(p);
}

Test(flame, recursion_is_a_box_per_level)
{
    made m;
    pb_profile *p = make_profile();
    make_stack(p, "f;f;f", 1);
    make_stack(p, "f;f", 2);
    lay_out(&m, p, 0);
    cr_assert_str_eq(describe(&m),
                     "0 all 0+3 self 0\n1 f 0+3 self 0\n2 f 0+3 self 2\n3 f 2+1 self 1\n");
    made_free(&m);
    pb_profile_free(p);
}

Test(flame, narrow_boxes_are_counted_and_gone)
{
    made m;
    pb_profile *p = make_profile();
    make_stack(p, "a;b;c;d", 1);
    make_stack(p, "a;b;e", 2);
    make_stack(p, "a;z", 10);
    make_stack(p, "q", 1);
    lay_out(&m, p, 3);
    cr_assert_str_eq(describe(&m), "0 all 0+14 self 0\n"
                                   "1 a 0+13 self 0\n"
                                   "2 b 0+3 self 0\n"
                                   "2 z 3+10 self 10\n");
    cr_assert_eq(m.l.hidden, 4);
    cr_assert_eq(m.l.depth_max, 2);
    made_free(&m);
    pb_profile_free(p);
}

Test(flame, nothing_is_the_root_alone)
{
    made m;
    pb_profile *p = make_profile();
    lay_out(&m, p, 0);
    cr_assert_str_eq(describe(&m), "0 all 0+0 self 0\n");
    made_free(&m);
    pb_profile_free(p);
}

Test(flame, children_lie_within_and_sums_hold)
{
    made m;
    pb_profile *p = make_profile();
    uint64_t seed = 3;
    for (int i = 0; i < 3000; i++) {
        char stack[100] = "";
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        for (unsigned k = 0; k <= (seed >> 40) % 8; k++)
            snprintf(stack + strlen(stack), 8, "%s%c", k ? ";" : "",
                     (int)('a' + (seed >> (20 + k * 2)) % 4));
        make_stack(p, stack, 1 + i % 5);
    }
    lay_out(&m, p, 0);
    size_t open[32];
    int64_t selfs = 0;
    for (size_t i = 0; i < m.l.n; i++) {
        const pf_box *b = &m.l.boxes[i];
        selfs += b->self;
        if (b->depth) {
            const pf_box *up = &m.l.boxes[open[b->depth - 1]];
            cr_assert(b->start >= up->start && b->start + b->total <= up->start + up->total);
        }
        open[b->depth] = i;
    }
    cr_assert_eq(selfs, m.s.total);
    cr_assert_eq(m.l.boxes[0].total, m.s.total);
    made_free(&m);
    pb_profile_free(p);
}

Test(flame, twenty_thousand_levels)
{
    enum { DEPTH = 20000 };
    made m;
    pb_profile *p = make_profile();
    uint64_t *locs = calloc(DEPTH, sizeof *locs), a = make_loc(p, "a"), b = make_loc(p, "b");
    for (int i = 0; i < DEPTH; i++)
        locs[i] = i % 2 ? a : b;
    for (uint32_t n = DEPTH; n > DEPTH - 50; n--) {
        int64_t one = 1;
        cr_assert_eq(pb_sample_add(p, locs, n, &one, NULL, 0), 0);
    }
    lay_out(&m, p, 0);
    cr_assert_eq(m.l.depth_max, DEPTH);
    made_free(&m);
    pb_profile_free(p);
    free(locs);
}

Test(flame, values_at_the_end_of_the_range)
{
    made m;
    pb_profile *p = make_profile();
    make_stack(p, "a", INT64_MAX);
    make_stack(p, "b", INT64_MAX);
    lay_out(&m, p, 1);
    cr_assert_eq(m.l.boxes[0].total, INT64_MAX);
    made_free(&m);
    pb_profile_free(p);
}
