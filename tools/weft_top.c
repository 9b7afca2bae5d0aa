/* weft top: which frames cost most, as `go tool pprof -top` lays it out.
 *
 * Invariants:
 * 1. flat is charged to the innermost frame of a sample's leaf, cum to every name on the stack
 *    once, however often it recurs there.
 * 2. The total counts every sample, also those without a stack; shares are of that total.
 * 3. Rows below half a percent are left out and counted, and the header says so: the same rule, and
 *    so the same figures, as pprof.
 *
 * Rejected: building the call graph as pprof does. Nothing in this table needs edges; tests/bench
 * has the ratio, more than ten on 200 000 stacks.
 */
#include "proto/frames.h"
#include "proto/measure.h"
#include "tools/weft_tool.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { ROWS_DEFAULT = 30 };

typedef struct row {
    const char *name;
    int64_t flat, cum;
    size_t last; /* the last sample that was charged, plus one */
    bool inlined, called;
} row;

typedef struct table {
    row *rows;
    size_t n;
    int64_t total;
    const char *unit, *shown;
} table;

static int64_t add_sat(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (a < 0 ? INT64_MIN : INT64_MAX) : sum;
}

static int64_t absolute(int64_t v)
{
    return v < 0 ? (v == INT64_MIN ? INT64_MAX : -v) : v;
}

/* A sample of the base of a difference: shares are of the base then. */
static bool is_base(const pb_profile *p, const pb_sample *s)
{
    for (uint32_t i = 0; i < s->nlabels; i++)
        if (strcmp(pb_str(p, s->labels[i].key), "pprof::base") == 0 &&
            strcmp(pb_str(p, s->labels[i].str), "true") == 0)
            return true;
    return false;
}

static void charge(table *t, const pb_frames *f, const pb_sample *s, size_t number, int64_t value)
{
    const row *caller = NULL;
    for (uint32_t k = s->nlocs; k-- > 0;) {
        for (size_t i = f->first[s->locs[k] - 1]; i < f->first[s->locs[k]]; i++) {
            row *r = &t->rows[PB_FRAME_NAME(f->list[i])];
            /* A call of its own name says nothing about how others call it. */
            if (caller && caller != r && PB_FRAME_INLINED(f->list[i]))
                r->inlined = true;
            else if (caller && caller != r)
                r->called = true;
            if (r->last != number + 1)
                r->cum = add_sat(r->cum, value);
            r->last = number + 1;
            caller = r;
        }
    }
    if (s->nlocs) {
        row *leaf = &t->rows[PB_FRAME_NAME(f->list[f->first[s->locs[0]] - 1])];
        leaf->flat = add_sat(leaf->flat, value);
    }
}

static int fill(table *t, const pb_profile *p, const pb_frames *f, int column)
{
    int64_t base = 0;
    t->rows = calloc(f->nnames + 1, sizeof *t->rows);
    if (!t->rows)
        return -ENOMEM;
    t->n = f->nnames;
    for (size_t i = 0; i < t->n; i++)
        t->rows[i].name = f->names[i];
    for (size_t i = 0; i < p->nsamples; i++) {
        const pb_sample *s = &p->samples[i];
        int64_t value = s->values[column];
        t->total = add_sat(t->total, absolute(value));
        if (is_base(p, s))
            base = add_sat(base, absolute(value));
        if (value)
            charge(t, f, s, i, value);
    }
    t->total = base ? base : t->total;
    return 0;
}

/* Sorted by the first number, then name, then the other number. */
static int order(int64_t a, int64_t b, const row *x, const row *y, int64_t c, int64_t d)
{
    if (absolute(a) != absolute(b))
        return absolute(a) > absolute(b) ? -1 : 1;
    int names = strcmp(x->name, y->name);
    if (names)
        return names;
    return absolute(c) > absolute(d) ? -1 : absolute(c) < absolute(d);
}

static int by_flat(const void *a, const void *b)
{
    const row *x = a, *y = b;
    return order(x->flat, y->flat, x, y, x->cum, y->cum);
}

static int by_cum(const void *a, const void *b)
{
    const row *x = a, *y = b;
    return order(x->cum, y->cum, x, y, x->flat, y->flat);
}

static void value_text(const table *t, int64_t v, char *buf, size_t n)
{
    pb_value_text(v, t->unit, t->shown, buf, n);
}

static void print_duration(const table *t, const pb_profile *p, FILE *out)
{
    char taken[32], total[64], share[16] = "";
    const char *shown = pb_unit_for(p->duration_ns, "nanoseconds");
    pb_value_text(p->duration_ns, "nanoseconds", shown, taken, sizeof taken);
    value_text(t, t->total, total, sizeof total);
    fprintf(out, "Duration: %s, Total samples = %s", taken, total);
    if (t->total && strcmp(t->unit, "nanoseconds") == 0) {
        pb_percent_text(t->total, p->duration_ns, share, sizeof share);
        fprintf(out, " (%s)", share + strspn(share, " "));
    }
    fprintf(out, "\n");
}

/* What the profile says of itself. Its strings are foreign: nothing in them may move the cursor. */
static void print_text(FILE *out, const char *before, const char *s)
{
    fputs(before, out);
    for (; *s; s++)
        fputc((unsigned char)*s < ' ' || *s == 0x7f ? ' ' : *s, out);
    fputc('\n', out);
}

