/* weft flame: a profile as a picture. */
#include "profiler/present/page/flame.h"
#include "tools/weft_tool.h"

#include <string.h>
#include <strings.h>

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcasecmp(s + n - k, end) == 0;
}

int tool_flame(const tool_args *a)
{
    if (a->diff || (a->output && (ends_with(a->output, ".html") || ends_with(a->output, ".htm")))) {
        tool_error(a->diff ? "--diff" : a->output, a->diff ? "not supported by this version"
                                                           : "HTML is not supported, only SVG is");
        return TOOL_USAGE;
    }
    pb_profile *p = tool_load(a);
    int column = p ? tool_column(a, p) : -1;
    tool_output out;
    int rc = column < 0 ? TOOL_FAILED : tool_output_open(&out, a->output);
    if (!rc) {
        pf_flame_opts opts = {.title = a->title, .width_px = (int)a->width};
        rc = tool_output_close(&out, pf_flame_svg(p, column, &opts, out.file));
    }
    pb_profile_free(p);
    return rc;
}
