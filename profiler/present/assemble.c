/* A raw snapshot becomes a profile: equal stacks are added up, addresses are named, the library's
 * own frames are taken off, and everything is put into the tables of the model.
 *
 * Invariants
 *  1. A location's address is the interrupted instruction for an exact leaf, else the return
 *     address minus one, which lies in the call. The same address is looked up. A synthetic frame
 *     has its small constant as address and no mapping.
 *  2. Each location has at least one line, so has_functions is true wherever it is set, and no tool
 *     tries to do the naming again (a local pass of pprof would lose the inlined frames).
 *  3. The first mapping is the program; the others are those that a location lies in.
 *  4. No sample has an empty stack: pprof would count it in the total and show it nowhere.
 *
 * What is hidden, as Go hides runtime.* and goexit: at the leaf, frames of the library until its
 * public call (weft_chan_recv), and in heap profiles the malloc names too, so that the leaf is who
 * asked for memory; at the root, the frames that start a coroutine. Samples of CPU time and of
 * threads keep their leaf.
 *
 * Locks: takes the symbols lock.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "present.h"

#define FRAMES_MAX 256 /* lines of one location */

pf_kind pf_kind_of(const pf_source *s)
{
    if (!s->snapshot)
        return PF_KIND_CPU;
    for (uint32_t i = 0; i < s->ntypes; i++) {
        if (strcmp(s->types[i].type, "inuse_space") == 0)
            return PF_KIND_HEAP;
        if (strcmp(s->types[i].type, "delay") == 0)
            return PF_KIND_CONTENTION;
    }
    return PF_KIND_COUNT;
}

/* ---- groups ---- */

static int compare_labels(const weft_labels *a, const weft_labels *b)
{
    uint32_t na = a ? a->n : 0, nb = b ? b->n : 0;

    if (a == b)
        return 0;
    for (uint32_t i = 0; i < na && i < nb; i++) {
        int c = strcmp(a->label[i].key, b->label[i].key);
        if (c == 0)
            c = strcmp(a->label[i].value, b->label[i].value);
        if (c)
            return c;
    }
    return (na > nb) - (na < nb);
}

static int compare_stacks(const pf_sample *a, const pf_sample *b)
{
    for (uint32_t i = 0; i < a->npcs && i < b->npcs; i++)
        if (a->pcs[i] != b->pcs[i])
            return a->pcs[i] < b->pcs[i] ? -1 : 1;
    if (a->npcs != b->npcs)
        return a->npcs < b->npcs ? -1 : 1;
    if (a->leaf_exact != b->leaf_exact)
        return a->leaf_exact ? 1 : -1;
    if (a->block_bytes != b->block_bytes)
        return a->block_bytes < b->block_bytes ? -1 : 1;
    return compare_labels(a->labels, b->labels);
}

/* Equal samples stay in their order, so that the first of a group is the first that was taken. */
static int by_stack(const void *a, const void *b)
{
    const pf_group *x = a, *y = b;
    int c = compare_stacks(x->sample, y->sample);

    return c ? c : (x->sample > y->sample) - (x->sample < y->sample);
}

static int by_appearance(const void *a, const void *b)
{
    const pf_group *x = a, *y = b;

    return (x->sample > y->sample) - (x->sample < y->sample);
}

static int by_column(const void *a, const void *b, void *arg)
{
    const pf_group *x = a, *y = b;
    int by = *(int *)arg, i = by % PF_VALUES;
    int64_t vx = by < PF_VALUES ? x->values[i] : x->unscaled[i],
            vy = by < PF_VALUES ? y->values[i] : y->unscaled[i];

    return vx != vy ? (vx > vy ? -1 : 1) : by_stack(a, b);
}

pf_group *pf_group_samples(const pf_raw *raw, int by, size_t *n, int *err)
{
    pf_group *g = raw->nsamples ? malloc(raw->nsamples * sizeof *g) : NULL;
    size_t out = 0;

    *n = 0;
    *err = raw->nsamples && !g ? -ENOMEM : 0;
    if (!g)
        return NULL;
    for (size_t i = 0; i < raw->nsamples; i++) {
        g[i].sample = &raw->samples[i];
        memcpy(g[i].values, raw->samples[i].values, sizeof g[i].values);
        memcpy(g[i].unscaled, raw->samples[i].unscaled, sizeof g[i].unscaled);
    }
    qsort(g, raw->nsamples, sizeof *g, by_stack);
    for (size_t i = 0; i < raw->nsamples; i++) {
        if (out && compare_stacks(g[out - 1].sample, g[i].sample) == 0) {
            for (int k = 0; k < PF_VALUES; k++) {
                g[out - 1].values[k] += g[i].values[k];
                g[out - 1].unscaled[k] += g[i].unscaled[k];
            }
            continue;
        }
        g[out++] = g[i];
    }
    if (by >= 0)
        qsort_r(g, out, sizeof *g, by_column, &by);
    else
        qsort(g, out, sizeof *g, by_appearance);
    *n = out;
    return g;
}

