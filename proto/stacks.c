/* Samples -> distinct stacks of frame numbers, sorted, equal ones summed.
 *
 * Invariants:
 * 1. Stacks that share their first k frames are neighbours, whatever bytes the names are made of. A
 *    tree read off this list in one pass has one node per path: `foo`, `foo(int);x` and `foo;bar`
 *    give one `foo`. (Sorting the text instead puts '(' between them, and tools that merge
 *    neighbouring lines draw foo twice.)
 * 2. No recursion and no per-frame allocation: depth costs memory of the list only.
 * 3. At most MAX_FRAMES frames are expanded. Inlined lines multiply (a location of many lines, in a
 *    sample that repeats it), so a small made-up file could ask for any amount.
 *
 * The sort is multikey quicksort over the frame numbers, pivot chosen at random so that no input is
 * the bad one.
 *
 * Rejected: a tree of nodes with hashed children. With 200 000 stacks of depth 10-70 nearly every
 * frame below the tenth is a node of its own, so it is 7 million nodes and as many cache misses,
 * most of them for boxes too narrow to draw.
 *
 * No locks.
 */
#include "proto/frames.h"
#include "proto/model.h"

#include <errno.h>
#include <stdlib.h>

#define MAX_FRAMES ((size_t)1 << 29)

/* Below this many stacks whole comparisons beat another partition. */
#define FEW 8

typedef struct range {
    size_t lo, n;
    uint32_t depth;
} range;

typedef struct ranges {
    range *v;
    size_t n, cap;
} ranges;

/* The sort key at one depth: ends sort first. */
static inline uint32_t key_at(const uint32_t *frames, const pb_stack *s, uint32_t depth)
{
    return depth < s->n ? PB_FRAME_NAME(frames[s->at + depth]) + 1 : 0;
}

static int stack_order(const uint32_t *frames, const pb_stack *a, const pb_stack *b, uint32_t depth)
{
    for (;; depth++) {
        uint32_t x = key_at(frames, a, depth), y = key_at(frames, b, depth);
        if (x != y)
            return x < y ? -1 : 1;
        if (!x)
            return 0;
    }
}

static void insertion_sort(const uint32_t *frames, pb_stack *v, size_t n, uint32_t depth)
{
    for (size_t i = 1; i < n; i++) {
        pb_stack s = v[i];
        size_t k = i;
        for (; k > 0 && stack_order(frames, &s, &v[k - 1], depth) < 0; k--)
            v[k] = v[k - 1];
        v[k] = s;
    }
}

static int push(ranges *todo, size_t lo, size_t n, uint32_t depth)
{
    if (n < 2)
        return 0;
    if (pb_grow(&todo->v, todo->n, &todo->cap, sizeof *todo->v))
        return -ENOMEM;
    todo->v[todo->n++] = (range){lo, n, depth};
    return 0;
}

static uint32_t random_below(uint64_t *seed, size_t n)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((*seed >> 33) % n);
}

/* Three parts by the key at r.depth: less, equal (which goes one deeper), greater. */
static int partition(const uint32_t *frames, pb_stack *v, range r, ranges *todo, uint64_t *seed)
{
    uint32_t pivot = key_at(frames, &v[r.lo + random_below(seed, r.n)], r.depth);
    size_t less = r.lo, greater = r.lo + r.n, i = less;
    while (i < greater) {
        uint32_t key = key_at(frames, &v[i], r.depth);
        pb_stack s = v[i];
        if (key < pivot) {
            v[i++] = v[less];
            v[less++] = s;
        } else if (key > pivot) {
            v[i] = v[--greater];
            v[greater] = s;
        } else {
            i++;
        }
    }
    int rc = push(todo, r.lo, less - r.lo, r.depth);
    if (!rc)
        rc = push(todo, greater, r.lo + r.n - greater, r.depth);
    if (!rc && pivot)
        rc = push(todo, less, greater - less, r.depth + 1);
    return rc;
}

static int sort(pb_stacks *s)
{
    ranges todo = {0};
    uint64_t seed = (uintptr_t)s->frames;
    int rc = push(&todo, 0, s->n, 0);
    while (!rc && todo.n) {
        range r = todo.v[--todo.n];
        if (r.n <= FEW)
            insertion_sort(s->frames, s->v + r.lo, r.n, r.depth);
        else
            rc = partition(s->frames, s->v, r, &todo, &seed);
    }
    free(todo.v);
    return rc;
}

/* Sums neighbours that are equal; a frame stays inlined only where both were. */
static void merge_equal(pb_stacks *s)
{
    size_t kept = 0;
    for (size_t i = 0; i < s->n; i++) {
        if (kept && stack_order(s->frames, &s->v[kept - 1], &s->v[i], 0) == 0) {
            pb_stack *to = &s->v[kept - 1];
            to->value = pb_add_sat(to->value, s->v[i].value);
            for (uint32_t k = 0; k < to->n; k++)
                s->frames[to->at + k] &= s->frames[s->v[i].at + k] | ~(uint32_t)1;
        } else {
            s->v[kept++] = s->v[i];
        }
    }
    s->n = kept;
}

static size_t frames_of(const pb_frames *f, const pb_sample *s)
{
    size_t n = 0;
    for (uint32_t k = 0; k < s->nlocs; k++)
        n += f->first[s->locs[k]] - f->first[s->locs[k] - 1];
    return n ? n : 1;
}

/* Writes one sample's frames, root first, and returns where the next begin. */
static size_t expand(const pb_frames *f, const pb_sample *s, uint32_t *to, size_t at)
{
    size_t begin = at;
    for (uint32_t k = s->nlocs; k-- > 0;)
        for (size_t i = f->first[s->locs[k] - 1]; i < f->first[s->locs[k]]; i++)
            to[at++] = f->list[i];
    if (!s->nlocs)
        to[at++] = f->no_stack << 1;
    if (f->leaves) {
        to[at - 1] = f->leaves[to[at - 1] >> 1] << 1 | (to[at - 1] & 1);
        to[begin] = f->roots[to[begin] >> 1] << 1 | (to[begin] & 1);
    }
    return at;
}

int pb_stacks_new(pb_stacks *s, const pb_profile *p, pb_frames *f, int value_index)
{
    *s = (pb_stacks){0};
    if (value_index < 0 || (size_t)value_index >= p->ntypes)
        return -EINVAL;
    size_t total = 0, n = 0;
    for (size_t i = 0; i < p->nsamples; i++) {
        int64_t value = p->samples[i].values[value_index];
        s->negative += value < 0;
        if (value <= 0)
            continue;
        n++;
        size_t more = frames_of(f, &p->samples[i]);
        if (more > MAX_FRAMES - total)
            return -EFBIG;
        total += more;
    }
    s->v = malloc((n + 1) * sizeof *s->v);
    s->frames = malloc((total + 1) * sizeof *s->frames);
    if (!s->v || !s->frames) {
        pb_stacks_free(s);
        return -ENOMEM;
    }
    size_t at = 0;
    for (size_t i = 0; i < p->nsamples; i++) {
        int64_t value = p->samples[i].values[value_index];
        if (value <= 0)
            continue;
        size_t end = expand(f, &p->samples[i], s->frames, at);
        s->v[s->n++] = (pb_stack){at, (uint32_t)(end - at), value};
        s->total = pb_add_sat(s->total, value);
        at = end;
    }
    int rc = sort(s);
    if (rc)
        pb_stacks_free(s);
    else
        merge_equal(s);
    return rc;
}

void pb_stacks_free(pb_stacks *s)
{
    free(s->v);
    free(s->frames);
    *s = (pb_stacks){0};
}
