/* The text forms, line by line: what pprof's and people's readers split them by. */
#include <regex.h>
#include "tests/profiler/present/fake.h"

FAKE_FUNCTION(rt_park_here)
FAKE_FUNCTION(weft_fake_recv)
FAKE_FUNCTION(user_work)

static char *text(const pf_raw *raw, int debug)
{
    char *s = NULL;
    size_t n;

    cr_assert_eq(pf_text(raw, debug, &s, &n), 0);
    cr_assert_eq(strlen(s), n);
    return s;
}

/* The lines of text match the patterns, one for one; "..." skips lines up to the next match. */
static void expect(const char *got, const char *const *patterns)
{
    char *copy = strdup(got), *line = copy;
    bool skip = false;

    for (; *patterns; patterns++) {
        regex_t re;
        char full[512];
        if (!strcmp(*patterns, "...")) {
            skip = true;
            continue;
        }
        snprintf(full, sizeof full, "^%s$", *patterns);
        cr_assert_eq(regcomp(&re, full, REG_EXTENDED | REG_NOSUB), 0, "%s", full);
        for (;;) {
            char *end = strchr(line, '\n');
            cr_assert_not_null(end, "no line is like %s in\n%s", full, got);
            *end = '\0';
            bool match = regexec(&re, line, 0, NULL, 0) == 0;
            cr_assert(match || skip, "\"%s\" is not like %s in\n%s", line, full, got);
            line = end + 1;
            if (match)
                break;
        }
        regfree(&re);
        skip = false;
    }
    cr_assert(skip || *line == '\0', "more than expected: %s", line);
    free(copy);
}

Test(text, counts, .init = fake_setup)
{
    static const char *const pairs[] = {"id", "7", "job", "a \"q\"\n"};
    weft_labels *l = fake_labels(2, pairs);
    pf_raw raw;

    fake_stack();
    uintptr_t parked[FAKE_FRAMES + 2] = {FAKE_PC(rt_park_here), FAKE_PC(weft_fake_recv)};
    memcpy(parked + 2, fake_pcs, sizeof fake_pcs);
    fake_begin(&raw, &fake_sources[GOROUTINE]);
    for (int i = 0; i < 3; i++)
        fake_add(&raw, parked, 4)->values[0] = 1;
    uintptr_t alone[] = {FAKE_PC(user_work)};
    pf_sample *s = fake_add(&raw, alone, 1);
    s->values[0] = 1;
    s->labels = l;
    s->leaf_exact = true;
    char *t = text(&raw, 1), first[64], only[64];
    snprintf(first, sizeof first, "3 @ 0x%lx 0x%lx 0x%lx 0x%lx", parked[0], parked[1], parked[2],
             parked[3]);
    snprintf(only, sizeof only, "1 @ 0x%lx", alone[0] + 1);
    expect(t,
           (const char *[]){"goroutine profile: total 4", first,
                            "#\t0x[0-9a-f]+\tweft_fake_recv\\+0x3\t+/.*text_test.c:[0-9]+",
                            "#\t0x[0-9a-f]+\tfake_deep\\+0x[0-9a-f]+\t+/.*fake.h:[0-9]+",
                            "#\t0x[0-9a-f]+\tfake_middle\\+0x[0-9a-f]+\t+/.*fake.h:[0-9]+",
                            "#\t0x[0-9a-f]+\tfake_outer\\+0x[0-9a-f]+\t+/.*fake.h:[0-9]+",
                            "#\t0x[0-9a-f]+\tfake_root\\+0x[0-9a-f]+\t+/.*fake.h:[0-9]+", "", only,
                            "# labels: \\{\"id\":\"7\", \"job\":\"a \\\\\"q\\\\\"\\\\n\"\\}",
                            "#\t0x[0-9a-f]+\tuser_work\\+0x4\t/.*text_test.c:[0-9]+", "", NULL});
    free(t);
    fake_raw_free(&raw);
    free(l);
}

