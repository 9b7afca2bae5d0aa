/* Stacks: classes, guards that hold, reuse, return of memory, and libc's hungry functions on the
 * default stack (R29-R32). */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include <regex.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

Test(stack, classes)
{
    cr_assert_eq(rt_stack_class(0), 0);
    cr_assert_eq(rt_stack_class(65536), 0);
    cr_assert_eq(rt_stack_class(65537), 1);
    cr_assert_eq(rt_stack_class(8 << 20), 7);
    cr_assert_eq(rt_stack_class((size_t)1 << 30), 14);
    cr_assert_eq(rt_stack_class(((size_t)1 << 30) + 1), -EINVAL);
}

Test(stack, the_whole_of_it_is_writable_and_reused_lifo)
{
    rt_stack a, b;
    cr_assert_eq(rt_stack_get(NULL, 2, &a), 0);
    cr_assert_eq(a.hi - a.lo, 256u << 10);
    memset((void *)a.lo, 0xa5, a.hi - a.lo);
    rt_stack_put(NULL, &a);
    cr_assert_eq(rt_stack_get(NULL, 2, &b), 0);
    cr_assert_eq(a.lo, b.lo);
}

Test(stack, below_is_a_guard, .signal = SIGSEGV)
{
    rt_stack a, b;
    rt_stack_get(NULL, 0, &a);
    rt_stack_get(NULL, 0, &b);
    uintptr_t lo = a.lo > b.lo ? a.lo : b.lo; /* has a slot below it */
    signal(SIGSEGV, SIG_DFL);
    *(volatile char *)(lo - 1) = 1;
}

Test(stack, the_guard_is_64_kib_deep, .signal = SIGSEGV)
{
    rt_stack a, b;
    rt_stack_get(NULL, 0, &a);
    rt_stack_get(NULL, 0, &b);
    uintptr_t lo = a.lo > b.lo ? a.lo : b.lo;
    signal(SIGSEGV, SIG_DFL);
    *(volatile char *)(lo - (64 << 10)) = 1;
}

static size_t resident(uintptr_t lo, uintptr_t hi)
{
    unsigned char in[1024];
    size_t n = 0, pages = (hi - lo) / 4096;
    if (mincore((void *)lo, hi - lo, in) == 0)
        for (size_t i = 0; i < pages; i++)
            n += in[i] & 1;
    return n;
}

Test(stack, trim_gives_pages_back_and_keeps_the_guard)
{
    enum { STACKS = 100 };
    rt_stack s[STACKS];
    for (int i = 0; i < STACKS; i++) {
        cr_assert_eq(rt_stack_get(NULL, 0, &s[i]), 0);
        memset((void *)s[i].lo, 1, 65536);
    }
    for (int i = 0; i < STACKS; i++)
        rt_stack_put(NULL, &s[i]);
    cr_assert_eq(resident(s[0].lo, s[0].hi), 16u);
    rt_stack_trim(); /* the first tick only learns how low the pool was */
    rt_stack_trim();
    for (int i = 0; i < STACKS; i++)
        cr_assert_eq(resident(s[i].lo, s[i].hi), 0u, "stack %d", i);
}

