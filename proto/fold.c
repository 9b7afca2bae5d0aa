/* Folded stacks: `root;caller;leaf 12`, one line per distinct stack, written and read.
 *
 * Invariants:
 * 1. Written lines are in the byte order of the whole line, as `LC_ALL=C sort` leaves them, so
 *    that two profiles can be compared with diff and comm.
 * 2. Reading back what was written gives the same stacks and values: frames.c takes out of the
 *    names what the format cannot carry.
 * 3. No recursion: depth is bounded by memory only.
 *
 * The order is not that of the frames: below one parent "a 12" (a leaf), "a b;" and "a;" sort by
 * the bytes that follow the name. All lines below one child are neighbours in any case, since no
 * name holds ';', so it is enough to order the children of each node, each as one entry for its
 * leaf line and one for the rest.
 *
 * Rejected: writing all lines into memory and sorting the text. For 200 000 stacks that can be 280
 * MB to sort; here only names are compared.
 *
 * No locks.
 */
#include "proto/frames.h"
#include "proto/model.h"

#include <errno.h>
#include <stdlib.h>

/* What is still to be written: the stack v[lo] whole (leaf), or the stacks [lo, lo + n), which
 * share their first `depth` frames. */
typedef struct entry {
    size_t lo, n;
    uint32_t depth;
    uint32_t name; /* of the frame depth - 1 */
    size_t path_n; /* of the path above that frame */
    bool leaf;
} entry;

typedef struct writer {
    const pb_frames *f;
    const pb_stacks *s;
    FILE *out;
    char *path;
    size_t cap_path;
    entry *todo;
    size_t ntodo, cap_todo;
    int64_t lines;
} writer;

/* The bytes of an entry that matter for its place: the name, then what follows it on the line. */
typedef struct key {
    const char *at, *rest;
    char tail[24];
} key;

static void key_of(key *k, const writer *w, const entry *e)
{
    if (e->leaf)
        snprintf(k->tail, sizeof k->tail, " %lld", (long long)w->s->v[e->lo].value);
    else
        strcpy(k->tail, ";");
    k->at = w->f->names[e->name];
    k->rest = k->tail;
}

/* The byte at hand, 0 at the end of the key. */
static unsigned char key_byte(key *k)
{
    if (!*k->at && k->rest) {
        k->at = k->rest;
        k->rest = NULL;
    }
    return (unsigned char)*k->at;
}

static int entry_order(const void *a, const void *b, void *arg)
{
    key x, y;
    key_of(&x, arg, a);
    key_of(&y, arg, b);
    while (*x.at && *x.at == *y.at)
        x.at++, y.at++;
    for (;; x.at++, y.at++) {
        unsigned char s = key_byte(&x), t = key_byte(&y);
        if (s != t)
            return s < t ? -1 : 1;
        if (!s)
            return 0;
    }
}

/* Puts the frame behind the path; returns the new length, 0 without memory. */
static size_t path_add(writer *w, size_t n, uint32_t name)
{
    const char *text = w->f->names[name];
    size_t len = pb_text_len(text);
    if (pb_grow(&w->path, n + len + 1, &w->cap_path, 1))
        return 0;
    if (n)
        w->path[n++] = ';';
    memcpy(w->path + n, text, len);
    return n + len;
}

/* Writes the stack whose path up to `depth` frames is in w->path. */
static int write_line(writer *w, size_t path_n, size_t stack, uint32_t depth)
{
    const pb_stack *s = &w->s->v[stack];
    for (; depth < s->n; depth++) {
        path_n = path_add(w, path_n, PB_FRAME_NAME(w->s->frames[s->at + depth]));
        if (!path_n)
            return -ENOMEM;
    }
    fwrite(w->path, 1, path_n, w->out);
    if (fprintf(w->out, " %lld\n", (long long)s->value) < 0)
        return errno ? -errno : -EIO;
    w->lines++;
    return 0;
}

static int todo_add(writer *w, entry e)
{
    if (pb_grow(&w->todo, w->ntodo, &w->cap_todo, sizeof e))
        return -ENOMEM;
    w->todo[w->ntodo++] = e;
    return 0;
}

