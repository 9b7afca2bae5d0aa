/* H13: a coroutine with a kilobyte left is sampled; the signal's frame would not fit there. */
#include "tests/profiler/collect/collect_check.h"

/* What the loop below needs itself; a sanitizer's calls need more. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { LEFT = 24 << 10 };
#else
enum { LEFT = 1400 };
#endif

CHECK_FRAME static void go_down(uintptr_t lo)
{
    volatile char pad[64];
    pad[0] = 1;
    if ((uintptr_t)pad > lo + LEFT)
        go_down(lo);
    else
        for (int64_t end = weft_now() + 300000000; weft_now() < end;)
            check_sink += (uint64_t)pad[0];
    check_sink++;
}

static void to_the_edge(void *done)
{
    weft_peek peek;
    weft_hook_peek((uintptr_t)__builtin_frame_address(0), &peek);
    cr_assert_eq(peek.kind, WEFT_ON_CORO);
    go_down(peek.lo);
    weft_chan_send(done, NULL);
}

static int first(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *done = weft_chan_new(0, 0);
    weft_go(to_the_edge, done);
    return weft_chan_recv(done, NULL);
}

Test(p13, a_kilobyte_of_stack_is_left, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    cr_assert_eq(pf_cpu_start(1000), 0);
    cr_assert_eq(weft_run(first, 0, NULL), 0);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    bool deep = false;
    for (size_t i = 0; i < raw.nsamples; i++)
        deep |= raw.samples[i].npcs == PF_DEPTH && raw.samples[i].pcs[64] == PF_TRUNCATED;
    cr_assert(deep);
    pf_raw_free(&raw);
}
