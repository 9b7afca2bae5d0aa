/* The index page, /debug/pprof/. Tools find the profiles in its rows by a pattern, so each row is
 * one line in Go's shape: <tr><td>COUNT</td><td><a href='NAME?debug=1'>NAME</a></td></tr>. Names
 * are escaped, since a custom profile's name is the program's. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "profiler/present/present.h"

typedef struct entry {
    const char *name, *help;
    int64_t count;
} entry;

static const entry fixed[] = {
    {"cmdline", "The command line of this program, its arguments separated by NUL bytes.", 0},
    {"profile",
     "CPU profile: where the processors spend this program's time. The parameter seconds says for "
     "how long it is taken (30); read it with go tool pprof or weft.",
     0},
    {"symbol", "Looks up program counters given in the request and answers with function names.",
     0},
};

static void put_escaped(FILE *f, const char *s)
{
    for (; *s; s++)
        switch (*s) {
        case '&':
            fputs("&amp;", f);
            break;
        case '<':
            fputs("&lt;", f);
            break;
        case '>':
            fputs("&gt;", f);
            break;
        case '"':
            fputs("&#34;", f);
            break;
        case '\'':
            fputs("&#39;", f);
            break;
        default:
            fputc(*s, f);
        }
}

static void put_path(FILE *f, const char *s)
{
    for (; *s; s++)
        if ((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') || (*s >= '0' && *s <= '9') ||
            strchr("-_.~", *s))
            fputc(*s, f);
        else
            fprintf(f, "%%%02X", (unsigned char)*s);
}

static int by_name(const void *a, const void *b)
{
    const entry *x = a, *y = b;

    return strcmp(x->name, y->name);
}

static size_t collect(entry *out)
{
    size_t n = sizeof fixed / sizeof *fixed;

    memcpy(out, fixed, sizeof fixed);
    for (const pf_source *const *s = pf_collect->sources; *s; s++)
        if ((*s)->snapshot)
            out[n++] = (entry){(*s)->name, (*s)->help, (*s)->count ? (*s)->count() : 0};
    qsort(out, n, sizeof *out, by_name);
    return n;
}

static void print_page(FILE *f, const entry *e, size_t n)
{
    bool coroutines = false;

    fputs("<html>\n<head>\n<title>/debug/pprof/</title>\n<style>\n"
          ".profile-name{\n\tdisplay:inline-block;\n\twidth:6rem;\n}\n</style>\n</head>\n<body>\n"
          "/debug/pprof/\n<br>\n"
          "<p>Set debug=1 as a query parameter to get a profile as text.</p>\n<br>\n"
          "Types of profiles available:\n<table>\n"
          "<thead><td>Count</td><td>Profile</td></thead>\n",
          f);
    for (size_t i = 0; i < n; i++) {
        fprintf(f, "<tr><td>%" PRId64 "</td><td><a href='", e[i].count);
        put_path(f, e[i].name);
        fputs("?debug=1'>", f);
        put_escaped(f, e[i].name);
        fputs("</a></td></tr>\n", f);
        coroutines |= strcmp(e[i].name, "goroutine") == 0;
    }
    fputs("</table>\n", f);
    if (coroutines)
        fputs("<a href=\"goroutine?debug=2\">full goroutine stack dump</a>\n", f);
    fputs("<br>\n<p>\nProfile Descriptions:\n<ul>\n", f);
    for (size_t i = 0; i < n; i++) {
        fputs("<li><div class=profile-name>", f);
        put_escaped(f, e[i].name);
        fputs(":</div> ", f);
        put_escaped(f, e[i].help ? e[i].help : "");
        fputs("</li>\n", f);
    }
    fputs("</ul>\n</p>\n</body>\n</html>\n", f);
}

int pf_page_index(char **buf, size_t *n)
{
    size_t sources = 0;
    entry *e;
    FILE *f;

    while (pf_collect->sources[sources])
        sources++;
    e = malloc((sources + sizeof fixed / sizeof *fixed) * sizeof *e);
    *buf = NULL;
    f = e ? open_memstream(buf, n) : NULL;
    if (f)
        print_page(f, e, collect(e));
    free(e);
    if (!f || fclose(f) != 0) {
        free(*buf);
        return -ENOMEM;
    }
    return 0;
}
