/* The model of a profile: tables that grow, and adders that find equal content again.
 *
 * Invariants:
 * 1. strings[0] is "", and the id of a function, mapping or location is its index plus one; so what
 *    the encoder writes needs no renumbering.
 * 2. Every index and id stored in the model points into the model: adders refuse others. Readers
 *    (fold, flame, encode) rely on it and check nothing.
 * 3. Labels of a sample are sorted, so that the same set in another order is the same sample.
 * 4. Sums stop at the ends of int64_t instead of wrapping.
 *
 * No locks: a profile belongs to one thread at a time.
 */
#include "proto/model.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

pb_profile *pb_profile_new(void)
{
    pb_profile *p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    p->intern = calloc(1, sizeof *p->intern);
    if (!p->intern || pb_string_add(p, "", 0) != 0) {
        pb_profile_free(p);
        return NULL;
    }
    return p;
}

void pb_profile_free(pb_profile *p)
{
    if (!p)
        return;
    if (p->intern) {
        pb_strtab_free(&p->intern->strings);
        pb_index_free(&p->intern->functions);
        pb_index_free(&p->intern->mappings);
        pb_index_free(&p->intern->locations);
        pb_index_free(&p->intern->samples);
        pb_arena_free(&p->intern->arena);
        free(p->intern);
    }
    free(p->types);
    free(p->samples);
    free(p->mappings);
    free(p->locations);
    free(p->functions);
    free(p->comments);
    free(p);
}

int64_t pb_string_add(pb_profile *p, const char *s, size_t n)
{
    int64_t i = pb_strtab_add(&p->intern->strings, &p->intern->arena, s, n);
    p->strings = p->intern->strings.text;
    p->nstrings = p->intern->strings.n;
    return i;
}

int64_t pb_string(pb_profile *p, const char *s)
{
    return s ? pb_string_add(p, s, strlen(s)) : 0;
}

const char *pb_str(const pb_profile *p, int64_t index)
{
    return index >= 0 && (uint64_t)index < p->nstrings ? p->strings[index] : "";
}

static bool string_ok(const pb_profile *p, int64_t index)
{
    return index >= 0 && (uint64_t)index < p->nstrings;
}

uint64_t pb_function_add(pb_profile *p, int64_t name, int64_t system_name, int64_t file,
                         int64_t start_line)
{
    pb_function f = {name, system_name, file, start_line};
    pb_index *ix = &p->intern->functions;
    if (!string_ok(p, name) || !string_ok(p, system_name) || !string_ok(p, file) ||
        pb_index_room(ix) ||
        pb_grow(&p->functions, p->nfunctions, &p->intern->cap_functions, sizeof f))
        return 0;
    uint64_t h = pb_hash(&f, sizeof f, ix->seed);
    uint32_t v;
    for (size_t i = pb_index_first(ix, h); pb_index_next(ix, h, &i, &v);)
        if (memcmp(&p->functions[v], &f, sizeof f) == 0)
            return v + (uint64_t)1;
    pb_index_put(ix, h, (uint32_t)p->nfunctions);
    p->functions[p->nfunctions] = f;
    return ++p->nfunctions;
}

/* The has_ flags are claims about the locations, not part of what a mapping is: where two writers
 * disagree only what both claim is true. */
uint64_t pb_mapping_add(pb_profile *p, const pb_mapping *m)
{
    uint64_t key[5] = {m->start, m->limit, m->offset, (uint64_t)m->file, (uint64_t)m->build_id};
    pb_index *ix = &p->intern->mappings;
    if (!string_ok(p, m->file) || !string_ok(p, m->build_id) || pb_index_room(ix) ||
        pb_grow(&p->mappings, p->nmappings, &p->intern->cap_mappings, sizeof *m))
        return 0;
    uint64_t h = pb_hash(key, sizeof key, ix->seed);
    uint32_t v;
    for (size_t i = pb_index_first(ix, h); pb_index_next(ix, h, &i, &v);) {
        pb_mapping *o = &p->mappings[v];
        if (o->start != m->start || o->limit != m->limit || o->offset != m->offset ||
            o->file != m->file || o->build_id != m->build_id)
            continue;
        o->has_functions &= m->has_functions;
        o->has_filenames &= m->has_filenames;
        o->has_line_numbers &= m->has_line_numbers;
        o->has_inline_frames &= m->has_inline_frames;
        return v + (uint64_t)1;
    }
    pb_index_put(ix, h, (uint32_t)p->nmappings);
    p->mappings[p->nmappings] = *m;
    return ++p->nmappings;
}

