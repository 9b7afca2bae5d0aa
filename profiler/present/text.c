/* debug=1 and debug=2: the text forms, in the shapes that Go prints and that pprof's readers of old
 * text formats and people's log tools know.
 *
 * Invariants
 *  1. debug=1: an "@" line holds return addresses (an exact leaf plus one), a "#" line that minus
 *     one; each record ends with one empty line; the cells of a record's "#" lines are aligned by
 *     tabs, at least one.
 *  2. What is summed is what the binary form sums; heap text holds the sampled sums, which pprof
 *     scales by the rate in the header; mutex text is divided by the fraction, which pprof
 *     multiplies by.
 *  3. A header of debug=2 always matches "goroutine N [...]:", with neither "]" nor "," in a name.
 *
 * A coroutine's name stands as the last item in the brackets: readers that split there know a few
 * items and skip others, while any line of its own would end their parse.
 *
 * Locks: takes the symbols lock, while it writes to memory only.
 */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "present.h"

#define TAB       8
#define MINUTE_NS (60 * INT64_C(1000000000))

/* ---- records of debug=1 ---- */

static void print_addresses(FILE *f, const pf_sample *s)
{
    for (uint32_t i = 0; i < s->npcs; i++) {
        bool exact = i == 0 && s->leaf_exact && s->pcs[i] >= PF_SYNTHETIC_END;
        fprintf(f, " 0x%" PRIxPTR, s->pcs[i] + exact);
    }
    if (s->npcs == 0) /* pprof takes a record without addresses for a broken file */
        fprintf(f, " 0x%x", PF_NO_STACK);
    fputc('\n', f);
}

static int pad(FILE *f, int width, int column)
{
    do {
        fputc('\t', f);
        width = (width / TAB + 1) * TAB;
    } while (width < column);
    return width;
}

typedef struct row {
    uintptr_t address;
    const pf_frame *frame;
    uint64_t offset;
    int width[2]; /* of the address and of the function cell; the latter 0: no such cell */
} row;

static int digits(uint64_t v)
{
    return snprintf(NULL, 0, "%" PRIx64, v);
}

/* The rows of one frame, each inlined call its own; how many, where out is NULL. */
static size_t rows_of(const pf_raw *raw, const pf_sample *s, uint32_t i, uint32_t inner, row *out)
{
    uintptr_t at = pf_frame_address(s, i);
    const pf_module *m = pf_module_of(raw, at);
    const pf_place *p = pf_symbol_find(m, at);

    for (uint32_t k = inner; out && k < p->nframes; k++) {
        row r = {.address = at, .frame = &p->frames[k]};
        r.offset = m ? at - m->bias - p->entry : 0;
        r.width[0] = 2 + digits(at);
        if (p->named)
            r.width[1] = (int)strlen(r.frame->name) + (m ? 3 + digits(r.offset) : 0);
        *out++ = r;
    }
    return p->nframes - inner;
}

static int column_of(const row *rows, size_t n, int cell)
{
    int widest = 0;

    for (size_t i = 0; i < n; i++)
        if (rows[i].width[cell] > widest)
            widest = rows[i].width[cell];
    return (widest / TAB + 1) * TAB;
}

static void print_rows(FILE *f, const row *rows, size_t n)
{
    int columns[2] = {column_of(rows, n, 0), column_of(rows, n, 1)};

    for (size_t i = 0; i < n; i++) {
        const row *r = &rows[i];
        fprintf(f, "#\t0x%" PRIxPTR, r->address);
        if (r->width[1]) {
            pad(f, r->width[0], columns[0]);
            fputs(r->frame->name, f);
            if (r->address >= PF_SYNTHETIC_END)
                fprintf(f, "+0x%" PRIx64, r->offset);
            if (r->frame->file[0]) {
                pad(f, r->width[1], columns[1]);
                fprintf(f, "%s:%" PRId64, r->frame->file, r->frame->line);
            }
        }
        fputc('\n', f);
    }
}

