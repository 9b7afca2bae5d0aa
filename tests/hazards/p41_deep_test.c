/* H41: a stack deeper than the limit keeps its root, and says where frames are missing. */
#include "tests/profiler/collect/collect_check.h"

CHECK_FRAME static void deep(int left)
{
    if (left)
        deep(left - 1);
    else
        check_burn(300000000);
    check_sink++;
}

CHECK_FRAME static void root_of_deep(void)
{
    deep(1000);
    check_sink++;
}

Test(p41, a_thousand_frames, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    int64_t right = 0;
    cr_assert_eq(pf_cpu_start(1000), 0);
    root_of_deep();
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        if (s->npcs != PF_DEPTH)
            continue;
        cr_assert_eq(s->pcs[PF_DEPTH / 2], PF_TRUNCATED);
        if (check_has_frame(s->pcs + 1, 63, "deep") &&
            check_has_frame(s->pcs + 65, 63, "root_of_deep"))
            right += s->values[1];
    }
    cr_assert_geq(right, 200000000);
    pf_raw_free(&raw);
}
