/* Sorted stacks -> the boxes of a flame graph.
 *
 * Invariants:
 * 1. One box per path from the root: stacks that share k frames are neighbours in the sorted
 *    list, so a box is open exactly while they pass by.
 * 2. Boxes stand in the order callers before callees, left to right, and a box encloses its
 *    callees.
 * 3. A box narrower than the least is taken out again when it closes; it is then the last one in
 *    the list, since its callees were narrower still and are gone. So memory holds what is drawn
 *    and one path, whatever the profile.
 * 4. No recursion; the depth of a stack costs memory only.
 *
 * Rejected: a tree of nodes that is laid out in a second pass: for 200 000 stacks that is 7 million
 * nodes, of which some ten thousand are ever drawn.
 *
 * No locks.
 */
#include "profiler/present/page/flame_layout.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct builder {
    pf_layout *l;
    size_t *path; /* indices of the open boxes; path[0] is the root */
    size_t depth, cap_path;
    int64_t least;
    int64_t at; /* sum of the stacks that passed */
} builder;

static int64_t add_sat(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? INT64_MAX : sum;
}

static int grow(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return 0;
    size_t want = *cap ? *cap * 2 : 256;
    void *old, *bigger;
    memcpy(&old, array, sizeof old);
    bigger = want > SIZE_MAX / size ? NULL : realloc(old, want * size);
    if (!bigger)
        return -ENOMEM;
    memcpy(array, &bigger, sizeof bigger);
    *cap = want;
    return 0;
}

static int open_box(builder *b, uint32_t frame)
{
    pf_layout *l = b->l;
    if (grow(&l->boxes, l->n, &l->cap, sizeof *l->boxes) ||
        grow(&b->path, b->depth, &b->cap_path, sizeof *b->path))
        return -ENOMEM;
    l->boxes[l->n] = (pf_box){.name = PB_FRAME_NAME(frame),
                              .depth = (uint32_t)b->depth,
                              .inlined = PB_FRAME_INLINED(frame),
                              .start = b->at};
    b->path[b->depth++] = l->n++;
    return 0;
}

static void close_box(builder *b)
{
    pf_layout *l = b->l;
    size_t i = b->path[--b->depth];
    pf_box *box = &l->boxes[i];
    box->total = b->at - box->start;
    if (box->total < b->least && box->depth) {
        l->n = i;
        l->hidden++;
    } else if (box->depth > l->depth_max) {
        l->depth_max = box->depth;
    }
}

/* How many frames the stack shares with the open path. */
static size_t shared(const builder *b, const uint32_t *frames, size_t n)
{
    size_t k = 0;
    while (k < n && k + 1 < b->depth &&
           b->l->boxes[b->path[k + 1]].name == PB_FRAME_NAME(frames[k]))
        k++;
    return k;
}

static int pass(builder *b, const uint32_t *frames, const pb_stack *s)
{
    size_t k = shared(b, frames, s->n);
    while (b->depth > k + 1)
        close_box(b);
    for (size_t i = 0; i < k; i++)
        if (!PB_FRAME_INLINED(frames[i]))
            b->l->boxes[b->path[i + 1]].inlined = false;
    for (; k < s->n; k++)
        if (open_box(b, frames[k]))
            return -ENOMEM;
    pf_box *leaf = &b->l->boxes[b->path[b->depth - 1]];
    leaf->self = add_sat(leaf->self, s->value);
    b->at = add_sat(b->at, s->value);
    return 0;
}

int pf_layout_new(pf_layout *l, const pb_stacks *s, int64_t least)
{
    *l = (pf_layout){0};
    builder b = {.l = l, .least = least};
    int rc = open_box(&b, 0);
    for (size_t i = 0; i < s->n && !rc; i++)
        rc = pass(&b, s->frames + s->v[i].at, &s->v[i]);
    while (!rc && b.depth)
        close_box(&b);
    free(b.path);
    if (rc)
        pf_layout_free(l);
    return rc;
}

void pf_layout_free(pf_layout *l)
{
    free(l->boxes);
    *l = (pf_layout){0};
}