static int print_stack(FILE *f, const pf_raw *raw, const pf_sample *s, bool everything)
{
    pf_view v = {0, s->npcs, 0};
    size_t n = 0, at = 0;
    row *rows;

    if (!everything)
        v = pf_view_of(raw, s);
    for (uint32_t i = v.first; i < v.end; i++)
        n += rows_of(raw, s, i, i == v.first ? v.inner : 0, NULL);
    rows = malloc((n + 1) * sizeof *rows);
    if (!rows)
        return -ENOMEM;
    for (uint32_t i = v.first; i < v.end; i++)
        at += rows_of(raw, s, i, i == v.first ? v.inner : 0, rows + at);
    print_rows(f, rows, n);
    fputc('\n', f);
    free(rows);
    return 0;
}

/* As Go quotes: what is not plain ASCII or valid UTF-8 becomes an escape. */
static void print_quoted(FILE *f, const char *s)
{
    fputc('"', f);
    for (const unsigned char *p = (const unsigned char *)s; *p; p++)
        if (*p == '"' || *p == '\\')
            fprintf(f, "\\%c", *p);
        else if (*p == '\n')
            fputs("\\n", f);
        else if (*p == '\t')
            fputs("\\t", f);
        else if (*p < ' ' || *p == 0x7f)
            fprintf(f, "\\x%02x", *p);
        else
            fputc(*p, f);
    fputc('"', f);
}

static void print_labels(FILE *f, const weft_labels *l)
{
    if (!l || l->n == 0)
        return;
    fputs("# labels: {", f);
    for (uint32_t i = 0; i < l->n; i++) {
        fputs(i ? ", " : "", f);
        print_quoted(f, l->label[i].key);
        fputc(':', f);
        print_quoted(f, l->label[i].value);
    }
    fputs("}\n", f);
}

/* ---- the kinds ---- */

static int print_counts(FILE *f, const pf_raw *raw, const pf_group *g, size_t n)
{
    int64_t total = 0;
    int r = 0;

    for (size_t i = 0; i < n; i++)
        total += g[i].values[0];
    fprintf(f, "%s profile: total %" PRId64 "\n", raw->source->name, total);
    for (size_t i = 0; i < n && r == 0; i++) {
        fprintf(f, "%" PRId64 " @", g[i].values[0]);
        print_addresses(f, g[i].sample);
        print_labels(f, g[i].sample->labels);
        r = print_stack(f, raw, g[i].sample, false);
    }
    return r;
}

/* Go's columns; the values are what stands for them here. Readers of the profile skip these. */
static void print_memory(FILE *f, const int64_t sums[PF_VALUES])
{
    struct rusage u = {0};

    fputs("\n# runtime.MemStats\n", f);
#if defined(__GLIBC__) && __GLIBC_PREREQ(2, 33)
    struct mallinfo2 m = mallinfo2();
    fprintf(f, "# Alloc = %zu\n# TotalAlloc = %" PRId64 "\n# Sys = %zu\n# Lookups = 0\n",
            m.uordblks + m.hblkhd, sums[1], m.arena + m.hblkhd);
    fprintf(f, "# Mallocs = %" PRId64 "\n# Frees = %" PRId64 "\n", sums[0], sums[0] - sums[2]);
    fprintf(f, "# HeapAlloc = %zu\n# HeapSys = %zu\n# HeapIdle = %zu\n# HeapInuse = %zu\n",
            m.uordblks + m.hblkhd, m.arena + m.hblkhd, m.fordblks, m.uordblks + m.hblkhd);
    fprintf(f, "# HeapReleased = 0\n# HeapObjects = %" PRId64 "\n", sums[2]);
#else
    fprintf(f, "# TotalAlloc = %" PRId64 "\n# Mallocs = %" PRId64 "\n", sums[1], sums[0]);
#endif
    getrusage(RUSAGE_SELF, &u);
    fprintf(f, "# MaxRSS = %" PRId64 "\n", (int64_t)u.ru_maxrss * 1024);
}

