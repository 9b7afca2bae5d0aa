/* The script and the style: present, and fit to be put into XML and to be allowed by hash. */
#include "profiler/present/page/flame.h"
#include "tests/check.h"

#include <stdlib.h>

static char *text(const char *(*get)(size_t *))
{
    size_t n;
    const char *s = get(&n);
    cr_assert_gt(n, 1000);
    char *copy = calloc(1, n + 1);
    memcpy(copy, s, n);
    cr_assert_eq(strlen(copy), n, "no NUL inside");
    return copy;
}

Test(flame_assets, script)
{
    char *s = text(pf_flame_script);
    cr_assert_not_null(strstr(s, "'use strict'"));
    cr_assert_null(strstr(s, "]]>"), "it stands in a CDATA section");
    cr_assert_null(strstr(s, "</script"));
    cr_assert_null(strstr(s, "eval("));
    cr_assert_null(strstr(s, "innerHTML"), "names are text, never markup");
    cr_assert_null(strstr(s, ".style."), "a policy may forbid it");
    for (const char *c = s; *c; c++)
        cr_assert((*c >= ' ' && *c < 0x7f) || *c == '\n', "plain ASCII");
    free(s);
}

Test(flame_assets, style)
{
    char *s = text(pf_flame_style);
    cr_assert_null(strchr(s, '<'));
    cr_assert_null(strstr(s, "url("));
    cr_assert_null(strstr(s, "@import"));
    cr_assert_not_null(strstr(s, "prefers-color-scheme:dark"));
    free(s);
}