static int by_value(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

BODY(hungry_libc)
{
    char buf[512];
    volatile long double third = 1.0L / 3;
    snprintf(buf, sizeof buf, "%Lf %.300Lg %e", third, third, 1e300);
    cr_assert_eq(strncmp(buf, "0.333333 ", 9), 0);
    FILE *null = fopen("/dev/null", "w");
    cr_assert_gt(fprintf(null, "%Lf", third), 0);
    fclose(null);
    regex_t re;
    cr_assert_eq(regcomp(&re, "^(a+)+b$", REG_EXTENDED), 0);
    cr_assert_eq(regexec(&re, "aaaaaaaaaaaaaaaaaaaab", 0, NULL, 0), 0);
    regfree(&re);
    static int v[5000];
    for (int i = 0; i < 5000; i++)
        v[i] = (i * 7919) % 5000;
    qsort(v, 5000, sizeof v[0], by_value);
    for (int i = 0; i < 5000; i++)
        cr_assert_eq(v[i], i);
    return 0;
}
static _Atomic(int) done;
static void hungry_small(void *arg)
{
    (void)arg;
    hungry_libc(0, NULL);
    done = 1;
}
BODY(hungry_on_default_stack)
{
    weft_go(hungry_small, NULL);
    while (!done)
        weft_sleep(MS);
    return 0;
}
Test(stack, hungry_libc_functions_run_on_a_default_coroutine)
{
    RUN(1, hungry_on_default_stack);
}

static _Atomic(int) depth_wanted = 1 << 20;
static void overflow(void *arg)
{
    volatile char big[4096];
    big[0] = 1;
    if (depth_wanted-- > 0)
        overflow(arg);
    big[1] = big[0];
    (void)big[1];
}
BODY(overflows)
{
    signal(SIGSEGV, SIG_DFL);
    weft_go(overflow, NULL);
    weft_sleep(1000 * MS);
    return 0;
}
Test(stack, overflow_hits_the_guard, .signal = SIGSEGV)
{
    RUN(1, overflows);
}

__attribute__((unused)) static size_t rss_kb(void)
{
    long pages = 0, ignored;
    FILE *f = fopen("/proc/self/statm", "r");
    if (fscanf(f, "%ld %ld", &ignored, &pages) != 2)
        pages = 0;
    fclose(f);
    return (size_t)pages * 4;
}
__attribute__((unused)) static long map_lines(void)
{
    long n = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    for (int ch; (ch = getc(f)) != EOF;)
        n += ch == '\n';
    fclose(f);
    return n;
}

#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
static weft_chan *gate;
static _Atomic(long) parked;
static void park(void *arg)
{
    (void)arg;
    parked++;
    weft_chan_recv(gate, NULL);
    parked--;
}
enum { MANY = 100000 };
BODY(many_parked)
{
    gate = weft_chan_new(0, 0);
    size_t before = rss_kb();
    for (int i = 0; i < MANY; i++)
        cr_assert_eq(weft_go(park, NULL), 0);
    while (parked < MANY)
        weft_sleep(MS);
    size_t spike = rss_kb() - before;
    cr_assert_lt(spike / (MANY / 1000), 6000u, "kilobytes per 1000 parked");
    cr_assert_geq(spike / (MANY / 1000), 4000u, "each has touched a page");
    cr_assert_lt(map_lines(), 1000, "guards cost no mappings");
    weft_chan_close(gate);
    while (parked > 0)
        weft_sleep(MS);
    size_t after = 0;
    for (int i = 0; i < 50; i++) { /* trimmed on a tick: within five seconds */
        weft_sleep(100 * MS);
        after = rss_kb() - before;
        if (after < spike / 4)
            return 0;
    }
    cr_fail("%zu KiB of %zu KiB are still there", after, spike);
    return 0;
}
/* 100 000 with default sysctls; needs a kernel with MADV_GUARD_INSTALL for the mappings' part. */
Test(stack, hundred_thousand_parked_and_memory_comes_back, .timeout = 120)
{
    if (madvise(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 4096, 102))
        return; /* an older kernel: the mprotect way has its own test below */
    RUN(2, many_parked);
}

static void touch_and_end(void *arg)
{
    weft_chan_recv(gate, NULL);
    weft_wg_done(arg);
}
BODY(forty_thousand_with_mprotect)
{
    weft_wg left = WEFT_WG_INIT;
    gate = weft_chan_new(0, 0);
    for (int i = 0; i < 40000; i++) {
        weft_wg_add(&left, 1);
        cr_assert_eq(weft_go(touch_and_end, &left), 0);
    }
    weft_sleep(300 * MS);
    weft_chan_close(gate);
    weft_wg_wait(&left);
    return 0;
}
/* R31: beyond vm.max_map_count the rest are unguarded, said once, and run. */
Test(stack, mprotect_guards_stop_before_the_mapping_limit, .timeout = 120)
{
    setenv("WEFT_DEBUG", "guard=mprotect", 1);
    RUN(2, forty_thousand_with_mprotect);
}
#endif
