/* Hostile profiles: whatever pb_decode accepts must be a whole model, which can be written, read
 * back, merged, folded and drawn; what it refuses must come with one line.
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
        fprintf(stderr, "decode_fuzz: %s\n", what);
        abort();
    }
}

static void use(pb_profile *p)
{
    char err[128];
    void *buf;
    size_t n;
    pb_profile *back, *sum = pb_profile_new();
    FILE *out = fopen("/dev/null", "w");
    must(pb_encode(p, -1, &buf, &n) == 0, "cannot be written");
    must(pb_decode(buf, n, &back, err, sizeof err) == 0, "cannot be read back");
    /* Fewer: texts that differ in bad UTF-8 only, or labels without a key, have become equal. */
    must(back->nsamples <= p->nsamples && back->nlocations <= p->nlocations, "is another then");
    must(back->ntypes == p->ntypes && !back->nsamples == !p->nsamples, "has lost something");
    for (int column = 0; column < (int)p->ntypes && column < 3; column++) {
        int64_t lines = pb_fold_write(p, column, out), boxes = pf_flame_svg(p, column, NULL, out);
        must(lines >= 0 && boxes > 0, "cannot be shown");
    }
    must(pb_merge(sum, p, 1) == 0 && pb_merge(sum, p, -1) == 0 && sum->nsamples == 0,
         "cannot be merged");
    fclose(out);
    free(buf);
    pb_profile_free(back);
    pb_profile_free(sum);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char err[128] = "";
    pb_profile *p = NULL;
    int rc = pb_decode(data, n, &p, err, sizeof err);
    must((rc == 0) == (p != NULL), "an error with a profile");
    must(rc == 0 || (*err && !strchr(err, '\n')), "an error without its line");
    if (p)
        use(p);
    pb_profile_free(p);
    return 0;
}

#ifdef WEFT_FUZZ_MAIN
static void sample(pb_profile *p, unsigned i)
{
    int64_t name = pb_string(p, i ? "f<int>;\n\"x\" & 'y' \377" : "main"), values[2] = {i + 1, 10};
    pb_mapping m = {0x1000, 0x9000, 0, pb_string(p, "/bin/prog"), pb_string(p, "ab"), 1, 1, 1, 1};
    uint64_t mapping = pb_mapping_add(p, &m);
    pb_line lines[2] = {{pb_function_add(p, name, name, pb_string(p, "x.c"), 1), 5},
                        {pb_function_add(p, pb_string(p, "run"), 0, 0, 0), 7}};
    uint64_t locs[3] = {pb_location_add(p, mapping, 0x1100 + i, lines, 2),
                        pb_location_add(p, mapping, 0x1200, NULL, 0),
                        pb_location_add(p, 0, 0x77, lines + 1, 1)};
    pb_label labels[2] = {{pb_string(p, "route"), pb_string(p, "/hash"), 0, 0},
                          {pb_string(p, "bytes"), 0, 512, 0}};
    pb_sample_add(p, locs, 3, values, labels, i % 3);
    pb_sample_add(p, locs + 1, 2, values, NULL, 0);
    pb_sample_add(p, NULL, 0, values, NULL, 0);
}

static uint8_t *fuzz_seed(unsigned i, size_t *n)
{
    void *buf = NULL;
    *n = 0;
    if (i >= 6)
        return NULL;
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "samples", "count");
    pb_type_add(p, "cpu", "nanoseconds");
    p->period_type = p->types[1];
    p->default_type = p->types[0].type;
    pb_comment_add(p, "note");
    for (unsigned k = 0; k < i; k++)
        sample(p, k);
    /* Mostly raw: damage inside gzip seldom gets past the checksum. */
    pb_encode(p, i == 5 ? 1 : -1, &buf, n);
    pb_profile_free(p);
    return buf;
}
#endif
