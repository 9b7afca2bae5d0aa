/* The environment, as a fresh process reads it: this program runs itself again. */
#include "tests/profiler/collect/collect_check.h"
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char output[8192];

/* Runs this program's test `probe` with one more variable; output is its stderr. */
static void run_with(const char *variable, const char *more)
{
    char command[512];
    snprintf(command, sizeof(command),
             "env -i PATH=\"$PATH\" %s %s START_PROBE=1 /proc/%d/exe --filter start/probe -j1 2>&1 "
             ">/dev/null",
             variable, more, getpid()); /* Criterion marks its workers by variables */
    FILE *f = popen(command, "r");
    size_t n = fread(output, 1, sizeof(output) - 1, f);
    output[n] = 0;
    pclose(f);
}

static int count_lines(const char *with)
{
    int n = 0;
    for (const char *at = output; (at = strstr(at, with)); at += strlen(with))
        n++;
    return n;
}

Test(start, probe)
{
    if (getenv("START_PROBE"))
        dprintf(2, "probe heap %ld block %ld mutex %d\n", (long)weft_pprof_heap_rate(-1),
                (long)weft_pprof_block_rate(-1), weft_pprof_mutex_fraction(-1));
}

Test(start, defaults, .timeout = 60)
{
    run_with("WEFT_HEAP_RATE=", "");
    cr_assert_not_null(strstr(output, "probe heap 524288 block 0 mutex 0"), "%s", output);
    cr_assert_eq(count_lines("weft: "), 0);
}

Test(start, good_values, .timeout = 60)
{
    run_with("WEFT_HEAP_RATE=4096 WEFT_BLOCK_RATE=1", "WEFT_MUTEX_FRACTION=5");
    cr_assert_not_null(strstr(output, "probe heap 4096 block 1 mutex 5"), "%s", output);
    cr_assert_eq(count_lines("weft: "), 0);
}

static void check_bad(const char *variable)
{
    char want[128];
    snprintf(want, sizeof(want), "weft: %s:", variable);
    run_with(variable, "");
    cr_assert_not_null(strstr(output, "probe heap 524288 block 0 mutex 0"), "%s: %s", variable,
                       output);
    cr_assert_geq(count_lines(want), 1, "%s: %s", variable, output);
}

Test(start, bad_values_are_named_and_the_default_stays, .timeout = 60)
{
    check_bad("WEFT_HEAP_RATE=lots");
    check_bad("WEFT_HEAP_RATE=-5");
    check_bad("WEFT_HEAP_RATE=12k");
    check_bad("WEFT_BLOCK_RATE=1e9");
    check_bad("WEFT_BLOCK_RATE=99999999999999999999");
    check_bad("WEFT_MUTEX_FRACTION=2147483648");
}

/* A failure to serve is one line, and the program goes on. */
Test(start, serving_that_fails, .timeout = 60)
{
    run_with("WEFT_PPROF=127.0.0.1:notaport", "WEFT_LIBDIR=/nonexistent");
    cr_assert_not_null(strstr(output, "probe heap"), "%s", output);
}
