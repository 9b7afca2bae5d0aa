/* Private to the flame graph: the tree as boxes. */
#ifndef WEFT_FLAME_LAYOUT_H
#define WEFT_FLAME_LAYOUT_H

#include "proto/frames.h"

typedef struct pf_box {
    uint32_t name;  /* number in pb_frames; unused in the root */
    uint32_t depth; /* 0: the root, which stands for all */
    bool inlined;
    int64_t start; /* sum of what lies left of it */
    int64_t total, self;
} pf_box;

typedef struct pf_layout {
    pf_box *boxes; /* callers before callees, siblings from left to right */
    size_t n, cap;
    size_t hidden; /* boxes whose total is below the least */
    uint32_t depth_max;
} pf_layout;

/* 0 or -ENOMEM. */
int pf_layout_new(pf_layout *, const pb_stacks *, int64_t least);
void pf_layout_free(pf_layout *);

#endif