static void print_head(const table *t, const pb_profile *p, int column, FILE *out)
{
    const pb_mapping *main = p->nmappings ? &p->mappings[0] : NULL;
    const char *file = main ? pb_str(p, main->file) : "", *base = strrchr(file, '/');
    if (*file)
        print_text(out, "File: ", base ? base + 1 : file);
    if (main && main->build_id)
        print_text(out, "Build ID: ", pb_str(p, main->build_id));
    for (size_t i = 0; i < p->ncomments; i++)
        if (*pb_str(p, p->comments[i]) != '#')
            print_text(out, "", pb_str(p, p->comments[i]));
    print_text(out, "Type: ", pb_str(p, p->types[column].type));
    if (p->doc_url)
        print_text(out, "Doc: ", pb_str(p, p->doc_url));
    if (p->time_ns) {
        time_t seconds = (time_t)(p->time_ns / 1000000000);
        struct tm tm;
        char when[64] = "";
        if (localtime_r(&seconds, &tm))
            strftime(when, sizeof when, "%Y-%m-%d %H:%M:%S %Z", &tm);
        fprintf(out, "Time: %s\n", when);
    }
    if (p->duration_ns)
        print_duration(t, p, out);
}

static void print_row(const table *t, const row *r, int64_t sum, FILE *out)
{
    char flat[64], cum[64], share[3][16];
    value_text(t, r->flat, flat, sizeof flat);
    value_text(t, r->cum, cum, sizeof cum);
    pb_percent_text(r->flat, t->total, share[0], sizeof share[0]);
    pb_percent_text(sum, t->total, share[1], sizeof share[1]);
    pb_percent_text(r->cum, t->total, share[2], sizeof share[2]);
    fprintf(out, "%10s %s %s %10s %s  ", flat, share[0], share[1], cum, share[2]);
    const char *mark = !r->inlined ? "" : r->called ? " (partial-inline)" : " (inline)";
    char *name = strdup(r->name);
    size_t n = name ? strlen(name) : 0;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)name[i] < ' ' || name[i] == 0x7f)
            name[i] = ' ';
    fprintf(out, "%s%s\n", name ? name : "", mark);
    free(name);
}

/* Keeps the rows that count, in front, and returns how many fell out. */
static size_t drop_small(table *t, int64_t cutoff)
{
    size_t kept = 0, seen = 0;
    for (size_t i = 0; i < t->n; i++) {
        if (!t->rows[i].last)
            continue;
        seen++;
        if (absolute(t->rows[i].cum) >= cutoff)
            t->rows[kept++] = t->rows[i];
    }
    t->n = kept;
    return seen - kept;
}

static void choose_unit(table *t, size_t n)
{
    int64_t smallest = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t v = absolute(t->rows[i].flat ? t->rows[i].flat : t->rows[i].cum);
        if (v && (!smallest || v < smallest))
            smallest = v;
    }
    t->shown = pb_unit_for_all(smallest, t->total, t->unit);
}

static void print_table(table *t, const tool_args *a, const pb_profile *p, int column, FILE *out)
{
    int64_t cutoff = (int64_t)((double)t->total * 0.005), shown = 0, sum = 0;
    size_t dropped = drop_small(t, cutoff), all = t->n;
    qsort(t->rows, t->n, sizeof *t->rows, a->cum ? by_cum : by_flat);
    long want = a->n < 0 ? ROWS_DEFAULT : a->n;
    if (want && (size_t)want < t->n)
        t->n = (size_t)want;
    choose_unit(t, t->n);
    for (size_t i = 0; i < t->n; i++)
        shown = add_sat(shown, t->rows[i].flat);
    char part[64], whole[64], share[16], limit[64];
    value_text(t, shown, part, sizeof part);
    value_text(t, t->total, whole, sizeof whole);
    value_text(t, cutoff, limit, sizeof limit);
    pb_percent_text(shown, t->total, share, sizeof share);
    print_head(t, p, column, out);
    fprintf(out, "Showing nodes accounting for %s, %s of %s total\n", part,
            share + strspn(share, " "), whole);
    if (dropped)
        fprintf(out, "Dropped %zu node%s (cum <= %s)\n", dropped, dropped == 1 ? "" : "s", limit);
    if (t->n < all)
        fprintf(out, "Showing top %zu nodes out of %zu\n", t->n, all);
    fprintf(out, "%10s %5s%% %5s%% %10s %5s%%\n", "flat", "flat", "sum", "cum", "cum");
    for (size_t i = 0; i < t->n; i++) {
        sum = add_sat(sum, t->rows[i].flat);
        print_row(t, &t->rows[i], sum, out);
    }
}

int tool_top(const tool_args *a)
{
    pb_profile *p = tool_load(a);
    int column = p ? tool_column(a, p) : -1;
    pb_frames f;
    int rc = column < 0 ? TOOL_FAILED : pb_frames_new(&f, p, false);
    if (rc < 0)
        rc = tool_error(a->profile, "%s", strerror(-rc));
    if (!rc) {
        table t = {.unit = pb_str(p, p->types[column].unit)};
        tool_output out;
        int bad = fill(&t, p, &f, column);
        rc = tool_output_open(&out, a->output);
        if (!rc && !bad)
            print_table(&t, a, p, column, out.file);
        if (!rc)
            rc = tool_output_close(&out, bad);
        free(t.rows);
        pb_frames_free(&f);
    }
    pb_profile_free(p);
    return rc;
}
