/* profile.proto, gzipped or raw -> model.
 *
 * Invariants:
 * 1. Whatever the bytes are, the answer is a whole valid model or an error line and nothing else:
 *    no id or string index of the input gets into the model unchecked.
 * 2. Ids may be any distinct nonzero numbers and tables may repeat content; both are mapped to the
 *    model's own dense ids while interning.
 * 3. At most 4 GiB are inflated, and sample types are at most MAX_TYPES, so a made-up file costs a
 *    bounded multiple of its own size.
 *
 * Accepted because pprof accepts it: a location whose mapping is absent (none then), a sample
 * without locations, equal samples (their values are summed), unknown fields.
 *
 * protobuf-c unpacks into an arena: it makes an allocation or more per message, and with malloc and
 * free unpacking takes twice the CPU time (200 000 stacks).
 *
 * No locks.
 */
#include "proto/model.h"
#include "proto/profile.pb-c.h"
#include "proto/wire.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

#define MAX_INFLATED ((size_t)4 << 30)
#define MAX_TYPES    1024

/* Which of our ids an id of the input is. Writers number 1..n almost always, and then there is
 * nothing to look up; otherwise by position, or by binary search. */
typedef struct idmap {
    struct id_pair {
        uint64_t theirs, ours;
    } * v;
    size_t n;
    bool same; /* every id is its place, in the input and here */
} idmap;

typedef struct reader {
    pb_arena arena;
    pb_profile *p;
    const Weft__Pb__Profile *m;
    int64_t *strings; /* ours, by their index */
    idmap mappings, functions, locations;
    uint64_t *locs; /* of the sample at hand */
    size_t cap_locs;
    pb_label *labels;
    size_t cap_labels;
    pb_line *lines;
    size_t cap_lines;
    char *err;
    size_t errlen;
} reader;

static int no_memory(reader *r)
{
    return pb_fail(r->err, r->errlen, -ENOMEM, "no memory");
}

static int malformed(reader *r, const char *table, size_t index, const char *what, uint64_t number)
{
    return pb_fail(r->err, r->errlen, -EBADMSG, "malformed profile: %s %zu %s %lld", table,
                   index + 1, what, (long long)number);
}

static int id_order(const void *a, const void *b)
{
    uint64_t x = ((const struct id_pair *)a)->theirs, y = ((const struct id_pair *)b)->theirs;
    return x < y ? -1 : x > y;
}

static int idmap_finish(reader *r, idmap *map, const char *table)
{
    bool sorted = true;
    map->same = true;
    for (size_t i = 0; i < map->n; i++) {
        sorted = sorted && (!i || map->v[i - 1].theirs < map->v[i].theirs);
        map->same = map->same && map->v[i].theirs == i + 1 && map->v[i].ours == i + 1;
    }
    if (sorted)
        return 0;
    qsort(map->v, map->n, sizeof *map->v, id_order);
    for (size_t i = 1; i < map->n; i++)
        if (map->v[i - 1].theirs == map->v[i].theirs)
            return pb_fail(r->err, r->errlen, -EBADMSG, "malformed profile: two %ss have id %llu",
                           table, (unsigned long long)map->v[i].theirs);
    return 0;
}

/* 0 when there is none. */
static uint64_t idmap_get(const idmap *map, uint64_t theirs)
{
    if (map->same)
        return theirs <= map->n ? theirs : 0;
    if (theirs - 1 < map->n && map->v[theirs - 1].theirs == theirs)
        return map->v[theirs - 1].ours;
    size_t lo = 0, hi = map->n;
    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (map->v[mid].theirs < theirs)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < map->n && map->v[lo].theirs == theirs ? map->v[lo].ours : 0;
}

