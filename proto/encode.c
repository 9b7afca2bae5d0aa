/* Model -> profile.proto, by protobuf-c, then gzip.
 *
 * Invariants:
 * 1. Ids are written 1..n in table order and string_table[0] is "": the model has it so, and strict
 *    readers (Parca) reject anything else.
 * 2. Every text written is valid UTF-8: protobuf strings must be, and Go's strict parsers refuse
 *    the whole profile for one bad byte in a label. Bad bytes become U+FFFD; the model keeps
 *    them.
 * 3. No sample gets a label without a key, and the caller's model is not changed.
 *
 * The message tree is a second set of structs that point into the model: one array per table, no
 * allocation per message. Rejected: writing the wire format by hand, which could save part of the
 * 15 % of the time that is not deflate, and would be a second definition of the format.
 *
 * No locks.
 */
#include "proto/model.h"
#include "proto/profile.pb-c.h"
#include "proto/utf8.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <zlib.h>

typedef struct tree {
    pb_arena arena;
    Weft__Pb__Profile root;
} tree;

/* An array of n structs and an array of n pointers to them, as protobuf-c wants its tables. */
static int table(tree *t, size_t n, size_t size, void *structs_out, void *pointers_out)
{
    char *structs = n ? pb_arena_alloc(&t->arena, n * size) : NULL;
    void **pointers = n ? pb_arena_alloc(&t->arena, n * sizeof *pointers) : NULL;
    if (n && (!structs || !pointers))
        return -ENOMEM;
    for (size_t i = 0; i < n; i++)
        pointers[i] = structs + i * size;
    memcpy(structs_out, &structs, sizeof structs);
    memcpy(pointers_out, &pointers, sizeof pointers);
    return 0;
}

static int put_types(tree *t, const pb_profile *p)
{
    Weft__Pb__ValueType *m;
    if (table(t, p->ntypes, sizeof *m, &m, &t->root.sample_type))
        return -ENOMEM;
    t->root.n_sample_type = p->ntypes;
    for (size_t i = 0; i < p->ntypes; i++) {
        weft__pb__value_type__init(&m[i]);
        m[i].type = p->types[i].type;
        m[i].unit = p->types[i].unit;
    }
    return 0;
}

static int put_labels(tree *t, Weft__Pb__Sample *m, const pb_sample *s)
{
    Weft__Pb__Label *l;
    if (table(t, s->nlabels, sizeof *l, &l, &m->label))
        return -ENOMEM;
    for (uint32_t i = 0; i < s->nlabels; i++) {
        if (!s->labels[i].key)
            continue;
        Weft__Pb__Label *one = m->label[m->n_label++];
        weft__pb__label__init(one);
        one->key = s->labels[i].key;
        one->str = s->labels[i].str;
        one->num = s->labels[i].num;
        one->num_unit = s->labels[i].num_unit;
    }
    return 0;
}

static int put_samples(tree *t, const pb_profile *p)
{
    Weft__Pb__Sample *m;
    if (table(t, p->nsamples, sizeof *m, &m, &t->root.sample))
        return -ENOMEM;
    t->root.n_sample = p->nsamples;
    for (size_t i = 0; i < p->nsamples; i++) {
        const pb_sample *s = &p->samples[i];
        weft__pb__sample__init(&m[i]);
        m[i].n_location_id = s->nlocs;
        m[i].location_id = s->locs;
        m[i].n_value = p->ntypes;
        m[i].value = s->values;
        if (s->nlabels && put_labels(t, &m[i], s))
            return -ENOMEM;
    }
    return 0;
}

static int put_mappings(tree *t, const pb_profile *p)
{
    Weft__Pb__Mapping *m;
    if (table(t, p->nmappings, sizeof *m, &m, &t->root.mapping))
        return -ENOMEM;
    t->root.n_mapping = p->nmappings;
    for (size_t i = 0; i < p->nmappings; i++) {
        const pb_mapping *from = &p->mappings[i];
        weft__pb__mapping__init(&m[i]);
        m[i].id = i + 1;
        m[i].memory_start = from->start;
        m[i].memory_limit = from->limit;
        m[i].file_offset = from->offset;
        m[i].filename = from->file;
        m[i].build_id = from->build_id;
        m[i].has_functions = from->has_functions;
        m[i].has_filenames = from->has_filenames;
        m[i].has_line_numbers = from->has_line_numbers;
        m[i].has_inline_frames = from->has_inline_frames;
    }
    return 0;
}

static int put_locations(tree *t, const pb_profile *p)
{
    Weft__Pb__Location *m;
    size_t nlines = 0;
    for (size_t i = 0; i < p->nlocations; i++)
        nlines += p->locations[i].nlines;
    Weft__Pb__Line *line, **pointers;
    if (table(t, p->nlocations, sizeof *m, &m, &t->root.location) ||
        table(t, nlines, sizeof *line, &line, &pointers))
        return -ENOMEM;
    t->root.n_location = p->nlocations;
    for (size_t i = 0, at = 0; i < p->nlocations; i++) {
        const pb_location *from = &p->locations[i];
        weft__pb__location__init(&m[i]);
        m[i].id = i + 1;
        m[i].mapping_id = from->mapping;
        m[i].address = from->address;
        m[i].is_folded = from->folded;
        m[i].n_line = from->nlines;
        m[i].line = from->nlines ? pointers + at : NULL;
        for (uint32_t k = 0; k < from->nlines; k++, at++) {
            weft__pb__line__init(&line[at]);
            line[at].function_id = from->lines[k].function;
            line[at].line = from->lines[k].line;
        }
    }
    return 0;
}

