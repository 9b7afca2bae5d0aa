/* Locations -> frames: what each line of each location is called, numbered by name.
 *
 * Invariants:
 * 1. Names are distinct and numbered in byte order, so comparing numbers compares names, and two
 *    functions of one name are one frame (as in pprof's default view).
 * 2. No name is empty.
 * 3. With `folded`, no name holds ';', a control byte or invalid UTF-8; at a leaf none ends in a
 *    space and a number (it would read as a second count), at a root none begins with '#' (the
 *    line would read as a comment) or is blank. The substitutes are names of their own, so equal
 *    text is one number.
 *
 * No locks.
 */
#include "proto/frames.h"
#include "proto/model.h"
#include "proto/utf8.h"

#include <errno.h>
#include <stdlib.h>

struct pb_frames_mem {
    pb_arena arena;
    pb_strtab names;
    int64_t *files; /* parallel to names until both are sorted */
    size_t cap_files;
    char *scratch;
    size_t cap_scratch;
};

/* A copy that folded text can carry; at most three bytes for each. */
static size_t fold_name(const char *s, size_t n, char *out)
{
    n = pb_utf8_repair(s, n, out);
    for (size_t i = 0; i < n; i++)
        if (out[i] == ';')
            out[i] = ':';
        else if ((unsigned char)out[i] < ' ' || out[i] == 0x7f)
            out[i] = ' ';
    return n;
}

static int64_t name_add(pb_frames *f, const char *s, size_t n, int64_t file)
{
    struct pb_frames_mem *m = f->mem;
    int64_t i = pb_strtab_add(&m->names, &m->arena, s, n);
    if (i < 0 || pb_grow(&m->files, (size_t)i, &m->cap_files, sizeof *m->files))
        return -1;
    if ((size_t)i == f->nnames) {
        f->nnames++;
        m->files[i] = file;
    }
    return i;
}

/* The name number of one line of a location; line NULL is a location without lines. */
static int64_t line_name(pb_frames *f, const pb_profile *p, const pb_location *l,
                         const pb_line *line, bool folded)
{
    struct pb_frames_mem *m = f->mem;
    const pb_function *fn = line && line->function ? &p->functions[line->function - 1] : NULL;
    const char *name = fn ? pb_str(p, fn->name) : "";
    const char *file = pb_str(p, l->mapping ? p->mappings[l->mapping - 1].file : 0);
    char address[32];
    if (fn && !*name)
        name = pb_str(p, fn->system_name);
    size_t n = strlen(name), room = (n ? n : strlen(file)) * 3 + sizeof address;
    if (pb_grow(&m->scratch, room, &m->cap_scratch, 1))
        return -1;
    if (!n && *file) {
        const char *base = strrchr(file, '/');
        base = base && base[1] ? base + 1 : file;
        n = (size_t)snprintf(m->scratch, m->cap_scratch, "[%s]", base);
    } else if (!n) {
        name = l->address ? address : "[unknown]";
        snprintf(address, sizeof address, "0x%llx", (unsigned long long)l->address);
        n = (size_t)snprintf(m->scratch, m->cap_scratch, "%s", name);
    } else {
        memcpy(m->scratch, name, n + 1);
    }
    if (folded) {
        char *copy = pb_arena_alloc(&m->arena, n + 1);
        if (!copy)
            return -1;
        memcpy(copy, m->scratch, n + 1);
        n = fold_name(copy, n, m->scratch);
    }
    return name_add(f, m->scratch, n, l->mapping ? p->mappings[l->mapping - 1].file : 0);
}

/* Names of functions repeat over many locations, so each function is looked up once. */
static int64_t line_name_cached(pb_frames *f, const pb_profile *p, const pb_location *l,
                                const pb_line *line, bool folded, uint32_t *cache)
{
    if (!line || !line->function || !cache)
        return line_name(f, p, l, line, folded);
    const pb_function *fn = &p->functions[line->function - 1];
    if (cache[line->function])
        return cache[line->function] - 1;
    int64_t i = line_name(f, p, l, line, folded);
    if (i >= 0 && (fn->name || fn->system_name))
        cache[line->function] = (uint32_t)i + 1;
    return i;
}

static int list_fill(pb_frames *f, const pb_profile *p, bool folded, uint32_t *cache)
{
    size_t at = 0;
    for (size_t i = 0; i < p->nlocations; i++) {
        const pb_location *l = &p->locations[i];
        uint32_t n = l->nlines ? l->nlines : 1;
        f->first[i] = at;
        for (uint32_t k = 0; k < n; k++) {
            const pb_line *line = l->nlines ? &l->lines[n - 1 - k] : NULL;
            int64_t name = line_name_cached(f, p, l, line, folded, cache);
            if (name < 0)
                return -ENOMEM;
            f->list[at++] = (uint32_t)name << 1 | (k > 0);
        }
    }
    f->first[p->nlocations] = at;
    return 0;
}

/* Where a leaf ends in a space and a number (12, 1.5): the place of that space, else n. */
static size_t count_tail(const char *s, size_t n)
{
    size_t i = n, dots = 0;
    while (i > 0 && ((s[i - 1] >= '0' && s[i - 1] <= '9') || (s[i - 1] == '.' && !dots)))
        dots += s[--i] == '.';
    bool number = i < n && s[i] != '.';
    return number && i > 0 && s[i - 1] == ' ' ? i - 1 : n;
}