/* Lists the children of [lo, lo + n), whose stacks all have more than `depth` frames. */
static int add_children(writer *w, size_t lo, size_t n, uint32_t depth, size_t path_n)
{
    const pb_stacks *s = w->s;
    size_t begin = w->ntodo, end = lo + n;
    int rc = 0;
    while (lo < end && !rc) {
        uint32_t name = PB_FRAME_NAME(s->frames[s->v[lo].at + depth]);
        size_t next = lo + 1;
        while (next < end && PB_FRAME_NAME(s->frames[s->v[next].at + depth]) == name)
            next++;
        entry e = {.lo = lo, .n = 1, .depth = depth + 1, .name = name, .path_n = path_n};
        e.leaf = s->v[lo].n == depth + 1;
        if (e.leaf) {
            rc = todo_add(w, e);
            e.leaf = false;
            e.lo++;
        }
        e.n = next - e.lo;
        if (!rc && e.n)
            rc = todo_add(w, e);
        lo = next;
    }
    /* Last first, since the list is taken from its end. */
    size_t count = w->ntodo - begin;
    if (count > 1) {
        qsort_r(w->todo + begin, count, sizeof *w->todo, entry_order, w);
        for (size_t i = begin, k = w->ntodo - 1; i < k; i++, k--) {
            entry swap = w->todo[i];
            w->todo[i] = w->todo[k];
            w->todo[k] = swap;
        }
    }
    return rc;
}

static int write_all(writer *w)
{
    int rc = w->s->n ? add_children(w, 0, w->s->n, 0, 0) : 0;
    while (!rc && w->ntodo) {
        entry e = w->todo[--w->ntodo];
        size_t path_n = path_add(w, e.path_n, e.name);
        if (!path_n)
            rc = -ENOMEM;
        else if (e.leaf || e.n == 1)
            rc = write_line(w, path_n, e.lo, e.depth);
        else
            rc = add_children(w, e.lo, e.n, e.depth, path_n);
    }
    return rc;
}

int64_t pb_fold_write(const pb_profile *p, int value_index, FILE *out)
{
    pb_frames f;
    pb_stacks s;
    int rc = pb_frames_new(&f, p, true);
    if (rc)
        return rc;
    rc = pb_stacks_new(&s, p, &f, value_index);
    if (!rc) {
        writer w = {.f = &f, .s = &s, .out = out};
        errno = 0;
        rc = write_all(&w);
        if (!rc && (fflush(out) || ferror(out)))
            rc = errno ? -errno : -EIO;
        free(w.path);
        free(w.todo);
        pb_stacks_free(&s);
        pb_frames_free(&f);
        return rc ? rc : w.lines;
    }
    pb_frames_free(&f);
    return rc;
}

/* Reading. Sorted input shares most of a line with the line before, so the frames of that part are
 * taken over without looking at them again. */
typedef struct parser {
    pb_profile *p;
    const char *prev; /* the stack text before, prev_n bytes */
    size_t prev_n;
    struct parsed {
        size_t end; /* offset behind the frame */
        uint64_t loc;
    } * frames; /* root first */
    size_t nframes, cap_frames;
    uint64_t *locs; /* leaf first, for the model */
    size_t cap_locs;
    uint64_t *loc_of; /* by string index */
    size_t cap_loc_of, nloc_of;
} parser;

/* "12" or "12.5" (rounded); false for anything else and for what 64 bits cannot hold. */
static bool count_parse(const char *s, size_t n, int64_t *value)
{
    size_t i = 0;
    *value = 0;
    if (!n || *s < '0' || *s > '9')
        return false;
    for (; i < n && s[i] >= '0' && s[i] <= '9'; i++)
        if (__builtin_mul_overflow(*value, 10, value) ||
            __builtin_add_overflow(*value, s[i] - '0', value))
            return false;
    if (i == n)
        return true;
    if (s[i++] != '.')
        return false;
    if (i < n && s[i] >= '5' && s[i] <= '9')
        *value = pb_add_sat(*value, 1);
    while (i < n && s[i] >= '0' && s[i] <= '9')
        i++;
    return i == n;
}

/* Splits a line into stack and count; false for junk. */
static bool line_split(const char *line, size_t n, size_t *stack_n, int64_t *value)
{
    size_t i = n;
    while (i > 0 && line[i - 1] != ' ' && line[i - 1] != '\t')
        i--;
    if (!i || !count_parse(line + i, n - i, value) || memchr(line, '\0', n))
        return false;
    /* One separator: a name may end in spaces, but be more than that. */
    *stack_n = i - 1;
    for (i--; i > 0 && (line[i - 1] == ' ' || line[i - 1] == '\t'); i--)
        ;
    return i > 0;
}

