/* Raw snapshots: shared stacks, growth, references. */
#include "tests/profiler/collect/collect_check.h"

Test(raw, equal_stacks_share_one_copy)
{
    pf_raw raw;
    uintptr_t a[2] = {0x1000, 0x2000}, b[2] = {0x1000, 0x2001};
    cr_assert_eq(pf_raw_init(&raw, &pf_coroutine_source), 0);
    for (int i = 0; i < 3; i++) {
        cr_assert_not_null(pf_raw_add(&raw, a, 2, true, NULL));
        cr_assert_not_null(pf_raw_add(&raw, b, 2, true, NULL));
        cr_assert_not_null(pf_raw_add(&raw, a, 1, true, NULL));
    }
    cr_assert_eq(raw.nsamples, 9);
    cr_assert_eq(raw.samples[0].pcs, raw.samples[3].pcs);
    cr_assert_eq(raw.samples[1].pcs, raw.samples[7].pcs);
    cr_assert_neq(raw.samples[0].pcs, raw.samples[1].pcs);
    cr_assert_neq(raw.samples[0].pcs, raw.samples[2].pcs);
    cr_assert_neq(raw.samples[0].pcs, a);
    cr_assert_eq(raw.samples[1].pcs[1], 0x2001);
    pf_raw_free(&raw);
    cr_assert_null(raw.arena);
    pf_raw_free(&raw); /* a freed one is empty */
}

Test(raw, grows)
{
    enum { N = 100000 };
    pf_raw raw;
    cr_assert_eq(pf_raw_init(&raw, NULL), 0);
    for (uintptr_t i = 0; i < N; i++) {
        uintptr_t pcs[3] = {i, i / 7, 5};
        pf_sample *s = pf_raw_add(&raw, pcs, 3, false, NULL);
        cr_assert_not_null(s);
        s->values[0] = (int64_t)i;
    }
    for (uintptr_t i = 0; i < N; i++) {
        cr_assert_eq(raw.samples[i].pcs[0], i);
        cr_assert_eq(raw.samples[i].pcs[1], i / 7);
        cr_assert_eq(raw.samples[i].values[0], (int64_t)i);
        cr_assert_eq(raw.samples[i].values[1], 0);
    }
    char *big = pf_raw_alloc(&raw, 10 << 20);
    cr_assert_not_null(big);
    cr_assert(big[0] == 0 && big[(10 << 20) - 1] == 0);
    pf_raw_free(&raw);
}

Test(raw, holds_its_labels)
{
    pf_raw raw;
    uintptr_t pc = 0x1000;
    weft_label_set("k", "v");
    weft_labels *set = weft_labels_swap(NULL);
    cr_assert_eq(pf_raw_init(&raw, NULL), 0);
    pf_raw_add(&raw, &pc, 1, true, set);
    pf_raw_add(&raw, &pc, 1, true, set);
    cr_assert_eq(set->refs, 3);
    weft_labels_free(set);
    cr_assert_str_eq(check_label(&raw.samples[1], "k"), "v");
    pf_raw_free(&raw);
}
