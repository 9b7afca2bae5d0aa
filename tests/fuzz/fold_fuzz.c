/* Hostile folded text: what is accepted can be written again and read back to the same text, and
 * drawn as a picture in which every '<' and '&' of a name is escaped.
 */
#include "profiler/present/page/flame.h"
#include "proto/profile.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "fold_fuzz: %s\n", what);
        abort();
    }
}

static char *folded(const pb_profile *p, size_t *n)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, n);
    must(pb_fold_write(p, 0, out) >= 0, "cannot be written");
    fclose(out);
    return text;
}

/* Only our own elements, and nothing but printable text between them. */
static void check_picture(const char *s)
{
    static const char *const ours[] = {"?xml",   "svg",     "/svg>",   "title",    "/title>",
                                       "style>", "/style>", "rect",    "g ",       "/g>",
                                       "text",   "/text>",  "script>", "/script>", "![CDATA["};
    for (const char *at = s; (at = strchr(at, '<')); at++) {
        int known = 0;
        if (strncmp(at, "<![CDATA[", 9) == 0)
            at = strstr(at, "]]>");
        for (size_t i = 0; i < sizeof ours / sizeof *ours && !known; i++)
            known = *at == ']' || strncmp(at + 1, ours[i], strlen(ours[i])) == 0;
        must(known, "an element that is not ours");
    }
    for (; *s; s++)
        must((unsigned char)*s >= ' ' || *s == '\n', "a control character");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char err[128] = "";
    pb_profile *p = NULL, *again = NULL;
    size_t junk, len[2];
    int rc = pb_fold_parse((const char *)data, n, &p, &junk, err, sizeof err);
    must((rc == 0) == (p != NULL), "an error with a profile");
    must(rc == 0 || (*err && !strchr(err, '\n')), "an error without its line");
    if (!p)
        return 0;
    char *text = folded(p, &len[0]), *picture = NULL;
    if (len[0]) {
        rc = pb_fold_parse(text, len[0], &again, &junk, err, sizeof err);
        must(rc == 0 && junk == 0, "cannot be read back");
        char *same = folded(again, &len[1]);
        must(len[0] == len[1] && memcmp(same, text, len[0]) == 0, "is another then");
        free(same);
    }
    FILE *out = open_memstream(&picture, &len[1]);
    must(pf_flame_svg(p, 0, NULL, out) > 0, "cannot be drawn");
    fclose(out);
    check_picture(picture);
    free(picture);
    free(text);
    pb_profile_free(again);
    pb_profile_free(p);
    return 0;
}

#ifdef WEFT_FUZZ_MAIN
static uint8_t *fuzz_seed(unsigned i, size_t *n)
{
    static const char *const seeds[] = {
        "main;run;hash 12\nmain;run 3\nmain;wait 40\n",
        "foo 50\nfoo(int);x 50\nfoo;bar 50\n# note\n",
        "a;std::vector<int, std::allocator<int>>::push_back(int const&) 7\nb \303\244;c 2.5\n",
        "x;y 12 34\n<script>alert(1)</script>;&amp;\"'\t]]> 9\r\n;;z 1\n",
        "9223372036854775807 9223372036854775807\na 9223372036854775807\n#root;b 00012.499\n",
    };
    *n = 0;
    if (i >= sizeof seeds / sizeof *seeds)
        return NULL;
    *n = strlen(seeds[i]);
    return (uint8_t *)strdup(seeds[i]);
}
#endif
