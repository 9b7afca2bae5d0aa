/* H14: code that uses the frame pointer for data is sampled: no load outside the stack. */
#include "tests/profiler/collect/collect_check.h"
#include <sys/mman.h>

#if defined(__x86_64__)
/* Spins with the frame pointer set to value. */
CHECK_FRAME static void spin_with(uintptr_t value, uint64_t turns)
{
    __asm__ volatile("push %%rbp\n\t"
                     "mov %0, %%rbp\n\t"
                     "1: dec %1\n\t"
                     "jnz 1b\n\t"
                     "pop %%rbp"
                     : "+r"(value), "+r"(turns)
                     :
                     : "cc", "memory");
}
#else
CHECK_FRAME static void spin_with(uintptr_t value, uint64_t turns)
{
    __asm__ volatile("mov x9, x29\n\tmov x29, %0\n\t1: subs %1, %1, #1\n\tb.ne 1b\n\tmov x29, x9"
                     : "+r"(value), "+r"(turns)
                     :
                     : "x9", "cc", "memory");
}
#endif

Test(p14, any_frame_pointer_is_survived, .timeout = 60)
{
    check_needs_prompt_signals();
    pf_raw raw;
    uintptr_t lo = pf_tls.lo, hi = pf_tls.hi, here = (uintptr_t)__builtin_frame_address(0);
    char *closed = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    uintptr_t values[] = {0,         1,           8,
                          16,        UINTPTR_MAX, UINTPTR_MAX - 7,
                          hi - 1,    hi - 8,      hi - 16,
                          hi,        hi + 8,      lo,
                          lo - 8,    lo + 8,      here + 1,
                          here + 8,  here - 4096, (uintptr_t)closed,
                          1ul << 47, 1ul << 63,   (uintptr_t)closed + 4096 - 8};
    cr_assert_neq(hi, 0);
    cr_assert_eq(pf_cpu_start(1000), 0);
    int64_t end = check_clock(CLOCK_THREAD_CPUTIME_ID) + 1500000000;
    while (check_clock(CLOCK_THREAD_CPUTIME_ID) < end)
        for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++)
            spin_with(values[i], 3000000);
    cr_assert_eq(pf_cpu_stop(&raw), 0);
    cr_assert_geq(check_sum_in(&raw, "spin_with", 1), 1000000000);
    pf_raw_free(&raw);
}