Test(text, alignment_is_by_tabs, .init = fake_setup)
{
    pf_raw raw;

    fake_stack();
    fake_begin(&raw, &fake_sources[THREADS]);
    fake_add(&raw, fake_pcs, 2)->values[0] = 1;
    char *t = text(&raw, 1), *line = t;
    int column[2] = {0, 0}, n = 0;
    /* Where the file begins, with tab stops of 8, is the same in all rows. */
    while ((line = strstr(line, "#\t"))) {
        int at = 0, cells = 0;
        for (char *p = line; *p != '\n'; p++) {
            at = *p == '\t' ? (at / 8 + 1) * 8 : at + 1;
            if (*p == '\t' && p[1] != '\t' && ++cells == 3) {
                if (n++ == 0)
                    column[0] = at;
                column[1] = at;
                cr_assert_eq(column[0], column[1], "%s", t);
            }
        }
        line++;
    }
    cr_assert_eq(n, 4);
    free(t);
    fake_raw_free(&raw);
}

Test(text, heap, .init = fake_setup)
{
    uintptr_t a[] = {FAKE_PC(user_work)}, b[] = {FAKE_PC(weft_fake_recv)};
    pf_raw raw;

    fake_begin(&raw, &fake_sources[HEAP]);
    raw.rate = raw.period = 524288;
    pf_sample *s = fake_add(&raw, a, 1);
    memcpy(s->unscaled, (int64_t[]){5, 500, 0, 0}, sizeof s->unscaled);
    memcpy(s->values, (int64_t[]){50, 5000, 0, 0}, sizeof s->values);
    s = fake_add(&raw, b, 1);
    memcpy(s->unscaled, (int64_t[]){2, 64, 1, 32}, sizeof s->unscaled);
    char *t = text(&raw, 1);
    expect(t, (const char *[]){"heap profile: 1: 32 \\[7: 564\\] @ heap/1048576",
                               "1: 32 \\[2: 64\\] @ 0x[0-9a-f]+", "#\t.*weft_fake_recv.*", "",
                               "0: 0 \\[5: 500\\] @ 0x[0-9a-f]+", "#\t.*user_work.*", "", "",
                               "# runtime.MemStats", "...", "# MaxRSS = [1-9][0-9]*", NULL});
    cr_assert_not_null(strstr(t, "# TotalAlloc = 5000\n"));
    free(t);
    fake_raw_free(&raw);

    /* Where all is in use, pprof must still see two pairs. */
    fake_begin(&raw, &fake_sources[HEAP]);
    s = fake_add(&raw, a, 1);
    memcpy(s->unscaled, (int64_t[]){1, 32, 1, 32}, sizeof s->unscaled);
    t = text(&raw, 1);
    cr_assert_not_null(strstr(t, "heap profile: 1: 32 [1: 33] @"));
    free(t);
    fake_raw_free(&raw);
}

Test(text, contention, .init = fake_setup)
{
    uintptr_t a[] = {FAKE_PC(rt_park_here), FAKE_PC(user_work)};
    pf_raw raw;

    fake_begin(&raw, &fake_sources[MUTEX]);
    raw.rate = 5;
    pf_sample *s = fake_add(&raw, a, 2);
    s->values[0] = 50;
    s->values[1] = 1000;
    char *t = text(&raw, 1);
    expect(t, (const char *[]){"--- mutex:", "cycles/second=1000000000", "sampling period=5",
                               "200 10 @ 0x[0-9a-f]+ 0x[0-9a-f]+", "#\t.*rt_park_here.*",
                               "#\t.*user_work.*", "", NULL});
    free(t);
    raw.source = &fake_sources[BLOCK];
    t = text(&raw, 1);
    expect(t, (const char *[]){"--- contention:", "cycles/second=1000000000", "1000 50 @ .*", "...",
                               NULL});
    free(t);
    fake_raw_free(&raw);
    fake_begin(&raw, &fake_sources[MUTEX]);
    t = text(&raw, 1);
    cr_assert_str_eq(t, "--- mutex:\ncycles/second=1000000000\nsampling period=0\n");
    free(t);
    fake_raw_free(&raw);
}