/* ---- what is shown ---- */

const pf_module *pf_module_of(const pf_raw *raw, uintptr_t address)
{
    for (size_t i = 0; i < raw->nmodules; i++)
        if (address >= raw->modules[i].start && address < raw->modules[i].limit)
            return &raw->modules[i];
    return NULL;
}

uintptr_t pf_frame_address(const pf_sample *s, uint32_t i)
{
    uintptr_t pc = s->pcs[i];

    return pc < PF_SYNTHETIC_END || (i == 0 && s->leaf_exact) ? pc : pc - 1;
}

/* The library that took the samples: libweft.so, or the program that libweft.a is part of. */
static bool in_library(const pf_raw *raw, const pf_module *m)
{
    const pf_module *own = m ? pf_module_of(raw, (uintptr_t)pf_collect->raw_free) : NULL;

    return own && (own == m || (own->bias == m->bias && strcmp(own->path, m->path) == 0));
}

static bool is_malloc(const char *name)
{
    static const char *const names[] = {
        "malloc",        "calloc",         "realloc",       "reallocarray", "memalign",
        "aligned_alloc", "posix_memalign", "valloc",        "pvalloc",      "malloc_slow",
        "calloc_slow",   "realloc_slow",   "memalign_slow", "valloc_slow",  "pvalloc_slow"};

    if (strncmp(name, "__interceptor_", 14) == 0)
        name += 14;
    else if (strncmp(name, "__libc_", 7) == 0)
        name += 7;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool is_prefixed(const char *name)
{
    return strncmp(name, "rt_", 3) == 0 || strncmp(name, "pf_", 3) == 0;
}

/* Whether DWARF says that a function is written in the library's own rooms: beside the file of
 * raw_free, which is in one of them. */
static bool is_library_file(const pf_module *m, const char *file)
{
    static const char collect[] = "/profiler/collect/", runtime[] = "/runtime/";
    const pf_place *own = pf_symbol_find(m, (uintptr_t)pf_collect->raw_free);
    const char *home = own->frames[own->nframes - 1].file, *at = strstr(home, collect);
    size_t n = at ? (size_t)(at - home) : 0;

    return at && strncmp(file, home, n) == 0 &&
           (strncmp(file + n, collect, sizeof collect - 1) == 0 ||
            strncmp(file + n, runtime, sizeof runtime - 1) == 0);
}

typedef enum where { ELSEWHERE, INSIDE, PUBLIC } where;

/* Where a frame stands. In libweft.so all that is not public is inside; in a program that holds
 * libweft.a the file tells, and where there is no DWARF the prefix. */
static where where_is(const pf_raw *raw, const pf_sample *s, uint32_t i)
{
    uintptr_t at = pf_frame_address(s, i);
    const pf_module *m = pf_module_of(raw, at);

    if (!in_library(raw, m))
        return ELSEWHERE;
    const pf_place *p = pf_symbol_find(m, at);
    const pf_frame *f = &p->frames[p->nframes - 1];
    if (strncmp(f->name, "weft_", 5) == 0 || is_malloc(f->name))
        return PUBLIC;
    if (is_prefixed(f->name) || strcmp(m->path, raw->modules[0].path) != 0 ||
        is_library_file(m, f->file))
        return INSIDE;
    return ELSEWHERE;
}

static const char *outer_name(const pf_raw *raw, const pf_sample *s, uint32_t i)
{
    uintptr_t at = pf_frame_address(s, i);
    const pf_place *p = pf_symbol_find(pf_module_of(raw, at), at);

    return p->frames[p->nframes - 1].name;
}

static uint32_t first_shown(const pf_raw *raw, const pf_sample *s, pf_kind kind)
{
    uint32_t first = 0;

    while (first < s->npcs && where_is(raw, s, first) == INSIDE)
        first++;
    while (kind == PF_KIND_HEAP && first < s->npcs && is_malloc(outer_name(raw, s, first)))
        first++;
    return first < s->npcs ? first : 0;
}

/* What threads run is the library's own for the most part; there it is the answer. */
static bool keeps_leaf(const pf_source *s, pf_kind kind)
{
    return kind == PF_KIND_CPU || strncmp(s->name, "thread", 6) == 0;
}

pf_view pf_view_of(const pf_raw *raw, const pf_sample *s)
{
    pf_kind kind = pf_kind_of(raw->source);
    pf_view v = {0, s->npcs, 0};

    if (!keeps_leaf(raw->source, kind))
        v.first = first_shown(raw, s, kind);
    while (v.end > v.first && where_is(raw, s, v.end - 1) == INSIDE)
        v.end--;
    if (v.end == v.first)
        v.end = s->npcs;
    /* A public call's own code may begin with inlined parts of the inside. */
    if (!keeps_leaf(raw->source, kind) && v.first < v.end && where_is(raw, s, v.first) == PUBLIC) {
        uintptr_t at = pf_frame_address(s, v.first);
        v.inner = pf_symbol_find(pf_module_of(raw, at), at)->nframes - 1;
    }
    return v;
}

/* ---- tables ---- */

typedef struct seen {
    uintptr_t address;
    uint32_t inner;
    uint64_t id; /* 0: free */
} seen;

typedef struct builder {
    const pf_raw *raw;
    pb_profile *p;
    uint64_t *mapping; /* of each module, 0: not yet */
    seen *seen;        /* locations made, open addressing, at most half full */
    size_t nseen, cap;
} builder;

/* The full path, as far as it can be told: a library found through a relative directory has a
 * relative one. */
static int64_t file_of(builder *b, const char *path)
{
    const char *deleted = strstr(path, " (deleted)");
    size_t len = deleted && !deleted[10] ? (size_t)(deleted - path) : strlen(path);
    char *full = path[0] == '/' || path[0] == '[' ? NULL : realpath(path, NULL);
    int64_t s = full ? pb_string(b->p, full) : pb_string_add(b->p, path, len);

    free(full);
    return s;
}

static uint64_t mapping_of(builder *b, const pf_module *m)
{
    uint64_t *id = &b->mapping[m - b->raw->modules];

    if (*id == 0) {
        pb_mapping pm = {.start = m->start, .limit = m->limit, .offset = m->offset};
        pm.file = file_of(b, m->path);
        pm.build_id = pb_string(b->p, m->build_id);
        if (pm.file >= 0 && pm.build_id >= 0)
            *id = pb_mapping_add(b->p, &pm);
    }
    return *id;
}

static int64_t string_of(builder *b, const char *s, bool *bad)
{
    int64_t i = pb_string(b->p, s);

    *bad |= i < 0;
    return i;
}

static uint64_t location_new(builder *b, uintptr_t address, uint32_t inner)
{
    const pf_module *m = pf_module_of(b->raw, address);
    const pf_place *place = pf_symbol_find(m, address);
    pb_line lines[FRAMES_MAX];
    uint64_t mapping = m ? mapping_of(b, m) : 0;
    uint32_t n = 0;
    bool bad = m && !mapping;

    for (uint32_t i = inner; i < place->nframes && n < FRAMES_MAX && !bad; i++) {
        const pf_frame *f = &place->frames[i];
        int64_t name = string_of(b, f->name, &bad), system = string_of(b, f->system_name, &bad),
                file = string_of(b, f->file, &bad);
        lines[n].function = bad ? 0 : pb_function_add(b->p, name, system, file, 0);
        lines[n].line = f->line;
        bad |= lines[n++].function == 0;
        if (mapping && f->file[0])
            b->p->mappings[mapping - 1].has_filenames = true;
        if (mapping && f->line)
            b->p->mappings[mapping - 1].has_line_numbers = true;
    }
    if (mapping) {
        b->p->mappings[mapping - 1].has_functions = true;
        b->p->mappings[mapping - 1].has_inline_frames |= place->debug_info;
    }
    return bad ? 0 : pb_location_add(b->p, mapping, address, lines, n);
}

static seen *seen_slot(seen *v, size_t cap, uintptr_t address, uint32_t inner)
{
    size_t i = ((address + inner) * 0x9e3779b97f4a7c15u) >> 32 & (cap - 1);

    while (v[i].id && (v[i].address != address || v[i].inner != inner))
        i = (i + 1) & (cap - 1);
    return &v[i];
}

static uint64_t location_of(builder *b, uintptr_t address, uint32_t inner)
{
    if (2 * b->nseen >= b->cap) {
        size_t cap = b->cap ? 2 * b->cap : 256;
        seen *v = calloc(cap, sizeof *v);
        if (!v)
            return 0;
        for (size_t i = 0; i < b->cap; i++)
            if (b->seen[i].id)
                *seen_slot(v, cap, b->seen[i].address, b->seen[i].inner) = b->seen[i];
        free(b->seen);
        b->seen = v;
        b->cap = cap;
    }
    seen *s = seen_slot(b->seen, b->cap, address, inner);
    if (!s->id) {
        s->address = address;
        s->inner = inner;
        s->id = location_new(b, address, inner);
        b->nseen += s->id != 0;
    }
    return s->id;
}

/* ---- samples ---- */

static uint32_t labels_of(builder *b, const pf_sample *s, pb_label *out, uint32_t max, bool *bad)
{
    uint32_t n = 0;

    for (uint32_t i = 0; s->labels && i < s->labels->n && n < max; i++) {
        out[n] = (pb_label){.key = string_of(b, s->labels->label[i].key, bad),
                            .str = string_of(b, s->labels->label[i].value, bad)};
        n++;
    }
    /* No num_unit: pprof takes a unit-less key as the unit, and Go writes none. */
    if (s->block_bytes && n < max) {
        out[n] = (pb_label){.key = string_of(b, "bytes", bad), .num = s->block_bytes};
        n++;
    }
    return n;
}

static int add_sample(builder *b, const pf_group *g)
{
    static const uintptr_t nothing[] = {PF_NO_STACK};
    pf_sample shown = *g->sample;
    uint64_t locs[2 * PF_DEPTH];
    uint32_t n = 0, nlabels = (shown.labels ? shown.labels->n : 0) + 1;
    bool bad = false;

    if (shown.npcs == 0) {
        shown.pcs = nothing;
        shown.npcs = 1;
    }
    pf_view v = pf_view_of(b->raw, &shown);
    for (uint32_t i = v.first; i < v.end && n < 2 * PF_DEPTH && !bad; i++) {
        locs[n] = location_of(b, pf_frame_address(&shown, i), i == v.first ? v.inner : 0);
        bad = locs[n++] == 0;
    }
    pb_label *labels = bad ? NULL : malloc(nlabels * sizeof *labels);
    if (!labels)
        return -ENOMEM;
    nlabels = labels_of(b, &shown, labels, nlabels, &bad);
    int r = bad ? -ENOMEM : pb_sample_add(b->p, locs, n, g->values, labels, nlabels);
    free(labels);
    return r;
}

static int add_header(builder *b)
{
    const pf_raw *raw = b->raw;
    const pf_source *s = raw->source;
    bool bad = false;

    for (uint32_t i = 0; i < s->ntypes; i++)
        if (pb_type_add(b->p, s->types[i].type, s->types[i].unit) < 0)
            return -ENOMEM;
    b->p->period_type.type = string_of(b, s->period_type.type, &bad);
    b->p->period_type.unit = string_of(b, s->period_type.unit, &bad);
    b->p->default_type = string_of(b, s->default_type, &bad);
    b->p->period = raw->period;
    b->p->time_ns = raw->time_ns;
    b->p->duration_ns = raw->duration_ns;
    if (raw->nmodules && !mapping_of(b, &raw->modules[0]))
        bad = true;
    return bad ? -ENOMEM : 0;
}

static int add_samples(builder *b)
{
    static const int order[] = {
        [PF_KIND_CPU] = -1, [PF_KIND_HEAP] = -1, [PF_KIND_CONTENTION] = 1, [PF_KIND_COUNT] = 0};
    size_t n;
    int r;
    pf_group *g = pf_group_samples(b->raw, order[pf_kind_of(b->raw->source)], &n, &r);

    pf_symbols_begin();
    for (size_t i = 0; i < n && r == 0; i++)
        r = add_sample(b, &g[i]);
    pf_symbols_end();
    free(g);
    /* Nothing lies in the program: whatever is said of its locations is true. */
    if (r == 0 && b->p->nmappings && !b->p->mappings[0].has_functions) {
        pb_mapping *m = &b->p->mappings[0];
        m->has_functions = m->has_filenames = m->has_line_numbers = m->has_inline_frames = true;
    }
    return r;
}

int pf_assemble(const pf_raw *raw, pb_profile **out)
{
    builder b = {.raw = raw, .p = pb_profile_new()};
    int r = -ENOMEM;

    b.mapping = calloc(raw->nmodules + 1, sizeof *b.mapping);
    if (b.p && b.mapping)
        r = add_header(&b);
    if (r == 0)
        r = add_samples(&b);
    free(b.mapping);
    free(b.seen);
    if (r < 0) {
        pb_profile_free(b.p);
        return r;
    }
    *out = b.p;
    return 0;
}
