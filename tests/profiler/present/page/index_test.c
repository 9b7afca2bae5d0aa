/* The index page: one row for each profile in the shape that tools scrape, names escaped. */
#include <regex.h>
#include "tests/profiler/present/fake.h"

static char *page;

static void setup(void)
{
    size_t n;

    fake_setup();
    cr_assert_eq(pf_page_index(&page, &n), 0);
    cr_assert_eq(strlen(page), n);
}

Test(index, rows_in_order, .init = setup)
{
    static const char *const rows[] = {
        "<tr><td>7</td><td><a href='allocs?debug=1'>allocs</a></td></tr>\n",
        "<tr><td>0</td><td><a href='block?debug=1'>block</a></td></tr>\n",
        "<tr><td>0</td><td><a href='cmdline?debug=1'>cmdline</a></td></tr>\n",
        "<tr><td>0</td><td><a href='goroutine?debug=1'>goroutine</a></td></tr>\n",
        "<tr><td>7</td><td><a href='heap?debug=1'>heap</a></td></tr>\n",
        "<tr><td>0</td><td><a href='mutex?debug=1'>mutex</a></td></tr>\n",
        "<tr><td>0</td><td><a href='profile?debug=1'>profile</a></td></tr>\n",
        "<tr><td>0</td><td><a href='symbol?debug=1'>symbol</a></td></tr>\n",
        "<tr><td>0</td><td><a href='threadcreate?debug=1'>threadcreate</a></td></tr>\n"};
    const char *at = page;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        at = strstr(at, rows[i]);
        cr_assert_not_null(at, "%s in\n%s", rows[i], page);
        at += strlen(rows[i]);
    }
    cr_assert_null(strstr(at, "<tr>"), "and no others");
    cr_assert_not_null(strstr(at, "<a href=\"goroutine?debug=2\">full goroutine stack dump</a>"));
}

Test(index, text_is_escaped, .init = setup)
{
    static const pf_source odd = {.name = "my.custom<x>'&", .snapshot = fake_heap};
    static const pf_source *const list[] = {&odd, NULL};
    char *other;
    size_t n;

    cr_assert_not_null(strstr(page, "All &lt;allocations&gt; &amp; more."));
    fake_api.sources = list;
    cr_assert_eq(pf_page_index(&other, &n), 0);
    cr_assert_not_null(
        strstr(other, "<a href='my.custom%3Cx%3E%27%26?debug=1'>my.custom&lt;x&gt;&#39;&amp;</a>"));
    cr_assert_null(strstr(other, "goroutine"));
    free(other);
}