static bool location_is(const pb_location *l, uint64_t mapping, uint64_t address,
                        const pb_line *lines, uint32_t nlines)
{
    return l->mapping == mapping && l->address == address && l->nlines == nlines &&
           (!nlines || memcmp(l->lines, lines, nlines * sizeof *lines) == 0);
}

uint64_t pb_location_add(pb_profile *p, uint64_t mapping, uint64_t address, const pb_line *lines,
                         uint32_t nlines)
{
    pb_index *ix = &p->intern->locations;
    if (mapping > p->nmappings || pb_index_room(ix) ||
        pb_grow(&p->locations, p->nlocations, &p->intern->cap_locations, sizeof *p->locations))
        return 0;
    for (uint32_t i = 0; i < nlines; i++)
        if (lines[i].function > p->nfunctions)
            return 0;
    uint64_t key[2] = {mapping, address};
    uint64_t h = pb_hash(key, sizeof key, ix->seed);
    if (nlines)
        h = pb_hash(lines, nlines * sizeof *lines, h);
    uint32_t v;
    for (size_t i = pb_index_first(ix, h); pb_index_next(ix, h, &i, &v);)
        if (location_is(&p->locations[v], mapping, address, lines, nlines))
            return v + (uint64_t)1;
    pb_location l = {.mapping = mapping, .address = address, .nlines = nlines};
    if (nlines) {
        l.lines = pb_arena_alloc(&p->intern->arena, nlines * sizeof *lines);
        if (!l.lines)
            return 0;
        memcpy(l.lines, lines, nlines * sizeof *lines);
    }
    pb_index_put(ix, h, (uint32_t)p->nlocations);
    p->locations[p->nlocations] = l;
    return ++p->nlocations;
}

int pb_type_add(pb_profile *p, const char *type, const char *unit)
{
    if (p->nsamples)
        return -EINVAL;
    pb_value_type t = {pb_string(p, type), pb_string(p, unit)};
    if (t.type < 0 || t.unit < 0 ||
        pb_grow(&p->types, p->ntypes, &p->intern->cap_types, sizeof *p->types))
        return -ENOMEM;
    p->types[p->ntypes++] = t;
    return 0;
}

int pb_comment_add(pb_profile *p, const char *text)
{
    int64_t s = pb_string(p, text);
    if (s < 0 || pb_grow(&p->comments, p->ncomments, &p->intern->cap_comments, sizeof s))
        return -ENOMEM;
    p->comments[p->ncomments++] = s;
    return 0;
}

static int label_order(const void *a, const void *b)
{
    const pb_label *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    if (x->str != y->str)
        return x->str < y->str ? -1 : 1;
    if (x->num != y->num)
        return x->num < y->num ? -1 : 1;
    return x->num_unit < y->num_unit ? -1 : x->num_unit > y->num_unit;
}

static bool sample_refs_ok(const pb_profile *p, const uint64_t *locs, uint32_t nlocs,
                           const pb_label *labels, uint32_t nlabels)
{
    for (uint32_t i = 0; i < nlocs; i++)
        if (locs[i] - 1 >= p->nlocations)
            return false;
    for (uint32_t i = 0; i < nlabels; i++)
        if (!string_ok(p, labels[i].key) || !string_ok(p, labels[i].str) ||
            !string_ok(p, labels[i].num_unit))
            return false;
    return true;
}

static bool sample_is(const pb_sample *s, const uint64_t *locs, uint32_t nlocs,
                      const pb_label *labels, uint32_t nlabels)
{
    return s->nlocs == nlocs && s->nlabels == nlabels &&
           (!nlocs || memcmp(s->locs, locs, nlocs * sizeof *locs) == 0) &&
           (!nlabels || memcmp(s->labels, labels, nlabels * sizeof *labels) == 0);
}

static uint64_t sample_hash(uint64_t seed, const uint64_t *locs, uint32_t nlocs,
                            const pb_label *labels, uint32_t nlabels)
{
    uint64_t h = pb_hash(locs, nlocs * sizeof *locs, seed);
    return nlabels ? pb_hash(labels, nlabels * sizeof *labels, h) : h;
}

/* Puts a sample behind the last one; labels are sorted, references checked, room is there. */
static int sample_append(pb_profile *p, const uint64_t *locs, uint32_t nlocs, const int64_t *values,
                         const pb_label *labels, uint32_t nlabels)
{
    pb_arena *arena = &p->intern->arena;
    pb_sample s = {.nlocs = nlocs, .nlabels = nlabels};
    s.locs = pb_arena_alloc(arena, nlocs * sizeof *locs);
    s.values = pb_arena_alloc(arena, p->ntypes * sizeof *values);
    s.labels = nlabels ? pb_arena_alloc(arena, nlabels * sizeof *labels) : NULL;
    if (!s.locs || !s.values || (nlabels && !s.labels))
        return -ENOMEM;
    if (nlocs)
        memcpy(s.locs, locs, nlocs * sizeof *locs);
    memcpy(s.values, values, p->ntypes * sizeof *values);
    if (nlabels)
        memcpy(s.labels, labels, nlabels * sizeof *labels);
    p->samples[p->nsamples++] = s;
    return 0;
}

