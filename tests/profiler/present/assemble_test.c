/* A hand-made snapshot of this program becomes a profile: what is in its tables is compared with
 * what was put in, with known inline chains, labels and library frames. */
#include <dlfcn.h>
#include "tests/profiler/present/fake.h"

FAKE_FUNCTION(rt_park_here)
#include "tests/profiler/present/inside.h"
FAKE_FUNCTION(weft_fake_recv)
FAKE_FUNCTION(rt_coro_root)
FAKE_FUNCTION(pf_record_here)
FAKE_FUNCTION(user_work)
FAKE_FUNCTION(user_main)

static pb_profile *assemble(const pf_raw *raw)
{
    pb_profile *p = NULL;

    cr_assert_eq(pf_assemble(raw, &p), 0);
    for (size_t i = 0; i < p->nsamples; i++) {
        cr_assert_gt(p->samples[i].nlocs, 0, "an empty stack");
        for (uint32_t k = 0; k < p->samples[i].nlocs; k++)
            cr_assert_leq(p->samples[i].locs[k], p->nlocations);
    }
    for (size_t i = 0; i < p->nlocations; i++)
        cr_assert_gt(p->locations[i].nlines, 0, "a location without a line");
    return p;
}

static const pb_location *location(const pb_profile *p, size_t sample, uint32_t frame)
{
    cr_assert_lt(frame, p->samples[sample].nlocs);
    return &p->locations[p->samples[sample].locs[frame] - 1];
}

static const pb_function *function(const pb_profile *p, const pb_location *l, uint32_t line)
{
    cr_assert_lt(line, l->nlines);
    return &p->functions[l->lines[line].function - 1];
}

static const char *name(const pb_profile *p, size_t sample, uint32_t frame)
{
    const pb_location *l = location(p, sample, frame);

    return pb_str(p, function(p, l, l->nlines - 1)->name);
}

Test(assemble, inline_chain_lines_and_mapping, .init = fake_setup)
{
    pf_raw raw;
    char self[512] = "";

    fake_stack();
    fake_begin(&raw, &fake_sources[PROFILE]);
    pf_sample *s = fake_add(&raw, fake_pcs, FAKE_FRAMES);
    s->values[0] = 3;
    s->values[1] = 30000000;
    raw.period = 10000000;
    raw.duration_ns = 5;
    pb_profile *p = assemble(&raw);

    cr_assert_eq(p->nsamples, 1);
    const pb_location *l = location(p, 0, 0);
    cr_assert_eq(l->address, fake_pcs[0] - 1);
    cr_assert_eq(l->nlines, 3, "the whole inline chain");
    static const char *const names[] = {"fake_deep", "fake_middle", "fake_outer"};
    int lines[] = {fake_line_deep, fake_line_middle, fake_line_outer};
    for (uint32_t i = 0; i < 3; i++) {
        const pb_function *f = function(p, l, i);
        cr_assert_str_eq(pb_str(p, f->name), names[i]);
        cr_assert_str_eq(pb_str(p, f->system_name), names[i]);
        cr_assert_not_null(strstr(pb_str(p, f->file), "fake.h"));
        cr_assert_eq(l->lines[i].line, lines[i]);
    }
    cr_assert_str_eq(name(p, 0, 1), "fake_root");
    cr_assert_eq(location(p, 0, 1)->lines[0].line, fake_line_root, "the line of the call");

    const pb_mapping *m = &p->mappings[l->mapping - 1];
    cr_assert_eq(l->mapping, 1, "the program is the first mapping");
    cr_assert(m->start <= l->address && l->address < m->limit);
    cr_assert_gt(readlink("/proc/self/exe", self, sizeof self - 1), 0);
    cr_assert_str_eq(pb_str(p, m->file), self);
    cr_assert_str_eq(pb_str(p, m->build_id), raw.modules[0].build_id);
    cr_assert(m->has_functions && m->has_filenames && m->has_line_numbers && m->has_inline_frames);
    cr_assert_eq(p->ntypes, 2);
    cr_assert_str_eq(pb_str(p, p->types[0].type), "samples");
    cr_assert_str_eq(pb_str(p, p->types[1].unit), "nanoseconds");
    cr_assert_str_eq(pb_str(p, p->period_type.type), "cpu");
    cr_assert_eq(p->period, 10000000);
    cr_assert_eq(p->duration_ns, 5);
    cr_assert_eq(p->time_ns, raw.time_ns);
    cr_assert_eq(p->default_type, 0);
    pb_profile_free(p);
    fake_raw_free(&raw);
}

