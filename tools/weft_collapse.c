/* weft collapse: a profile as folded stacks, for whatever reads those. */
#include "tools/weft_tool.h"

#include <stdlib.h>

int tool_collapse(const tool_args *a)
{
    pb_profile *p = tool_load(a);
    int column = p ? tool_column(a, p) : -1;
    tool_output out;
    int rc = column < 0 ? TOOL_FAILED : tool_output_open(&out, a->output);
    if (!rc)
        rc = tool_output_close(&out, pb_fold_write(p, column, out.file));
    pb_profile_free(p);
    return rc;
}
