/* What people see of a profile: frames by name, and distinct stacks of them. Shared by folded text,
 * `weft top` and the flame graph, so that they can never disagree about what a frame is called.
 */
#ifndef WEFT_PROTO_FRAMES_H
#define WEFT_PROTO_FRAMES_H

#include "proto/profile.h"

/* A frame is a name. In the lists below it stands as name number * 2, plus 1 where it was inlined
 * into the frame before it. Numbers are in byte order of the names. */
#define PB_FRAME_NAME(f)    ((f) >> 1)
#define PB_FRAME_INLINED(f) ((f)&1)

typedef struct pb_frames {
    size_t nnames;
    const char **names;
    int64_t *files;   /* per name: a mapping's file where it was seen first, a string index, or 0 */
    uint32_t *leaves; /* per name: the name to show at a leaf; NULL unless folded */
    uint32_t *roots;  /* the same at a root */
    uint32_t no_stack; /* the name "[no stack]", if a sample has none */
    size_t *first;     /* per location index: where its frames begin in list; nlocations + 1 */
    uint32_t *list;    /* outermost first */
    struct pb_frames_mem *mem;
} pb_frames;

/* The name is the function's, else its system name, else "[file]" after the mapping, else the
 * address, else "[unknown]". With `folded`, names are made safe for folded text. 0, -ENOMEM, or
 * -EFBIG when the profile has more frames than can be numbered. */
int pb_frames_new(pb_frames *, const pb_profile *, bool folded);
void pb_frames_free(pb_frames *);

typedef struct pb_stack {
    size_t at;  /* in frames of pb_stacks */
    uint32_t n; /* > 0 */
    int64_t value;
} pb_stack;

typedef struct pb_stacks {
    pb_stack *v; /* distinct, in the order of their frame numbers, a prefix before its extensions */
    size_t n;
    uint32_t *frames; /* root first */
    int64_t total;    /* sum of the values, all > 0 */
    int64_t negative; /* samples left out because their value is below 0 */
} pb_stacks;

/* The distinct stacks with a positive value; a sample without locations is "[no stack]". A frame is
 * inlined in the result where it was in every sample. 0, -ENOMEM, or -EFBIG. */
int pb_stacks_new(pb_stacks *, const pb_profile *, pb_frames *, int value_index);
void pb_stacks_free(pb_stacks *);

#endif
