/* What the tests of profiler/collect share: burning CPU by the thread's own clock, and looking for
 * functions in stacks by their ELF names. */
#ifndef WEFT_TESTS_COLLECT_CHECK_H
#define WEFT_TESTS_COLLECT_CHECK_H

#include "tests/check.h"
#include "profiler/collect/pf.h"
#include <stdint.h>
#include <string.h>
#include <time.h>

/* Keeps a function in the stack: no inlining, no copies under another name. (gcc's optimize
 * attribute would also bring back -fomit-frame-pointer, so what must not be a last call is
 * followed by work.) */
#if defined(__clang__)
#define CHECK_FRAME __attribute__((noinline, disable_tail_calls))
#else
#define CHECK_FRAME __attribute__((noipa))
#endif

#if defined(__SANITIZE_THREAD__)
/* gcc's libtsan holds signals back until the program calls into it: amounts and leaves mean nothing
 * there, so a test of them ends at once. */
#define CHECK_PROMPT_SIGNALS false
__attribute__((unused)) static _Atomic(uint64_t) check_sink;
#else
#define CHECK_PROMPT_SIGNALS true
__attribute__((unused)) static volatile uint64_t check_sink;
#endif
#define check_needs_prompt_signals()                                                               \
    do {                                                                                           \
        if (!CHECK_PROMPT_SIGNALS)                                                                 \
            return;                                                                                \
    } while (0)

static inline int64_t check_clock(clockid_t clock)
{
    struct timespec ts;
    clock_gettime(clock, &ts);
    return ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

/* Uses up this much of the calling thread's CPU time. */
__attribute__((unused)) CHECK_FRAME static void check_burn(int64_t ns)
{
    int64_t end = check_clock(CLOCK_THREAD_CPUTIME_ID) + ns;
    do {
        for (int i = 0; i < 20000; i++)
            check_sink += check_sink * 3 + (uint64_t)i;
    } while (check_clock(CLOCK_THREAD_CPUTIME_ID) < end);
}

/* True when pcs[from..n) has a frame in the function of this name. */
__attribute__((unused)) static bool check_has_frame(const uintptr_t *pcs, uint32_t n,
                                                    const char *name)
{
    char text[256];
    size_t len = strlen(name);
    for (uint32_t i = 0; i < n; i++)
        if (pcs[i] >= PF_SYNTHETIC_END && pf_elf_name(pcs[i] - (i > 0), text, sizeof(text)) > 0 &&
            !strncmp(text, name, len) && text[len] == '+')
            return true;
    return false;
}

__attribute__((unused)) static int64_t check_sum(const pf_raw *raw, int value)
{
    int64_t sum = 0;
    for (size_t i = 0; i < raw->nsamples; i++)
        sum += raw->samples[i].values[value];
    return sum;
}

/* The sum over samples that have a frame in this function. */
__attribute__((unused)) static int64_t check_sum_in(const pf_raw *raw, const char *name, int value)
{
    int64_t sum = 0;
    for (size_t i = 0; i < raw->nsamples; i++)
        if (check_has_frame(raw->samples[i].pcs, raw->samples[i].npcs, name))
            sum += raw->samples[i].values[value];
    return sum;
}

__attribute__((unused)) static const char *check_label(const pf_sample *s, const char *key)
{
    for (uint32_t i = 0; s->labels && i < s->labels->n; i++)
        if (!strcmp(s->labels->label[i].key, key))
            return s->labels->label[i].value;
    return "";
}

#endif
