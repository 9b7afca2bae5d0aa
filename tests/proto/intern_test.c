/* The arena, the index and the table of strings. */
#include "proto/intern.h"
#include "tests/check.h"

#include <stdio.h>
#include <stdlib.h>

Test(intern, arena_keeps_what_it_gave)
{
    pb_arena a = {0};
    char *first = pb_arena_alloc(&a, 3);
    memcpy(first, "abc", 3);
    for (int i = 0; i < 20000; i++) {
        char *p = pb_arena_alloc(&a, (size_t)(i % 300));
        cr_assert_not_null(p);
        cr_assert_eq((uintptr_t)p % 8, 0);
        memset(p, 0xff, (size_t)(i % 300));
    }
    char *big = pb_arena_alloc(&a, 1 << 20);
    cr_assert_not_null(big);
    big[(1 << 20) - 1] = 1;
    cr_assert(memcmp(first, "abc", 3) == 0);
    pb_arena_free(&a);
    cr_assert_null(a.chunks);
}

Test(intern, arena_refuses_what_cannot_be)
{
    pb_arena a = {0};
    cr_assert_null(pb_arena_alloc(&a, SIZE_MAX - 4));
    pb_arena_free(&a);
}

Test(intern, equal_strings_are_one)
{
    pb_arena a = {0};
    pb_strtab t = {0};
    char name[32];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < 5000; i++) {
            int n = snprintf(name, sizeof name, "function_%d", i);
            cr_assert_eq(pb_strtab_add(&t, &a, name, (size_t)n), i);
        }
    cr_assert_eq(t.n, 5000);
    cr_assert_str_eq(t.text[4999], "function_4999");
    cr_assert_eq(pb_text_len(t.text[4999]), 13);
    pb_strtab_free(&t);
    pb_arena_free(&a);
}

Test(intern, strings_end_at_a_nul_and_prefixes_differ)
{
    pb_arena a = {0};
    pb_strtab t = {0};
    int64_t ab = pb_strtab_add(&t, &a, "ab\0cd", 5);
    cr_assert_eq(pb_strtab_add(&t, &a, "ab", 2), ab);
    cr_assert_neq(pb_strtab_add(&t, &a, "a", 1), ab);
    cr_assert_neq(pb_strtab_add(&t, &a, "abc", 3), ab);
    int64_t empty = pb_strtab_add(&t, &a, NULL, 0);
    cr_assert_eq(pb_strtab_add(&t, &a, "", 0), empty);
    pb_strtab_free(&t);
    pb_arena_free(&a);
}

Test(intern, hash_sees_every_byte)
{
    unsigned char data[40] = {0};
    uint64_t before = pb_hash(data, sizeof data, 7);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = 1;
        cr_assert_neq(pb_hash(data, sizeof data, 7), before, "byte %zu", i);
        data[i] = 0;
    }
    cr_assert_neq(pb_hash(data, sizeof data - 1, 7), before);
    cr_assert_neq(pb_hash(data, sizeof data, 8), before);
}

Test(intern, grow_reaches_far_in_one_step)
{
    int *v = NULL;
    size_t cap = 0;
    cr_assert_eq(pb_grow(&v, 100000, &cap, sizeof *v), 0);
    cr_assert_gt(cap, 100000);
    v[100000] = 1;
    cr_assert_neq(pb_grow(&v, PB_MAX_ENTRIES, &cap, sizeof *v), 0);
    free(v);
}

Test(intern, sums_stop_at_the_ends)
{
    cr_assert_eq(pb_add_sat(INT64_MAX, 1), INT64_MAX);
    cr_assert_eq(pb_add_sat(INT64_MIN, -1), INT64_MIN);
    cr_assert_eq(pb_add_sat(-3, 5), 2);
    cr_assert_eq(pb_mul_sat(INT64_MAX, 2), INT64_MAX);
    cr_assert_eq(pb_mul_sat(INT64_MAX, -2), INT64_MIN);
    cr_assert_eq(pb_mul_sat(INT64_MIN, -1), INT64_MAX);
    cr_assert_eq(pb_mul_sat(-3, 5), -15);
}
