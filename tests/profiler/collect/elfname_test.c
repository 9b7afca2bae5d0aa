/* Names of addresses without malloc. */
#include "tests/profiler/collect/collect_check.h"
#include <stdlib.h>

CHECK_FRAME static int some_static_function(int x)
{
    check_sink += (uint64_t)x;
    return x + 1;
}

Test(elfname, static_functions_have_names)
{
    char text[64];
    cr_assert_eq(some_static_function(1), 2);
    int n = pf_elf_name((uintptr_t)&some_static_function, text, sizeof(text));
    cr_assert_str_eq(text, "some_static_function+0x0");
    cr_assert_eq(n, (int)strlen(text));
    pf_elf_name((uintptr_t)&some_static_function + 1, text, sizeof(text));
    cr_assert_str_eq(text, "some_static_function+0x1");
}

Test(elfname, libc_functions_have_names)
{
    char text[64];
    cr_assert_gt(pf_elf_name((uintptr_t)&strtoll + 4, text, sizeof(text)), 0);
    cr_assert_not_null(strstr(text, "+0x4"));
}

Test(elfname, what_is_no_function_has_none)
{
    char text[64] = "before";
    int local;
    cr_assert_eq(pf_elf_name((uintptr_t)&local, text, sizeof(text)), 0);
    cr_assert_str_eq(text, "");
    cr_assert_eq(pf_elf_name(UINTPTR_MAX, text, sizeof(text)), 0);
    cr_assert_eq(pf_elf_name(0x10, text, sizeof(text)), 0);
    cr_assert_gt(pf_elf_name(PF_TRUNCATED - 1, text, sizeof(text)), 0); /* reports pass pc - 1 */
    cr_assert_str_eq(text, "[truncated]");
}

Test(elfname, small_buffers_are_kept)
{
    char text[64];
    memset(text, 'x', sizeof(text));
    for (size_t n = 1; n < 30; n++) {
        int len = pf_elf_name((uintptr_t)&some_static_function, text, n);
        cr_assert_lt(len, (int)n);
        cr_assert_eq(text[len], 0);
        cr_assert_eq(text[n], 'x');
        memset(text, 'x', sizeof(text));
    }
    cr_assert_eq(pf_elf_name((uintptr_t)&some_static_function, text, 0), 0);
    cr_assert_eq(text[0], 'x');
}
