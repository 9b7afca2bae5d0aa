/* Adds a multiple of one profile to another: sums of scrapes with scale 1, what happened between
 * two snapshots with scale -1.
 *
 * Invariants:
 * 1. Samples meet by content (locations with their addresses and lines, labels by text), never by
 *    the ids or string numbers of their profile.
 * 2. Afterwards no sample is all zero.
 * 3. dst keeps its own header; a dst without sample types yet takes src's whole header.
 *
 * No locks.
 */
#include "proto/model.h"

#include <errno.h>
#include <stdlib.h>

/* What the indices of src are in dst. */
typedef struct maps {
    int64_t *strings;
    uint64_t *mappings, *functions, *locations; /* by id; [0] is 0 */
    uint64_t *locs;
    pb_line *lines;
    pb_label *labels;
    int64_t *values;
    size_t cap_locs, cap_lines, cap_labels;
} maps;

static bool same_types(const pb_profile *a, const pb_profile *b)
{
    if (a->ntypes != b->ntypes)
        return false;
    for (size_t i = 0; i < a->ntypes; i++)
        if (strcmp(pb_str(a, a->types[i].type), pb_str(b, b->types[i].type)) != 0 ||
            strcmp(pb_str(a, a->types[i].unit), pb_str(b, b->types[i].unit)) != 0)
            return false;
    return true;
}

static int take_header(pb_profile *dst, const pb_profile *src, const maps *m)
{
    for (size_t i = 0; i < src->ntypes; i++)
        if (pb_type_add(dst, pb_str(src, src->types[i].type), pb_str(src, src->types[i].unit)))
            return -ENOMEM;
    for (size_t i = 0; i < src->ncomments; i++)
        if (pb_comment_add(dst, pb_str(src, src->comments[i])))
            return -ENOMEM;
    dst->drop_frames = m->strings[src->drop_frames];
    dst->keep_frames = m->strings[src->keep_frames];
    dst->default_type = m->strings[src->default_type];
    dst->doc_url = m->strings[src->doc_url];
    dst->period_type.type = m->strings[src->period_type.type];
    dst->period_type.unit = m->strings[src->period_type.unit];
    dst->period = src->period;
    return 0;
}

/* A sum began when its first part did and lasted as long as all of them; a difference keeps the
 * times of the profile it was taken from. */
static void add_times(pb_profile *dst, const pb_profile *src, int64_t scale)
{
    if (scale < 0)
        return;
    if (!dst->time_ns || (src->time_ns && src->time_ns < dst->time_ns))
        dst->time_ns = src->time_ns;
    dst->duration_ns = pb_add_sat(dst->duration_ns, src->duration_ns);
}

static int maps_new(maps *m, const pb_profile *src)
{
    m->strings = calloc(src->nstrings + 1, sizeof *m->strings);
    m->mappings = calloc(src->nmappings + 1, sizeof *m->mappings);
    m->functions = calloc(src->nfunctions + 1, sizeof *m->functions);
    m->locations = calloc(src->nlocations + 1, sizeof *m->locations);
    m->values = calloc(src->ntypes + 1, sizeof *m->values);
    return m->strings && m->mappings && m->functions && m->locations && m->values ? 0 : -ENOMEM;
}

static void maps_free(maps *m)
{
    free(m->strings);
    free(m->mappings);
    free(m->functions);
    free(m->locations);
    free(m->locs);
    free(m->lines);
    free(m->labels);
    free(m->values);
}

static int map_tables(maps *m, pb_profile *dst, const pb_profile *src)
{
    for (size_t i = 0; i < src->nstrings; i++) {
        m->strings[i] = pb_string(dst, src->strings[i]);
        if (m->strings[i] < 0)
            return -ENOMEM;
    }
    for (size_t i = 0; i < src->nmappings; i++) {
        pb_mapping copy = src->mappings[i];
        copy.file = m->strings[copy.file];
        copy.build_id = m->strings[copy.build_id];
        m->mappings[i + 1] = pb_mapping_add(dst, &copy);
        if (!m->mappings[i + 1])
            return -ENOMEM;
    }
    for (size_t i = 0; i < src->nfunctions; i++) {
        const pb_function *f = &src->functions[i];
        m->functions[i + 1] = pb_function_add(dst, m->strings[f->name], m->strings[f->system_name],
                                              m->strings[f->file], f->start_line);
        if (!m->functions[i + 1])
            return -ENOMEM;
    }
    return 0;
}

static int map_locations(maps *m, pb_profile *dst, const pb_profile *src)
{
    for (size_t i = 0; i < src->nlocations; i++) {
        const pb_location *l = &src->locations[i];
        if (pb_grow(&m->lines, l->nlines, &m->cap_lines, sizeof *m->lines))
            return -ENOMEM;
        for (uint32_t k = 0; k < l->nlines; k++)
            m->lines[k] = (pb_line){m->functions[l->lines[k].function], l->lines[k].line};
        uint64_t id =
            pb_location_add(dst, m->mappings[l->mapping], l->address, m->lines, l->nlines);
        if (!id)
            return -ENOMEM;
        dst->locations[id - 1].folded |= l->folded;
        m->locations[i + 1] = id;
    }
    return 0;
}

static int add_sample(maps *m, pb_profile *dst, const pb_profile *src, const pb_sample *s,
                      int64_t scale)
{
    bool zero = true;
    for (size_t t = 0; t < src->ntypes; t++) {
        m->values[t] = pb_mul_sat(s->values[t], scale);
        zero = zero && !m->values[t];
    }
    if (zero)
        return 0;
    if (pb_grow(&m->locs, s->nlocs, &m->cap_locs, sizeof *m->locs) ||
        pb_grow(&m->labels, s->nlabels, &m->cap_labels, sizeof *m->labels))
        return -ENOMEM;
    for (uint32_t i = 0; i < s->nlocs; i++)
        m->locs[i] = m->locations[s->locs[i]];
    for (uint32_t i = 0; i < s->nlabels; i++) {
        const pb_label *l = &s->labels[i];
        m->labels[i] =
            (pb_label){m->strings[l->key], m->strings[l->str], l->num, m->strings[l->num_unit]};
    }
    return pb_sample_add(dst, m->locs, s->nlocs, m->values, m->labels, s->nlabels);
}

int pb_merge(pb_profile *dst, const pb_profile *src, int64_t scale)
{
    bool fresh = !dst->ntypes && !dst->nsamples;
    if (dst == src || (!fresh && !same_types(dst, src)))
        return -EINVAL;
    maps m = {0};
    int rc = maps_new(&m, src);
    if (!rc)
        rc = map_tables(&m, dst, src);
    if (!rc && fresh)
        rc = take_header(dst, src, &m);
    if (!rc)
        rc = map_locations(&m, dst, src);
    for (size_t i = 0; i < src->nsamples && !rc; i++)
        rc = add_sample(&m, dst, src, &src->samples[i], scale);
    maps_free(&m);
    if (rc)
        return rc;
    add_times(dst, src, scale);
    pb_samples_drop_zero(dst);
    return 0;
}