Test(text, each_coroutine, .init = fake_setup)
{
    pf_raw raw;

    fake_stack();
    pf_coro waits = {.id = 7,
                     .creator_id = 1,
                     .creator_pc = fake_pcs[1],
                     .state = WEFT_CORO_WAITING,
                     .reason = WEFT_WAIT_CHAN_RECV,
                     .age_ns = INT64_C(125000000000),
                     .pinned = true,
                     .name = "a, b]c"};
    pf_coro runs = {.id = 2, .state = WEFT_CORO_RUNNING, .age_ns = INT64_C(125000000000)};
    pf_coro young = {.id = 3, .state = WEFT_CORO_RUNNABLE, .fn = (uintptr_t)user_work};
    pf_coro sleeps = {.id = 9,
                      .state = WEFT_CORO_WAITING,
                      .reason = WEFT_WAIT_SLEEP,
                      .age_ns = INT64_C(59999999999)};
    uintptr_t parked[] = {FAKE_PC(rt_park_here), FAKE_PC(weft_fake_recv), fake_pcs[0]},
              elsewhere[] = {PF_RUNNING_ELSEWHERE}, entry[] = {(uintptr_t)user_work},
              deep[] = {FAKE_PC(user_work), PF_TRUNCATED, FAKE_PC(user_work)};
    fake_begin(&raw, &fake_sources[GOROUTINE]);
    fake_add(&raw, parked, 3)->coro = &waits;
    fake_add(&raw, elsewhere, 1)->coro = &runs;
    pf_sample *s = fake_add(&raw, entry, 1);
    s->coro = &young;
    s->leaf_exact = true;
    fake_add(&raw, deep, 3)->coro = &sleeps;
    char *t = text(&raw, 2);
    expect(t, (const char *[]){
                  "goroutine 2 \\[running\\]:",
                  "\tgoroutine running on other thread; stack unavailable",
                  "",
                  "goroutine 3 \\[runnable\\]:",
                  "user_work\\(\\.\\.\\.\\)",
                  "\t/.*text_test.c:[0-9]+ \\+0x0",
                  "",
                  "goroutine 7 \\[chan receive, 2 minutes, locked to thread, named a__b_c\\]:",
                  "weft_fake_recv\\(\\.\\.\\.\\)",
                  "\t/.*text_test.c:[0-9]+ \\+0x4",
                  "fake_deep\\(\\.\\.\\.\\)",
                  "\t/.*fake.h:[0-9]+",
                  "fake_middle\\(\\.\\.\\.\\)",
                  "\t/.*fake.h:[0-9]+",
                  "fake_outer\\(\\.\\.\\.\\)",
                  "\t/.*fake.h:[0-9]+ \\+0x[0-9a-f]+",
                  "created by fake_root in goroutine 1",
                  "\t/.*fake.h:[0-9]+ \\+0x[0-9a-f]+",
                  "",
                  "goroutine 9 \\[sleep\\]:",
                  "user_work\\(\\.\\.\\.\\)",
                  "\t/.*text_test.c:[0-9]+ \\+0x4",
                  "\\.\\.\\.additional frames elided\\.\\.\\.",
                  "user_work\\(\\.\\.\\.\\)",
                  "\t/.*text_test.c:[0-9]+ \\+0x4",
                  NULL});
    free(t);
    fake_raw_free(&raw);
}

Test(text, render_chooses_the_form, .init = fake_setup)
{
    void *buf;
    size_t n;
    bool is_text;
    pf_raw raw;

    fake_begin(&raw, &fake_sources[PROFILE]);
    cr_assert_eq(pf_render(&raw, 1, &buf, &n, &is_text), 0);
    cr_assert(!is_text && !memcmp(buf, "\x1f\x8b", 2), "the CPU profile has no text");
    free(buf);
    raw.source = &fake_sources[HEAP];
    cr_assert_eq(pf_render(&raw, 0, &buf, &n, &is_text), 0);
    cr_assert(!is_text && !memcmp(buf, "\x1f\x8b", 2));
    free(buf);
    cr_assert_eq(pf_render(&raw, 2, &buf, &n, &is_text), 0);
    cr_assert(is_text && !memcmp(buf, "heap profile: ", 14), "2 is as 1 but for goroutine");
    free(buf);
    fake_raw_free(&raw);
}
