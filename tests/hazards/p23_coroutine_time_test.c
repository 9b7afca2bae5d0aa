/* H22, H23: all CPU time of coroutines is in the profile, each stack from its leaf to the
 * coroutine's entry, and not beyond. */
#include "tests/profiler/collect/collect_check.h"
#include <stdlib.h>

static void burns(void *done)
{
    weft_label_set("who", "coroutine");
    check_burn(400000000);
    weft_chan_send(done, NULL);
}

static int first(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *done = weft_chan_new(0, 0);
    for (int i = 0; i < 4; i++)
        weft_go(burns, done);
    for (int i = 0; i < 4; i++)
        weft_chan_recv(done, NULL);
    return 0;
}

Test(p23, coroutine_time_is_process_time, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(250), 0);
    int64_t before = check_clock(CLOCK_PROCESS_CPUTIME_ID);
    cr_assert_eq(weft_run(first, 0, NULL), 0);
    int64_t used = check_clock(CLOCK_PROCESS_CPUTIME_ID) - before;
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    int64_t sum = check_sum(&raw, 1), labelled = 0;
    cr_assert_leq(llabs(sum - used) * 100, used * 3, "%ld of %ld", (long)sum, (long)used);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        if (strcmp(check_label(s, "who"), "coroutine") != 0)
            continue;
        labelled += s->values[1];
        cr_assert(check_has_frame(&s->pcs[s->npcs - 1], 1, "rt_coro_start"));
    }
    cr_assert_geq(labelled, 1400000000);
    pf_raw_free(&raw);
}
