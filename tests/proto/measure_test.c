/* Values and units, as go tool pprof -top prints them. */
#include "proto/measure.h"
#include "tests/check.h"

#include <stdint.h>

static const char *text(int64_t v, const char *unit)
{
    static char buf[64];
    pb_value_text(v, unit, pb_unit_for(v, unit), buf, sizeof buf);
    return buf;
}

static const char *percent(int64_t v, int64_t total)
{
    static char buf[16];
    pb_percent_text(v, total, buf, sizeof buf);
    return buf;
}

Test(measure, values)
{
    cr_assert_str_eq(text(2870000000, "nanoseconds"), "2.87s");
    cr_assert_str_eq(text(540000000, "nanoseconds"), "540ms");
    cr_assert_str_eq(text(1500, "ns"), "1.50us");
    cr_assert_str_eq(text(999, "nanoseconds"), "999ns");
    cr_assert_str_eq(text(7200, "seconds"), "2hrs");
    cr_assert_str_eq(text(1536, "bytes"), "1.50kB");
    cr_assert_str_eq(text(512, "Bytes"), "512B");
    cr_assert_str_eq(text(3670016, "bytes"), "3.50MB");
    cr_assert_str_eq(text(-3670016, "bytes"), "-3.50MB");
    cr_assert_str_eq(text(2048, "kb"), "2MB");
    cr_assert_str_eq(text(123456, "count"), "123456");
    cr_assert_str_eq(text(5, "parsecs"), "5");
    cr_assert_str_eq(text(0, "bytes"), "0");
    cr_assert_str_eq(text(INT64_MIN, "bytes"), "-8192PB");
}

Test(measure, one_unit_for_a_table)
{
    cr_assert_str_eq(pb_unit_for_all(10000000, 2870000000, "nanoseconds"), "s");
    cr_assert_str_eq(pb_unit_for_all(50000000, 2870000000, "nanoseconds"), "ms");
    cr_assert_str_eq(pb_unit_for_all(0, 2870000000, "nanoseconds"), "s");
    cr_assert_str_eq(pb_unit_for_all(1, 1 << 30, "bytes"), "B");
    cr_assert_str_eq(pb_unit_for_all(1, 5, "count"), "");
}

Test(measure, percents_are_six_wide)
{
    cr_assert_str_eq(percent(1, 1), "  100%");
    cr_assert_str_eq(percent(9996, 10000), "  100%");
    cr_assert_str_eq(percent(453, 10000), " 4.53%");
    cr_assert_str_eq(percent(1882, 10000), "18.82%");
    cr_assert_str_eq(percent(34, 10000), " 0.34%");
    cr_assert_str_eq(percent(51, 100000), "0.051%");
    cr_assert_str_eq(percent(0, 100), "    0%");
    cr_assert_str_eq(percent(5, 0), "    0%");
    cr_assert_str_eq(percent(19079, 10000), "190.79%");
}
