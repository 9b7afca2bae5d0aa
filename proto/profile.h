/* The in-memory model of profile.proto, with its writer, reader, folded text and merge. Knows
 * profiles, knows no process. Nothing here keeps global state; one profile is used by one thread at
 * a time.
 *
 * Strings are indices into the profile's string table (0 is ""), ids are 1..n in table order (id -
 * 1 is the index), so a model is always what the encoded form says.
 */
#ifndef WEFT_PROFILE_H
#define WEFT_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

typedef struct pb_value_type {
    int64_t type, unit;
} pb_value_type;
typedef struct pb_label {
    int64_t key, str, num, num_unit;
} pb_label;
typedef struct pb_sample {
    uint64_t *locs; /* location ids, leaf first */
    uint32_t nlocs, nlabels;
    int64_t *values; /* ntypes of them */
    pb_label *labels;
} pb_sample;
typedef struct pb_mapping {
    uint64_t start, limit, offset;
    int64_t file, build_id;
    bool has_functions, has_filenames, has_line_numbers, has_inline_frames;
} pb_mapping;
typedef struct pb_line {
    uint64_t function;
    int64_t line;
} pb_line; /* line 0: unknown */
typedef struct pb_location {
    uint64_t mapping; /* 0: none */
    uint64_t address;
    pb_line *lines; /* innermost inlined callee first */
    uint32_t nlines;
    bool folded;
} pb_location;
typedef struct pb_function {
    int64_t name, system_name, file, start_line;
} pb_function;

typedef struct pb_profile {
    pb_value_type *types;
    size_t ntypes;
    pb_sample *samples;
    size_t nsamples;
    pb_mapping *mappings;
    size_t nmappings;
    pb_location *locations;
    size_t nlocations;
    pb_function *functions;
    size_t nfunctions;
    char **strings;
    size_t nstrings;
    int64_t *comments;
    size_t ncomments;
    int64_t drop_frames, keep_frames, default_type, doc_url; /* string indices */
    int64_t time_ns, duration_ns, period;
    pb_value_type period_type;
    struct pb_intern *intern; /* hash indexes and the arena; profile.c's own */
} pb_profile;

/* Errors: 0 or a negative errno (-ENOMEM everywhere); adders return 0 (no valid id) or -1 (strings)
 * without memory. */
pb_profile *pb_profile_new(void);
void pb_profile_free(pb_profile *);
/* Interning adders: equal content gives the same index or id. */
int64_t pb_string_add(pb_profile *, const char *s, size_t n);
int64_t pb_string(pb_profile *, const char *s);        /* NUL-terminated; NULL is "" */
const char *pb_str(const pb_profile *, int64_t index); /* "" when out of range; never NULL */
uint64_t pb_function_add(pb_profile *, int64_t name, int64_t system_name, int64_t file,
                         int64_t start_line);
uint64_t pb_mapping_add(pb_profile *, const pb_mapping *);
uint64_t pb_location_add(pb_profile *, uint64_t mapping, uint64_t address, const pb_line *lines,
                         uint32_t nlines);
int pb_type_add(pb_profile *, const char *type, const char *unit); /* before the first sample */
/* Adds values to the sample with the same stack and labels, or makes it. Arrays are copied. */
int pb_sample_add(pb_profile *, const uint64_t *locs, uint32_t nlocs, const int64_t *values,
                  const pb_label *labels, uint32_t nlabels);
int pb_comment_add(pb_profile *, const char *text);

/* encode.c: gzip (or raw when level < 0) profile.proto into a malloc'd buffer. level 1..9, 0
 * means 1. */
int pb_encode(const pb_profile *, int level, void **buf, size_t *n);

/* decode.c: from gzip, zlib-less raw protobuf. err (>= 128 bytes) gets one line that names what is
 * wrong. -EBADMSG for anything malformed or truncated, -EFBIG over 4 GiB inflated, -ENOMEM. Accepts
 * any ids and string order that pprof accepts. */
int pb_decode(const void *buf, size_t n, pb_profile **out, char *err, size_t errlen);

/* Which value to show: `want` as pprof's -sample_index (a name, "inuse_x" also as "x", or a
 * number), NULL or "" for the default type, else the last. The index, or -EINVAL. */
int pb_sample_index(const pb_profile *, const char *want);

/* fold.c: folded stacks, root first, byte-sorted, one line per distinct stack, `;` in names as ':',
 * CR LF TAB NUL as a space, a space before digits at a leaf's end as '_'. Inlined lines are frames
 * of their own. Negative and zero values are left out. Returns the number of lines, or a negative
 * errno. */
int64_t pb_fold_write(const pb_profile *, int value_index, FILE *out);
/* Parses folded text into a profile of one type "samples/count" (fractions rounded). Junk lines are
 * counted in *junk and skipped; -EBADMSG when no line is good. A '#' line is a comment. */
int pb_fold_parse(const char *text, size_t n, pb_profile **out, size_t *junk, char *err,
                  size_t errlen);

/* merge.c: adds scale * src to dst: equal stacks and labels meet; zero samples vanish on the way.
 * -EINVAL when the sample types differ. */
int pb_merge(pb_profile *dst, const pb_profile *src, int64_t scale);

#endif