static int read_strings(reader *r)
{
    /* Unpacked by the caller. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    size_t n = r->m->n_string_table;
    if (!n || *r->m->string_table[0])
        return pb_fail(r->err, r->errlen, -EBADMSG,
                       n ? "malformed profile: string_table[0] is not empty"
                         : "not a profile: it has no string table");
    r->strings = pb_arena_alloc(&r->arena, n * sizeof *r->strings);
    if (!r->strings)
        return no_memory(r);
    for (size_t i = 0; i < n; i++) {
        r->strings[i] = pb_string(r->p, r->m->string_table[i]);
        if (r->strings[i] < 0)
            return no_memory(r);
    }
    return 0;
}

/* Our index of their string; false when there is no such string. */
static bool text(const reader *r, int64_t theirs, int64_t *ours)
{
    if (theirs < 0 || (uint64_t)theirs >= r->m->n_string_table)
        return false;
    *ours = r->strings[theirs];
    return true;
}

static int read_header(reader *r)
{
    const Weft__Pb__Profile *m = r->m;
    pb_profile *p = r->p;
    if (m->n_sample_type > MAX_TYPES)
        return pb_fail(r->err, r->errlen, -EBADMSG, "malformed profile: %zu sample types",
                       m->n_sample_type);
    for (size_t i = 0; i < m->n_sample_type; i++) {
        pb_value_type t;
        if (!text(r, m->sample_type[i]->type, &t.type) ||
            !text(r, m->sample_type[i]->unit, &t.unit))
            return malformed(r, "sample type", i,
                             "has a string outside the table:", (uint64_t)m->sample_type[i]->type);
        if (pb_type_add(p, pb_str(p, t.type), pb_str(p, t.unit)))
            return no_memory(r);
    }
    bool ok = text(r, m->drop_frames, &p->drop_frames) &&
              text(r, m->keep_frames, &p->keep_frames) &&
              text(r, m->default_sample_type, &p->default_type) && text(r, m->doc_url, &p->doc_url);
    if (m->period_type)
        ok = ok && text(r, m->period_type->type, &p->period_type.type) &&
             text(r, m->period_type->unit, &p->period_type.unit);
    for (size_t i = 0; ok && i < m->n_comment; i++) {
        int64_t s;
        ok = text(r, m->comment[i], &s);
        if (ok && pb_comment_add(p, pb_str(p, s)))
            return no_memory(r);
    }
    if (!ok)
        return pb_fail(r->err, r->errlen, -EBADMSG,
                       "malformed profile: its header has a string outside the table");
    p->time_ns = m->time_nanos;
    p->duration_ns = m->duration_nanos;
    p->period = m->period;
    return 0;
}

/* Starts a map of n entries. */
static int idmap_new(reader *r, idmap *map, size_t n)
{
    map->v = pb_arena_alloc(&r->arena, n * sizeof *map->v);
    return map->v ? 0 : no_memory(r);
}

static int read_mappings(reader *r)
{
    if (idmap_new(r, &r->mappings, r->m->n_mapping))
        return -ENOMEM;
    for (size_t i = 0; i < r->m->n_mapping; i++) {
        const Weft__Pb__Mapping *m = r->m->mapping[i];
        pb_mapping to = {.start = m->memory_start,
                         .limit = m->memory_limit,
                         .offset = m->file_offset,
                         .has_functions = m->has_functions,
                         .has_filenames = m->has_filenames,
                         .has_line_numbers = m->has_line_numbers,
                         .has_inline_frames = m->has_inline_frames};
        if (!m->id)
            return malformed(r, "mapping", i, "has the id", 0);
        if (!text(r, m->filename, &to.file) || !text(r, m->build_id, &to.build_id))
            return malformed(r, "mapping", i,
                             "has a string outside the table:", (uint64_t)m->filename);
        uint64_t id = pb_mapping_add(r->p, &to);
        if (!id)
            return no_memory(r);
        r->mappings.v[r->mappings.n++] = (struct id_pair){m->id, id};
    }
    return idmap_finish(r, &r->mappings, "mapping");
}

static int read_functions(reader *r)
{
    if (idmap_new(r, &r->functions, r->m->n_function))
        return -ENOMEM;
    for (size_t i = 0; i < r->m->n_function; i++) {
        const Weft__Pb__Function *m = r->m->function[i];
        int64_t name, system_name, file;
        if (!m->id)
            return malformed(r, "function", i, "has the id", 0);
        if (!text(r, m->name, &name) || !text(r, m->system_name, &system_name) ||
            !text(r, m->filename, &file))
            return malformed(r, "function", i,
                             "has a string outside the table:", (uint64_t)m->name);
        uint64_t id = pb_function_add(r->p, name, system_name, file, m->start_line);
        if (!id)
            return no_memory(r);
        r->functions.v[r->functions.n++] = (struct id_pair){m->id, id};
    }
    return idmap_finish(r, &r->functions, "function");
}

static int read_lines(reader *r, size_t index, const Weft__Pb__Location *m)
{
    if (m->n_line > UINT32_MAX || pb_grow(&r->lines, m->n_line, &r->cap_lines, sizeof *r->lines))
        return no_memory(r);
    for (size_t k = 0; k < m->n_line; k++) {
        uint64_t theirs = m->line[k]->function_id;
        uint64_t function = theirs ? idmap_get(&r->functions, theirs) : 0;
        if (theirs && !function)
            return malformed(r, "location", index, "names the missing function", theirs);
        r->lines[k] = (pb_line){function, m->line[k]->line};
    }
    return 0;
}

static int read_locations(reader *r)
{
    if (idmap_new(r, &r->locations, r->m->n_location))
        return -ENOMEM;
    for (size_t i = 0; i < r->m->n_location; i++) {
        const Weft__Pb__Location *m = r->m->location[i];
        if (!m->id)
            return malformed(r, "location", i, "has the id", 0);
        int rc = read_lines(r, i, m);
        if (rc)
            return rc;
        uint64_t id = pb_location_add(r->p, idmap_get(&r->mappings, m->mapping_id), m->address,
                                      r->lines, (uint32_t)m->n_line);
        if (!id)
            return no_memory(r);
        r->p->locations[id - 1].folded |= m->is_folded;
        r->locations.v[r->locations.n++] = (struct id_pair){m->id, id};
    }
    return idmap_finish(r, &r->locations, "location");
}

static int read_labels(reader *r, size_t index, const Weft__Pb__Sample *m)
{
    if (m->n_label > UINT32_MAX ||
        pb_grow(&r->labels, m->n_label, &r->cap_labels, sizeof *r->labels))
        return no_memory(r);
    for (size_t k = 0; k < m->n_label; k++) {
        const Weft__Pb__Label *from = m->label[k];
        pb_label *to = &r->labels[k];
        to->num = from->num;
        if (!text(r, from->key, &to->key) || !text(r, from->str, &to->str) ||
            !text(r, from->num_unit, &to->num_unit))
            return malformed(r, "sample", index,
                             "has a label outside the string table:", (uint64_t)from->key);
    }
    return 0;
}

static int read_samples(reader *r)
{
    for (size_t i = 0; i < r->m->n_sample; i++) {
        const Weft__Pb__Sample *m = r->m->sample[i];
        if (m->n_value != r->p->ntypes || !m->n_value)
            return pb_fail(r->err, r->errlen, -EBADMSG,
                           "malformed profile: sample %zu has %zu values for %zu sample types",
                           i + 1, m->n_value, r->p->ntypes);
        if (m->n_location_id > UINT32_MAX ||
            pb_grow(&r->locs, m->n_location_id, &r->cap_locs, sizeof *r->locs))
            return no_memory(r);
        for (size_t k = 0; k < m->n_location_id; k++) {
            r->locs[k] = idmap_get(&r->locations, m->location_id[k]);
            if (!r->locs[k])
                return malformed(r, "sample", i, "names the missing location", m->location_id[k]);
        }
        int rc = read_labels(r, i, m);
        if (!rc && pb_sample_add(r->p, r->locs, (uint32_t)m->n_location_id, m->value, r->labels,
                                 (uint32_t)m->n_label))
            rc = no_memory(r);
        if (rc)
            return rc;
    }
    return 0;
}

static void *unpack_alloc(void *arena, size_t n)
{
    return pb_arena_alloc(arena, n);
}

static void unpack_free(void *arena, void *p)
{
    (void)arena;
    (void)p;
}

static int decode_raw(const uint8_t *buf, size_t n, pb_profile **out, char *err, size_t errlen)
{
    int rc = pb_wire_check(&weft__pb__profile__descriptor, buf, n, err, errlen);
    if (rc)
        return rc;
    reader r = {.err = err, .errlen = errlen};
    ProtobufCAllocator in_arena = {unpack_alloc, unpack_free, &r.arena};
    r.m = weft__pb__profile__unpack(&in_arena, n, buf);
    r.p = r.m ? pb_profile_new() : NULL;
    if (!r.m)
        rc = pb_fail(err, errlen, -EBADMSG, "malformed profile: not a valid protobuf message");
    else if (!r.p)
        rc = no_memory(&r);
    if (!rc)
        rc = read_strings(&r);
    if (!rc)
        rc = read_header(&r);
    if (!rc)
        rc = read_mappings(&r);
    if (!rc)
        rc = read_functions(&r);
    if (!rc)
        rc = read_locations(&r);
    if (!rc)
        rc = read_samples(&r);
    free(r.locs);
    free(r.labels);
    free(r.lines);
    pb_arena_free(&r.arena);
    if (rc)
        pb_profile_free(r.p);
    else
        *out = r.p;
    return rc;
}

/* The size in the trailer is only a hint: it is modulo 4 GiB, of the last member, and the writer's
 * word. No deflate stream grows more than 1032 times. */
static size_t first_guess(const uint8_t *in, size_t n)
{
    uint32_t size = 0;
    if (n >= 18)
        size = in[n - 4] | (uint32_t)in[n - 3] << 8 | (uint32_t)in[n - 2] << 16 |
               (uint32_t)in[n - 1] << 24;
    size_t most = n * 1032 + 64;
    return size && size < most ? size + (size_t)64 : (n < 1024 ? 4096 : n * 4);
}

static int inflate_members(z_stream *z, const uint8_t *in, size_t n, uint8_t **buf, size_t *done,
                           char *err, size_t errlen)
{
    size_t cap = 0, want = first_guess(in, n);
    for (int rc = Z_OK;;) {
        size_t left = n - (size_t)(z->next_in - in);
        if (rc == Z_STREAM_END && !left)
            return 0;
        if (rc == Z_STREAM_END && inflateReset(z) != Z_OK)
            return pb_fail(err, errlen, -ENOMEM, "no memory");
        if (*done == cap) {
            if (cap >= MAX_INFLATED)
                return pb_fail(err, errlen, -EFBIG, "too big: more than 4 GiB when inflated");
            cap = cap ? cap * 2 : want;
            cap = cap > MAX_INFLATED ? MAX_INFLATED : cap;
            uint8_t *bigger = realloc(*buf, cap);
            if (!bigger)
                return pb_fail(err, errlen, -ENOMEM, "no memory");
            *buf = bigger;
        }
        size_t room = cap - *done;
        z->avail_in = left > UINT_MAX ? UINT_MAX : (uInt)left;
        z->avail_out = room > UINT_MAX ? UINT_MAX : (uInt)room;
        z->next_out = *buf + *done;
        rc = inflate(z, Z_NO_FLUSH);
        *done = (size_t)(z->next_out - *buf);
        left = n - (size_t)(z->next_in - in);
        if (rc == Z_MEM_ERROR)
            return pb_fail(err, errlen, -ENOMEM, "no memory");
        if ((rc == Z_BUF_ERROR || rc == Z_OK) && !left && *done < cap)
            return pb_fail(err, errlen, -EBADMSG, "truncated: the gzip data ends after %zu bytes",
                           n);
        if (rc != Z_OK && rc != Z_STREAM_END && rc != Z_BUF_ERROR)
            return pb_fail(err, errlen, -EBADMSG, "damaged gzip data: %s",
                           z->msg ? z->msg : "not understood");
    }
}

int pb_decode(const void *buf, size_t n, pb_profile **out, char *err, size_t errlen)
{
    const uint8_t *in = buf;
    *out = NULL;
    if (!n)
        return pb_fail(err, errlen, -EBADMSG, "not a profile: it is empty");
    if (n < 2 || in[0] != 0x1f || in[1] != 0x8b)
        return decode_raw(in, n, out, err, errlen);
    z_stream z = {.next_in = (z_const Bytef *)in};
    if (inflateInit2(&z, 15 + 16) != Z_OK)
        return pb_fail(err, errlen, -ENOMEM, "no memory");
    uint8_t *raw = NULL;
    size_t raw_n = 0;
    int rc = inflate_members(&z, in, n, &raw, &raw_n, err, errlen);
    inflateEnd(&z);
    if (!rc)
        rc = raw_n ? decode_raw(raw, raw_n, out, err, errlen)
                   : pb_fail(err, errlen, -EBADMSG, "not a profile: the gzip data holds nothing");
    free(raw);
    return rc;
}