/* The substitute of name i at a leaf or at a root, made where there is none yet. */
static int64_t substitute(pb_frames *f, size_t i, bool leaf)
{
    struct pb_frames_mem *m = f->mem;
    /* i < f->nnames. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
    const char *s = m->names.text[i];
    bool no_root = *s == '#' || s[strspn(s, " ")] == '\0';
    size_t n = pb_text_len(s), at = leaf ? count_tail(s, n) : no_root ? 0 : n;
    if (at == n)
        return (int64_t)i;
    char *copy = pb_arena_alloc(&m->arena, n + 1);
    if (!copy)
        return -1;
    memcpy(copy, s, n + 1);
    copy[at] = '_';
    return name_add(f, copy, n, m->files[i]);
}

static int substitutes(pb_frames *f)
{
    size_t n = f->nnames;
    /* A root may be the leaf as well, so a root's substitute gets a leaf's in its turn: three
     * rounds of new names at most. */
    f->leaves = malloc((n * 3 + 1) * sizeof *f->leaves);
    f->roots = malloc((n * 3 + 1) * sizeof *f->roots);
    if (!f->leaves || !f->roots)
        return -ENOMEM;
    for (size_t i = 0; i < f->nnames; i++) {
        int64_t leaf = substitute(f, i, true), root = leaf < 0 ? -1 : substitute(f, i, false);
        if (root < 0)
            return -ENOMEM;
        f->leaves[i] = (uint32_t)leaf;
        f->roots[i] = (uint32_t)root;
    }
    return 0;
}

static int text_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Renumbers so that numbers are in byte order. The arena keeps a name's old number beside it only
 * through the table, hence the inverse permutation. */
static int sort_names(pb_frames *f, size_t nlist)
{
    struct pb_frames_mem *m = f->mem;
    struct entry {
        char *text;
        uint32_t old;
    } *e = malloc((f->nnames + 1) * sizeof *e);
    uint32_t *now = malloc((f->nnames + 1) * sizeof *now);
    f->names = malloc((f->nnames + 1) * sizeof *f->names);
    f->files = malloc((f->nnames + 1) * sizeof *f->files);
    uint32_t *swap[2] = {f->leaves, f->roots};
    if (!e || !now || !f->names || !f->files) {
        free(e);
        free(now);
        return -ENOMEM;
    }
    for (size_t i = 0; i < f->nnames; i++)
        /* Filled by the first pass. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
        e[i] = (struct entry){m->names.text[i], (uint32_t)i};
    qsort(e, f->nnames, sizeof *e, text_order);
    for (size_t i = 0; i < f->nnames; i++) {
        now[e[i].old] = (uint32_t)i;
        f->names[i] = e[i].text;
        /* One file a name. NOLINTNEXTLINE(clang-analyzer-core.NullDereference) */
        f->files[i] = m->files[e[i].old];
    }
    for (size_t i = 0; i < nlist; i++)
        f->list[i] = now[f->list[i] >> 1] << 1 | (f->list[i] & 1);
    if (f->no_stack != UINT32_MAX)
        f->no_stack = now[f->no_stack];
    for (int k = 0; k < 2 && f->leaves; k++) {
        uint32_t *was = malloc((f->nnames + 1) * sizeof *was);
        if (!was) {
            free(e);
            free(now);
            return -ENOMEM;
        }
        memcpy(was, swap[k], f->nnames * sizeof *was);
        for (size_t i = 0; i < f->nnames; i++)
            swap[k][now[i]] = now[was[i]];
        free(was);
    }
    free(e);
    free(now);
    return 0;
}

int pb_frames_new(pb_frames *f, const pb_profile *p, bool folded)
{
    *f = (pb_frames){.no_stack = UINT32_MAX};
    size_t nlist = 0;
    for (size_t i = 0; i < p->nlocations; i++)
        nlist += p->locations[i].nlines ? p->locations[i].nlines : 1;
    if (nlist >= PB_MAX_ENTRIES / 4)
        return -EFBIG;
    f->mem = calloc(1, sizeof *f->mem);
    f->first = malloc((p->nlocations + 1) * sizeof *f->first);
    f->list = malloc((nlist + 1) * sizeof *f->list);
    uint32_t *cache = calloc(p->nfunctions + 1, sizeof *cache);
    int rc = f->mem && f->first && f->list && cache ? 0 : -ENOMEM;
    if (!rc)
        rc = list_fill(f, p, folded, cache);
    free(cache);
    bool empty = false;
    for (size_t i = 0; i < p->nsamples; i++)
        empty = empty || p->samples[i].nlocs == 0;
    if (!rc && empty) {
        int64_t i = name_add(f, "[no stack]", 10, 0);
        f->no_stack = (uint32_t)i;
        rc = i < 0 ? -ENOMEM : 0;
    }
    if (!rc && folded)
        rc = substitutes(f);
    if (!rc)
        rc = sort_names(f, nlist);
    if (rc)
        pb_frames_free(f);
    return rc;
}

void pb_frames_free(pb_frames *f)
{
    if (f->mem) {
        pb_strtab_free(&f->mem->names);
        pb_arena_free(&f->mem->arena);
        free(f->mem->files);
        free(f->mem->scratch);
        free(f->mem);
    }
    free(f->names);
    free(f->files);
    free(f->leaves);
    free(f->roots);
    free(f->first);
    free(f->list);
    *f = (pb_frames){0};
}