/* Columns of the source: alloc_objects, alloc_space, inuse_objects, inuse_space. */
static int print_heap(FILE *f, const pf_raw *raw, const pf_group *g, size_t n)
{
    int64_t sums[PF_VALUES] = {0}, sampled[PF_VALUES] = {0};
    int r = 0;

    for (size_t i = 0; i < n; i++)
        for (int k = 0; k < PF_VALUES; k++) {
            sums[k] += g[i].values[k];
            sampled[k] += g[i].unscaled[k];
        }
    /* Where the two pairs are equal, pprof takes the file for one with a single pair. */
    sampled[1] += sampled[1] == sampled[3];
    fprintf(
        f, "heap profile: %" PRId64 ": %" PRId64 " [%" PRId64 ": %" PRId64 "] @ heap/%" PRId64 "\n",
        sampled[2], sampled[3], sampled[0], sampled[1], 2 * raw->rate);
    for (size_t i = 0; i < n && r == 0; i++) {
        const int64_t *v = g[i].unscaled;
        fprintf(f, "%" PRId64 ": %" PRId64 " [%" PRId64 ": %" PRId64 "] @", v[2], v[3], v[0], v[1]);
        print_addresses(f, g[i].sample);
        r = print_stack(f, raw, g[i].sample, false);
    }
    print_memory(f, sums);
    return r;
}

/* Columns of the source: contentions, delay in ns. A cycle is a nanosecond here. */
static int print_contention(FILE *f, const pf_raw *raw, const pf_group *g, size_t n)
{
    bool mutex = strcmp(raw->source->name, "mutex") == 0;
    int64_t period = mutex && raw->rate > 1 ? raw->rate : 1;
    int r = 0;

    fprintf(f, "--- %s:\ncycles/second=1000000000\n", mutex ? "mutex" : "contention");
    if (mutex)
        fprintf(f, "sampling period=%" PRId64 "\n", raw->rate);
    for (size_t i = 0; i < n && r == 0; i++) {
        fprintf(f, "%" PRId64 " %" PRId64 " @", (g[i].values[1] + period / 2) / period,
                (g[i].values[0] + period / 2) / period);
        print_addresses(f, g[i].sample);
        r = print_stack(f, raw, g[i].sample, true);
    }
    return r;
}

/* ---- debug=2 ---- */

static const char *state_name(const pf_coro *c)
{
    const char *why;

    switch (c->state) {
    case WEFT_CORO_RUNNABLE:
        return "runnable";
    case WEFT_CORO_RUNNING:
        return "running";
    case WEFT_CORO_SYSCALL:
        return "syscall";
    case WEFT_CORO_WAITING:
        why = c->reason ? pf_collect->reason_name(c->reason) : NULL;
        return why && why[0] ? why : "waiting";
    }
    return "idle";
}

static void print_header(FILE *f, const pf_coro *c)
{
    bool waits = c->state == WEFT_CORO_WAITING || c->state == WEFT_CORO_SYSCALL;

    fprintf(f, "goroutine %" PRIu64 " [%s", c->id, state_name(c));
    if (waits && c->age_ns >= MINUTE_NS)
        fprintf(f, ", %" PRId64 " minutes", c->age_ns / MINUTE_NS);
    if (c->pinned)
        fputs(", locked to thread", f);
    if (c->name[0]) {
        fputs(", named ", f);
        for (const char *p = c->name; *p; p++)
            fputc((unsigned char)*p <= ' ' || strchr(",[]\x7f", *p) ? '_' : *p, f);
    }
    fputs("]:\n", f);
}

/* The two lines of one source frame; the offset belongs to the physical function only. */
static void print_frame(FILE *f, const pf_frame *frame, const char *before, const char *after,
                        bool physical, uint64_t offset)
{
    fprintf(f, "%s%s%s\n\t%s:%" PRId64, before, frame->name, after,
            frame->file[0] ? frame->file : "?", frame->line);
    if (physical)
        fprintf(f, " +0x%" PRIx64, offset);
    fputc('\n', f);
}

/* at is looked up; shown is what the offset is taken of (the return address). */
static void print_call(FILE *f, const pf_raw *raw, uintptr_t at, uintptr_t shown, uint32_t inner)
{
    const pf_module *m = pf_module_of(raw, at);
    const pf_place *p = pf_symbol_find(m, at);

    for (uint32_t k = inner; k < p->nframes; k++)
        print_frame(f, &p->frames[k], "", "(...)", k + 1 == p->nframes,
                    m ? shown - m->bias - p->entry : 0);
}