static int put_functions(tree *t, const pb_profile *p)
{
    Weft__Pb__Function *m;
    if (table(t, p->nfunctions, sizeof *m, &m, &t->root.function))
        return -ENOMEM;
    t->root.n_function = p->nfunctions;
    for (size_t i = 0; i < p->nfunctions; i++) {
        weft__pb__function__init(&m[i]);
        m[i].id = i + 1;
        m[i].name = p->functions[i].name;
        m[i].system_name = p->functions[i].system_name;
        m[i].filename = p->functions[i].file;
        m[i].start_line = p->functions[i].start_line;
    }
    return 0;
}

static int put_strings(tree *t, const pb_profile *p)
{
    char **texts = pb_arena_alloc(&t->arena, p->nstrings * sizeof *texts);
    if (!texts)
        return -ENOMEM;
    for (size_t i = 0; i < p->nstrings; i++) {
        const char *s = p->strings[i];
        size_t n = pb_text_len(s), good = pb_utf8_valid(s, n);
        texts[i] = p->strings[i];
        if (good == n)
            continue;
        /* Each bad byte grows to the three of U+FFFD at most. */
        char *clean = pb_arena_alloc(&t->arena, n * 3 + 1);
        if (!clean)
            return -ENOMEM;
        pb_utf8_repair(s, n, clean);
        texts[i] = clean;
    }
    t->root.n_string_table = p->nstrings;
    t->root.string_table = texts;
    return 0;
}

static int tree_build(tree *t, const pb_profile *p)
{
    weft__pb__profile__init(&t->root);
    if (put_types(t, p) || put_samples(t, p) || put_mappings(t, p) || put_locations(t, p) ||
        put_functions(t, p) || put_strings(t, p))
        return -ENOMEM;
    t->root.drop_frames = p->drop_frames;
    t->root.keep_frames = p->keep_frames;
    t->root.default_sample_type = p->default_type;
    t->root.doc_url = p->doc_url;
    t->root.time_nanos = p->time_ns;
    t->root.duration_nanos = p->duration_ns;
    t->root.period = p->period;
    t->root.n_comment = p->ncomments;
    t->root.comment = p->comments;
    if (p->period_type.type || p->period_type.unit) {
        Weft__Pb__ValueType *period = pb_arena_alloc(&t->arena, sizeof *period);
        if (!period)
            return -ENOMEM;
        weft__pb__value_type__init(period);
        period->type = p->period_type.type;
        period->unit = p->period_type.unit;
        t->root.period_type = period;
    }
    return 0;
}

/* gzip with no file name and no time in the header, so equal profiles are equal bytes. */
static int deflate_all(int level, uint8_t *in, size_t n, void **out, size_t *nout)
{
    z_stream z = {0};
    if (deflateInit2(&z, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) != Z_OK)
        return -ENOMEM;
    size_t cap = deflateBound(&z, n), done = 0;
    uint8_t *buf = malloc(cap);
    int rc = buf ? Z_OK : Z_MEM_ERROR;
    z.next_in = in;
    while (rc == Z_OK) {
        size_t left = n - (size_t)(z.next_in - in), room = cap - done;
        z.avail_in = left > UINT_MAX ? UINT_MAX : (uInt)left;
        z.avail_out = room > UINT_MAX ? UINT_MAX : (uInt)room;
        z.next_out = buf + done;
        rc = deflate(&z, left > UINT_MAX ? Z_NO_FLUSH : Z_FINISH);
        done = (size_t)(z.next_out - buf);
    }
    deflateEnd(&z);
    if (rc != Z_STREAM_END) {
        free(buf);
        return -ENOMEM;
    }
    void *fit = realloc(buf, done);
    *out = fit ? fit : buf;
    *nout = done;
    return 0;
}

int pb_encode(const pb_profile *p, int level, void **buf, size_t *n)
{
    tree t = {0};
    *buf = NULL;
    *n = 0;
    if (level > 9)
        return -EINVAL;
    if (tree_build(&t, p)) {
        pb_arena_free(&t.arena);
        return -ENOMEM;
    }
    size_t raw_n = weft__pb__profile__get_packed_size(&t.root);
    uint8_t *raw = malloc(raw_n ? raw_n : 1);
    if (raw)
        weft__pb__profile__pack(&t.root, raw);
    pb_arena_free(&t.arena);
    if (!raw)
        return -ENOMEM;
    if (level < 0) {
        *buf = raw;
        *n = raw_n;
        return 0;
    }
    int rc = deflate_all(level ? level : 1, raw, raw_n, buf, n);
    free(raw);
    return rc;
}
