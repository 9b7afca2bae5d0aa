/* The flame graph: a profile and one of its columns as a self-contained SVG. Used by `weft flame`
 * and by the pages of the endpoint.
 */
#ifndef WEFT_FLAME_H
#define WEFT_FLAME_H

#include "proto/profile.h"

#include <stdio.h>

typedef struct pf_flame_opts {
    const char *title; /* NULL: program and column */
    int width_px;      /* before a script adapts it; 0: 1200 */
    double min_px;     /* narrower boxes are counted, not drawn; 0: 0.1, < 0: draw all */
} pf_flame_opts;

/* Writes the whole picture. The number of boxes, or a negative errno: -EINVAL (no such column),
 * -EFBIG (too many frames), -ENOMEM, or what writing gave. opts may be NULL. */
int64_t pf_flame_svg(const pb_profile *, int value_index, const pf_flame_opts *opts, FILE *out);

/* The text of the picture's one <script> and one <style>: the same bytes for every profile, so
 * that a server can allow them by hash. */
const char *pf_flame_script(size_t *n);
const char *pf_flame_style(size_t *n);

#endif