Test(assemble, exact_leaf_and_synthetic_frames, .init = fake_setup)
{
    pf_raw raw;
    uintptr_t pcs[] = {FAKE_PC(user_work), PF_TRUNCATED, FAKE_PC(user_main), 0x1234567};

    fake_begin(&raw, &fake_sources[PROFILE]);
    fake_add(&raw, pcs, 4)->leaf_exact = true;
    fake_add(&raw, pcs, 0)->values[0] = 1;
    pb_profile *p = assemble(&raw);
    cr_assert_eq(location(p, 0, 0)->address, pcs[0]);
    cr_assert_eq(location(p, 0, 1)->address, PF_TRUNCATED);
    cr_assert_eq(location(p, 0, 1)->mapping, 0);
    cr_assert_str_eq(name(p, 0, 1), "[truncated]");
    cr_assert_eq(location(p, 0, 2)->address, pcs[2] - 1);
    cr_assert_str_eq(name(p, 0, 3), "[unknown]");
    cr_assert_str_eq(name(p, 1, 0), "[no stack]");
    pb_profile_free(p);
    fake_raw_free(&raw);
}

Test(assemble, equal_stacks_and_labels_meet, .init = fake_setup)
{
    static const char *const a[] = {"job", "one", "route", "/x"}, *const b[] = {"job", "two"};
    weft_labels *one = fake_labels(2, a), *same = fake_labels(2, a), *two = fake_labels(1, b);
    uintptr_t pcs[] = {FAKE_PC(user_work), FAKE_PC(user_main)};
    pf_raw raw;

    fake_begin(&raw, &fake_sources[GOROUTINE]);
    const weft_labels *sets[] = {two, one, same, NULL, one};
    for (int i = 0; i < 5; i++) {
        pf_sample *s = fake_add(&raw, pcs, 2);
        s->labels = sets[i];
        s->values[0] = 1;
    }
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->nsamples, 3);
    cr_assert_eq(p->samples[0].values[0], 3, "the largest first");
    cr_assert_eq(p->samples[0].nlabels, 2);
    bool route = false;
    for (int i = 0; i < 2; i++)
        if (!strcmp(pb_str(p, p->samples[0].labels[i].key), "route"))
            route = !strcmp(pb_str(p, p->samples[0].labels[i].str), "/x");
    cr_assert(route);
    pb_profile_free(p);
    fake_raw_free(&raw);
    free(one);
    free(same);
    free(two);
}

Test(assemble, heap_labels_types_and_default, .init = fake_setup)
{
    uintptr_t pcs[] = {FAKE_PC(user_work), FAKE_PC(user_main)};
    pf_raw raw;

    fake_begin(&raw, &fake_sources[ALLOCS]);
    raw.period = 524288;
    for (int i = 0; i < 3; i++) {
        pf_sample *s = fake_add(&raw, pcs, 2);
        s->block_bytes = i == 2 ? 0 : 64 << i;
        for (int k = 0; k < 4; k++)
            s->values[k] = 10 * (i + 1) + k;
    }
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->nsamples, 3, "one for each block size");
    cr_assert_eq(p->samples[0].nlabels, 1);
    cr_assert_str_eq(pb_str(p, p->samples[0].labels[0].key), "bytes");
    cr_assert_eq(p->samples[0].labels[0].num, 64);
    cr_assert_eq(p->samples[0].labels[0].num_unit, 0);
    cr_assert_eq(p->samples[2].nlabels, 0);
    cr_assert_eq(p->samples[1].values[3], 23);
    cr_assert_str_eq(pb_str(p, p->default_type), "alloc_space");
    cr_assert_eq(p->period, 524288);
    cr_assert_eq(p->ntypes, 4);
    pb_profile_free(p);
    fake_raw_free(&raw);
}

/* Here the program holds the library, as with libweft.a: prefixes tell. */
Test(assemble, library_frames_are_hidden, .init = fake_setup)
{
    uintptr_t parked[] = {FAKE_PC(rt_park_here), FAKE_PC(rt_park_here), FAKE_PC(weft_fake_recv),
                          FAKE_PC(user_work),    FAKE_PC(rt_park_here), FAKE_PC(user_main),
                          FAKE_PC(rt_coro_root)};
    uintptr_t alloc[] = {FAKE_PC(pf_record_here), FAKE_PC(user_work), FAKE_PC(weft_fake_recv)};
    uintptr_t inside[] = {FAKE_PC(rt_park_here), FAKE_PC(rt_coro_root)};
    pf_raw raw;

    fake_begin(&raw, &fake_sources[GOROUTINE]);
    fake_add(&raw, parked, 7)->values[0] = 3;
    fake_add(&raw, alloc, 3)->values[0] = 2;
    fake_add(&raw, inside, 2)->values[0] = 1;
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->samples[0].nlocs, 4);
    cr_assert_str_eq(name(p, 0, 0), "weft_fake_recv");
    cr_assert_str_eq(name(p, 0, 3), "user_main");
    cr_assert_eq(p->samples[1].nlocs, 2);
    cr_assert_str_eq(name(p, 1, 0), "user_work");
    cr_assert_eq(p->samples[2].nlocs, 2, "all of it where nothing else is left");
    pb_profile_free(p);

    /* The CPU profile keeps its leaf: the time is spent there. */
    raw.source = &fake_sources[PROFILE];
    p = assemble(&raw);
    cr_assert_eq(p->samples[0].nlocs, 6);
    cr_assert_str_eq(name(p, 0, 0), "rt_park_here");
    cr_assert_str_eq(name(p, 0, 5), "user_main");
    pb_profile_free(p);

    /* Nor is what threads run hidden. */
    raw.source = &fake_sources[THREADS];
    p = assemble(&raw);
    cr_assert_str_eq(name(p, 0, 0), "rt_park_here");
    pb_profile_free(p);
    fake_raw_free(&raw);
}

