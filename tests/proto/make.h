/* Small profiles for the tests of proto/ and of the flame graph. */
#ifndef WEFT_TESTS_PROTO_MAKE_H
#define WEFT_TESTS_PROTO_MAKE_H

#include "proto/profile.h"
#include "tests/check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* One column, samples/count. */
__attribute__((unused)) static pb_profile *make_profile(void)
{
    pb_profile *p = pb_profile_new();
    cr_assert_not_null(p);
    cr_assert_eq(pb_type_add(p, "samples", "count"), 0);
    return p;
}

/* The location of a function of this name, without an address. */
__attribute__((unused)) static uint64_t make_loc(pb_profile *p, const char *name)
{
    int64_t s = pb_string(p, name);
    pb_line line = {pb_function_add(p, s, s, 0, 0), 0};
    cr_assert_gt(line.function, 0);
    uint64_t loc = pb_location_add(p, 0, 0, &line, 1);
    cr_assert_gt(loc, 0);
    return loc;
}

/* Adds v to the stack "root;caller;leaf". */
__attribute__((unused)) static void make_stack(pb_profile *p, const char *stack, int64_t v)
{
    uint64_t locs[64];
    uint32_t n = 0;
    char *copy = strdup(stack), *rest = copy, *name;
    uint64_t root_first[64];
    while ((name = strsep(&rest, ";")))
        root_first[n++] = make_loc(p, name);
    for (uint32_t i = 0; i < n; i++)
        locs[i] = root_first[n - 1 - i];
    cr_assert_eq(pb_sample_add(p, locs, n, &v, NULL, 0), 0);
    free(copy);
}

/* The folded text of a column; the caller frees. */
__attribute__((unused)) static char *make_folded(const pb_profile *p, int column)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = open_memstream(&text, &n);
    cr_assert_not_null(f);
    int64_t lines = pb_fold_write(p, column, f);
    fclose(f);
    cr_assert_geq(lines, 0);
    return text;
}

#endif
