/* The shape check: what is cut or of the wrong type is named with its place. */
#include "proto/profile.pb-c.h"
#include "proto/wire.h"
#include "tests/proto/make.h"

static int check(const char *bytes, size_t n, char err[160])
{
    /* A copy of exactly n bytes, so that reading past the end is seen by the sanitizers. */
    uint8_t *copy = calloc(1, n ? n : 1);
    memcpy(copy, bytes, n);
    err[0] = '\0';
    int rc = pb_wire_check(&weft__pb__profile__descriptor, copy, n, err, 160);
    free(copy);
    return rc;
}

#define CHECK(bytes) check(bytes, sizeof(bytes) - 1, err)

Test(wire, good_shapes)
{
    char err[160];
    cr_assert_eq(CHECK(""), 0);
    cr_assert_eq(CHECK("\x32\x00"), 0, "an empty string");
    cr_assert_eq(CHECK("\x12\x04\x08\x01\x10\x02"), 0, "unpacked numbers");
    cr_assert_eq(CHECK("\x12\x08\x0a\x03\x03\x02\x01\x12\x01\x01"), 0, "packed numbers");
    cr_assert_eq(CHECK("\xa0\x06\x05"), 0, "an unknown number");
    cr_assert_eq(CHECK("\xa2\x06\x02hi"), 0, "unknown bytes");
    cr_assert_eq(CHECK("\xa1\x06"
                       "12345678"),
                 0, "an unknown fixed64");
    cr_assert_eq(CHECK("\xa5\x06"
                       "1234"),
                 0, "an unknown fixed32");
}

Test(wire, bad_shapes_are_named)
{
    char err[160];
    cr_assert_eq(CHECK("\x32\x05"
                       "ab"),
                 -EBADMSG);
    cr_assert_not_null(strstr(err, "Profile.string_table is cut off at byte 2"), "%s", err);
    cr_assert_eq(CHECK("\x12\x02\x0a\x05"), -EBADMSG);
    cr_assert_not_null(strstr(err, "Sample.location_id is cut off"), "%s", err);
    cr_assert_eq(CHECK("\x12\x03\x0a\x01\x80"), -EBADMSG);
    cr_assert_not_null(strstr(err, "Sample.location_id ends inside a number"), "%s", err);
    cr_assert_eq(CHECK("\x48\x80"), -EBADMSG, "a number that does not end");
    cr_assert_not_null(strstr(err, "time_nanos"), "%s", err);
    cr_assert_eq(CHECK("\x4a\x01\x01"), -EBADMSG, "time_nanos is no list");
    cr_assert_not_null(strstr(err, "has the wrong type"), "%s", err);
    cr_assert_eq(CHECK("\x00\x01"), -EBADMSG, "field number 0");
    cr_assert_eq(CHECK("\x0b"), -EBADMSG, "a group");
    cr_assert_eq(CHECK("\xa1\x06"
                       "1234"),
                 -EBADMSG, "half a fixed64");
    cr_assert_eq(CHECK("\x48\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), -EBADMSG, "11 bytes");
}