static int sample_add_sorted(pb_profile *p, const uint64_t *locs, uint32_t nlocs,
                             const int64_t *values, const pb_label *labels, uint32_t nlabels)
{
    pb_index *ix = &p->intern->samples;
    if (pb_index_room(ix) ||
        pb_grow(&p->samples, p->nsamples, &p->intern->cap_samples, sizeof *p->samples))
        return -ENOMEM;
    uint64_t h = sample_hash(ix->seed, locs, nlocs, labels, nlabels);
    uint32_t v;
    for (size_t i = pb_index_first(ix, h); pb_index_next(ix, h, &i, &v);) {
        if (!sample_is(&p->samples[v], locs, nlocs, labels, nlabels))
            continue;
        for (size_t t = 0; t < p->ntypes; t++)
            p->samples[v].values[t] = pb_add_sat(p->samples[v].values[t], values[t]);
        return 0;
    }
    int rc = sample_append(p, locs, nlocs, values, labels, nlabels);
    if (!rc)
        pb_index_put(ix, h, (uint32_t)p->nsamples - 1);
    return rc;
}

int pb_sample_add(pb_profile *p, const uint64_t *locs, uint32_t nlocs, const int64_t *values,
                  const pb_label *labels, uint32_t nlabels)
{
    if (!p->ntypes || !sample_refs_ok(p, locs, nlocs, labels, nlabels))
        return -EINVAL;
    bool sorted = true;
    for (uint32_t i = 1; i < nlabels; i++)
        sorted = sorted && label_order(&labels[i - 1], &labels[i]) <= 0;
    if (sorted)
        return sample_add_sorted(p, locs, nlocs, values, labels, nlabels);
    pb_label *copy = malloc(nlabels * sizeof *copy);
    if (!copy)
        return -ENOMEM;
    memcpy(copy, labels, nlabels * sizeof *copy);
    qsort(copy, nlabels, sizeof *copy, label_order);
    int rc = sample_add_sorted(p, locs, nlocs, values, copy, nlabels);
    free(copy);
    return rc;
}

void pb_samples_drop_zero(pb_profile *p)
{
    size_t kept = 0;
    for (size_t i = 0; i < p->nsamples; i++) {
        bool zero = true;
        for (size_t t = 0; t < p->ntypes; t++)
            zero = zero && p->samples[i].values[t] == 0;
        if (!zero)
            p->samples[kept++] = p->samples[i];
    }
    if (kept == p->nsamples)
        return;
    p->nsamples = kept;
    pb_index *ix = &p->intern->samples;
    memset(ix->slots, 0, (ix->mask + 1) * sizeof *ix->slots);
    ix->used = 0;
    for (size_t i = 0; i < kept; i++) {
        pb_sample *s = &p->samples[i];
        uint64_t h = sample_hash(ix->seed, s->locs, s->nlocs, s->labels, s->nlabels);
        pb_index_put(ix, h, (uint32_t)i);
    }
}

int pb_sample_index(const pb_profile *p, const char *want)
{
    if (!p->ntypes)
        return -EINVAL;
    if (!want || !*want) {
        for (size_t i = 0; p->default_type && i < p->ntypes; i++)
            if (p->types[i].type == p->default_type)
                return (int)i;
        return (int)p->ntypes - 1;
    }
    char *end;
    errno = 0;
    long n = strtol(want, &end, 10);
    if (!*end)
        return errno || n < 0 || (unsigned long)n >= p->ntypes ? -EINVAL : (int)n;
    const char *bare = strncmp(want, "inuse_", 6) == 0 ? want + 6 : want;
    for (size_t i = 0; i < p->ntypes; i++) {
        const char *type = pb_str(p, p->types[i].type);
        if (strcmp(type, want) == 0 || strcmp(type, bare) == 0)
            return (int)i;
    }
    return -EINVAL;
}

int pb_fail(char *err, size_t errlen, int code, const char *fmt, ...)
{
    if (err && errlen) {
        va_list ap;
        va_start(ap, fmt);
        vsnprintf(err, errlen, fmt, ap);
        va_end(ap);
    }
    return code;
}