/* The library's static functions have no prefix; their files tell. */
Test(assemble, static_functions_of_the_library_are_hidden, .init = fake_setup)
{
    uintptr_t parked[] = {FAKE_PC(rt_park_here), FAKE_PC(wait_locked), FAKE_PC(weft_fake_recv),
                          FAKE_PC(user_work), FAKE_PC(wait_locked)};
    uintptr_t own[] = {FAKE_PC(user_runtime), FAKE_PC(user_work)};
    uintptr_t helper[] = {FAKE_PC(static_helper), FAKE_PC(user_work)};
    pf_raw raw;

    fake_api.raw_free = raw_free_inside;
    fake_begin(&raw, &fake_sources[GOROUTINE]);
    fake_add(&raw, parked, 5)->values[0] = 3;
    fake_add(&raw, own, 2)->values[0] = 2;
    fake_add(&raw, helper, 2)->values[0] = 1;
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->samples[0].nlocs, 2);
    cr_assert_str_eq(name(p, 0, 0), "weft_fake_recv");
    cr_assert_str_eq(name(p, 1, 0), "user_runtime", "a room of that name elsewhere");
    cr_assert_str_eq(name(p, 2, 0), "static_helper");
    pb_profile_free(p);
    fake_raw_free(&raw);
}

/* libweft.so: everything in it that is not public is hidden, by whatever name. */
Test(assemble, a_library_of_its_own_is_hidden_whole, .init = fake_setup)
{
    pf_raw raw;
    uintptr_t pcs[4];

    fake_begin(&raw, &fake_sources[HEAP]);
    /* libc stands for it: raw_free lies there, and the test is another module. */
    fake_api.raw_free = (void (*)(pf_raw *))(uintptr_t)dlsym(RTLD_DEFAULT, "qsort");
    pcs[0] = (uintptr_t)dlsym(RTLD_DEFAULT, "bsearch") + 1;
    pcs[1] = FAKE_PC(user_work);
    pcs[2] = FAKE_PC(rt_park_here);
    pcs[3] = (uintptr_t)dlsym(RTLD_DEFAULT, "bsearch") + 1;
    fake_add(&raw, pcs, 4)->values[3] = 2;
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->samples[0].nlocs, 2);
    cr_assert_str_eq(name(p, 0, 0), "user_work");
    cr_assert_str_eq(name(p, 0, 1), "rt_park_here", "the program's own, whatever its prefix");
    pb_profile_free(p);
    fake_raw_free(&raw);
}

FAKE_FUNCTION(malloc_slow)
FAKE_FUNCTION(__libc_calloc_)

Test(assemble, malloc_is_no_leaf_of_the_heap, .init = fake_setup)
{
    uintptr_t pcs[] = {FAKE_PC(pf_record_here), FAKE_PC(malloc_slow), FAKE_PC(user_work)};
    uintptr_t like[] = {FAKE_PC(__libc_calloc_), FAKE_PC(user_work)};
    pf_raw raw;

    fake_begin(&raw, &fake_sources[HEAP]);
    fake_add(&raw, pcs, 3)->values[3] = 2;
    fake_add(&raw, like, 2)->values[3] = 1;
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->samples[0].nlocs, 1);
    cr_assert_str_eq(name(p, 0, 0), "user_work");
    cr_assert_str_eq(name(p, 1, 0), "__libc_calloc_", "only the allocator's own names");
    pb_profile_free(p);
    fake_raw_free(&raw);
}

Test(assemble, an_empty_profile_names_the_program, .init = fake_setup)
{
    pf_raw raw;

    fake_begin(&raw, &fake_sources[BLOCK]);
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->nsamples, 0);
    cr_assert_eq(p->nmappings, 1);
    cr_assert_eq(p->ntypes, 2);
    cr_assert_str_eq(pb_str(p, p->types[1].type), "delay");
    pb_profile_free(p);
    fake_raw_free(&raw);
}

Test(assemble, contention_is_sorted_by_delay, .init = fake_setup)
{
    uintptr_t a[] = {FAKE_PC(user_work)}, b[] = {FAKE_PC(user_main)};
    pf_raw raw;

    fake_begin(&raw, &fake_sources[MUTEX]);
    fake_add(&raw, a, 1)->values[1] = 5;
    fake_add(&raw, b, 1)->values[1] = 50;
    fake_add(&raw, a, 1)->values[1] = 6;
    pb_profile *p = assemble(&raw);
    cr_assert_eq(p->nsamples, 2);
    cr_assert_eq(p->samples[0].values[1], 50);
    cr_assert_eq(p->samples[1].values[1], 11);
    pb_profile_free(p);
    fake_raw_free(&raw);
}