static uint64_t frame_loc(parser *q, const char *name, size_t n)
{
    pb_profile *p = q->p;
    int64_t s = pb_string_add(p, name, n);
    if (s < 0 || pb_grow(&q->loc_of, (size_t)s, &q->cap_loc_of, sizeof *q->loc_of))
        return 0;
    while (q->nloc_of <= (size_t)s)
        q->loc_of[q->nloc_of++] = 0;
    if (!q->loc_of[s]) {
        pb_line line = {pb_function_add(p, s, s, 0, 0), 0};
        if (!line.function)
            return 0;
        q->loc_of[s] = pb_location_add(p, 0, 0, &line, 1);
    }
    return q->loc_of[s];
}

static size_t common_bytes(const char *a, const char *b, size_t n)
{
    size_t i = 0;
    for (uint64_t x, y; i + 8 <= n; i += 8) {
        memcpy(&x, a + i, 8);
        memcpy(&y, b + i, 8);
        if (x != y)
            break;
    }
    while (i < n && a[i] == b[i])
        i++;
    return i;
}

/* Empty frames (";;") are left out. */
static int stack_parse(parser *q, const char *s, size_t n)
{
    size_t same = common_bytes(s, q->prev, n < q->prev_n ? n : q->prev_n), at = 0;
    while (q->nframes && q->frames[q->nframes - 1].end >= same)
        q->nframes--;
    if (q->nframes)
        at = q->frames[q->nframes - 1].end + 1;
    while (at < n) {
        const char *semicolon = memchr(s + at, ';', n - at);
        size_t end = semicolon ? (size_t)(semicolon - s) : n;
        if (end > at) {
            if (pb_grow(&q->frames, q->nframes, &q->cap_frames, sizeof *q->frames))
                return -ENOMEM;
            uint64_t loc = frame_loc(q, s + at, end - at);
            if (!loc)
                return -ENOMEM;
            q->frames[q->nframes++] = (struct parsed){end, loc};
        }
        at = end + 1;
    }
    q->prev = s;
    q->prev_n = n;
    return 0;
}

static int sample_parse(parser *q, const char *s, size_t n, int64_t value)
{
    int rc = stack_parse(q, s, n);
    if (rc || !q->nframes)
        return rc;
    if (q->nframes > UINT32_MAX || pb_grow(&q->locs, q->nframes, &q->cap_locs, sizeof *q->locs))
        return -ENOMEM;
    for (size_t i = 0; i < q->nframes; i++)
        q->locs[i] = q->frames[q->nframes - 1 - i].loc;
    return pb_sample_add(q->p, q->locs, (uint32_t)q->nframes, &value, NULL, 0);
}

static int parse_all(parser *q, const char *text, size_t n, size_t *good, size_t *junk)
{
    int rc = 0;
    for (size_t at = 0; at < n && !rc;) {
        const char *line = text + at, *lf = memchr(line, '\n', n - at);
        size_t len = lf ? (size_t)(lf - line) : n - at, stack_n;
        int64_t value;
        at += len + 1;
        while (len && (line[len - 1] == '\r' || line[len - 1] == ' ' || line[len - 1] == '\t'))
            len--;
        if (!len || *line == '#')
            continue;
        if (!line_split(line, len, &stack_n, &value)) {
            ++*junk;
            continue;
        }
        rc = sample_parse(q, line, stack_n, value);
        if (q->nframes)
            ++*good;
        else
            ++*junk;
    }
    return rc;
}

int pb_fold_parse(const char *text, size_t n, pb_profile **out, size_t *junk, char *err,
                  size_t errlen)
{
    parser q = {.p = pb_profile_new(), .prev = ""};
    size_t good = 0;
    *out = NULL;
    *junk = 0;
    int rc = q.p ? pb_type_add(q.p, "samples", "count") : -ENOMEM;
    if (!rc)
        rc = parse_all(&q, text, n, &good, junk);
    free(q.frames);
    free(q.locs);
    free(q.loc_of);
    if (!rc && good) {
        *out = q.p;
        return 0;
    }
    pb_profile_free(q.p);
    if (rc)
        return pb_fail(err, errlen, rc, "no memory");
    return pb_fail(err, errlen, -EBADMSG, "not folded stacks: %s",
                   *junk ? "no line is \"frame;frame count\"" : "there is no line");
}
