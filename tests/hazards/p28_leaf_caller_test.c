/* H28: in a function's first and last instructions the frame pointer is the caller's, and a plain
 * walk loses the caller itself. (A prologue that the compiler has mixed with other work, and a leaf
 * that makes no frame at all, need unwind tables; this is the plain shape, in assembly.) */
#include "tests/profiler/collect/collect_check.h"

#if defined(__x86_64__)
uint64_t tiny(uint64_t x);
__asm__(".text\n.globl tiny\n.hidden tiny\n.type tiny, @function\n"
        "tiny:\n\tpush %rbp\n\tmov %rsp, %rbp\n\tlea 1(%rdi,%rdi,2), %rax\n\tpop %rbp\n\tret\n"
        ".size tiny, .-tiny");
#else
CHECK_FRAME static uint64_t tiny(uint64_t x)
{
    return x * 3 + 1;
}
#endif

CHECK_FRAME static void calls_tiny(int64_t ns)
{
    int64_t end = check_clock(CLOCK_THREAD_CPUTIME_ID) + ns;
    uint64_t x = 1;
    while (check_clock(CLOCK_THREAD_CPUTIME_ID) < end)
        for (int i = 0; i < 10000; i++)
            x = tiny(x);
    check_sink += x;
}

Test(p28, a_tiny_leaf_keeps_its_caller, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    int64_t in_tiny = 0, with_caller = 0;
    cr_assert_eq(pf_cpu_start(1000), 0);
    calls_tiny(1500000000);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    for (size_t i = 0; i < raw.nsamples; i++) {
        const pf_sample *s = &raw.samples[i];
        if (!check_has_frame(s->pcs, 1, "tiny"))
            continue;
        in_tiny += s->values[0];
        if (s->npcs > 1 && check_has_frame(s->pcs, 2, "calls_tiny"))
            with_caller += s->values[0];
    }
#if defined(__x86_64__)
    cr_assert_gt(in_tiny, 0);
    cr_assert_geq(with_caller * 100, in_tiny * 99, "%ld of %ld", (long)with_caller, (long)in_tiny);
#endif
    pf_raw_free(&raw);
}