static void print_coroutine(FILE *f, const pf_raw *raw, const pf_sample *s)
{
    const pf_coro *c = s->coro;
    pf_view v = pf_view_of(raw, s);

    print_header(f, c);
    if (v.first == v.end)
        fputs("\tgoroutine running on other thread; stack unavailable\n", f);
    for (uint32_t i = v.first; i < v.end; i++) {
        uintptr_t pc = s->pcs[i];
        if (pc == PF_TRUNCATED)
            fputs("...additional frames elided...\n", f);
        else if (pc == PF_RUNNING_ELSEWHERE || pc == PF_NO_STACK)
            fputs("\tgoroutine running on other thread; stack unavailable\n", f);
        else if (pc == PF_NOT_STARTED && s->npcs == 1 && c->fn)
            print_call(f, raw, c->fn, c->fn, 0);
        else
            print_call(f, raw, pf_frame_address(s, i), pc, i == v.first ? v.inner : 0);
    }
    if (c->creator_pc) {
        uintptr_t at = c->creator_pc - 1;
        const pf_module *m = pf_module_of(raw, at);
        const pf_place *p = pf_symbol_find(m, at);
        char creator[48] = "";
        if (c->creator_id)
            snprintf(creator, sizeof creator, " in goroutine %" PRIu64, c->creator_id);
        print_frame(f, &p->frames[0], "created by ", creator, true,
                    m ? c->creator_pc - m->bias - p->entry : 0);
    }
}

static int by_id(const void *a, const void *b)
{
    const pf_sample *const *x = a, *const *y = b;

    return ((*x)->coro->id > (*y)->coro->id) - ((*x)->coro->id < (*y)->coro->id);
}

static int print_coroutines(FILE *f, const pf_raw *raw)
{
    const pf_sample **order = malloc((raw->nsamples + 1) * sizeof *order);
    size_t n = 0;

    if (!order)
        return -ENOMEM;
    for (size_t i = 0; i < raw->nsamples; i++)
        if (raw->samples[i].coro)
            order[n++] = &raw->samples[i];
    qsort(order, n, sizeof *order, by_id);
    for (size_t i = 0; i < n; i++) {
        fputs(i ? "\n" : "", f);
        print_coroutine(f, raw, order[i]);
    }
    free(order);
    return 0;
}

/* ---- entry ---- */

static int print_grouped(FILE *f, const pf_raw *raw)
{
    static const int column[] = {
        [PF_KIND_HEAP] = PF_VALUES + 3, [PF_KIND_CONTENTION] = 1, [PF_KIND_COUNT] = 0};
    pf_kind kind = pf_kind_of(raw->source);
    size_t n;
    int r;
    pf_group *g = pf_group_samples(raw, column[kind], &n, &r);

    if (r == 0)
        r = kind == PF_KIND_HEAP         ? print_heap(f, raw, g, n)
            : kind == PF_KIND_CONTENTION ? print_contention(f, raw, g, n)
                                         : print_counts(f, raw, g, n);
    free(g);
    return r;
}

int pf_text(const pf_raw *raw, int debug, char **buf, size_t *n)
{
    bool each = debug >= 2 && strcmp(raw->source->name, "goroutine") == 0;
    FILE *f;
    int r;

    if (pf_kind_of(raw->source) == PF_KIND_CPU)
        return -EINVAL;
    *buf = NULL;
    f = open_memstream(buf, n);
    if (!f)
        return -ENOMEM;
    pf_symbols_begin();
    r = each ? print_coroutines(f, raw) : print_grouped(f, raw);
    pf_symbols_end();
    if (ferror(f) && r == 0)
        r = -ENOMEM;
    if (fclose(f) != 0 && r == 0)
        r = -ENOMEM;
    if (r < 0) {
        free(*buf);
        *buf = NULL;
    }
    return r;
}

int pf_render(const pf_raw *raw, int debug, void **buf, size_t *n, bool *is_text)
{
    pb_profile *p;
    int r;

    *is_text = debug > 0 && pf_kind_of(raw->source) != PF_KIND_CPU;
    if (*is_text)
        return pf_text(raw, debug, (char **)buf, n);
    r = pf_assemble(raw, &p);
    if (r < 0)
        return r;
    r = pb_encode(p, 1, buf, n);
    pb_profile_free(p);
    return r;
}
