/* Writes a big made-up CPU profile, the same for the same arguments:
 *     make_profile OUT.pb.gz [stacks 200000] [functions 20000] [seed 1]
 *
 * Stacks are walks of 10 to 70 calls through a fixed call graph, with a few busy callees per
 * function, so that they share their first frames and part below, as real ones do. Every call
 * site is a location with an address, a file and a line; every eighth callee is inlined. Names
 * are long but free of <> and (), which pprof cuts away before it adds up.
 */
#include "proto/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CALLEES = 6, DEPTH_MIN = 10, DEPTH_MAX = 70 };

static uint64_t seed;

static uint64_t next_random(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static uint64_t scramble(uint64_t x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

static void make_functions(pb_profile *p, size_t n)
{
    static const char *const parts[] = {"cache",  "request", "parse",  "buffer",
                                        "index",  "commit",  "flush",  "table",
                                        "stream", "lookup",  "encode", "session"};
    for (size_t i = 0; i < n; i++) {
        char name[128], file[128];
        uint64_t h = scramble(i + 1);
        const char *a = parts[h % 12], *b = parts[(h >> 8) % 12];
        if (h & 1 << 20)
            snprintf(name, sizeof name, "app::%s::%s_%s_%zu::run", a, b, parts[h >> 16 & 7], i);
        else
            snprintf(name, sizeof name, "%s_%s_%zu", a, b, i);
        snprintf(file, sizeof file, "/src/app/%s/%s_%zu.c", a, b, i / 20);
        int64_t s = pb_string(p, name);
        pb_function_add(p, s, s, pb_string(p, file), (int64_t)(h % 2000));
    }
}

/* The location of call site `site` in function fn (from 0). */
static uint64_t call_site(pb_profile *p, size_t fn, unsigned site, size_t functions)
{
    pb_line lines[2];
    uint32_t n = 0;
    if (scramble(fn * 7 + site) % 8 == 0)
        lines[n++] = (pb_line){scramble(fn + site) % functions + 1, 7};
    lines[n++] = (pb_line){fn + 1, (int64_t)(100 + site * 3)};
    return pb_location_add(p, 1, 0x400000 + fn * 4096 + site * 64, lines, n);
}

static void make_samples(pb_profile *p, size_t stacks, size_t functions)
{
    for (size_t tries = 0; p->nsamples < stacks && tries < stacks * 4; tries++) {
        uint64_t locs[DEPTH_MAX];
        uint32_t depth = DEPTH_MIN + (uint32_t)(next_random() % (DEPTH_MAX - DEPTH_MIN + 1));
        size_t fn = next_random() % 4 % functions;
        for (uint32_t i = depth; i-- > 0;) {
            unsigned site = 0;
            while (site < CALLEES - 1 && next_random() % 2)
                site++;
            locs[i] = call_site(p, fn, site, functions);
            fn = scramble(fn * CALLEES + site) % functions;
        }
        int64_t weight = 1 + (int64_t)(next_random() % 20), values[2] = {weight, weight * 10000000};
        pb_sample_add(p, locs, depth, values, NULL, 0);
    }
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        fprintf(stderr, "usage: make_profile OUT.pb.gz [stacks] [functions] [seed]\n");
        return 2;
    }
    size_t stacks = argc > 2 ? strtoul(argv[2], NULL, 10) : 200000;
    size_t functions = argc > 3 ? strtoul(argv[3], NULL, 10) : 20000;
    seed = (argc > 4 ? strtoul(argv[4], NULL, 10) : 1) * 0x9e3779b97f4a7c15u | 1;
    functions = functions ? functions : 1;
    pb_profile *p = pb_profile_new();
    pb_type_add(p, "samples", "count");
    pb_type_add(p, "cpu", "nanoseconds");
    p->period_type = (pb_value_type){pb_string(p, "cpu"), pb_string(p, "nanoseconds")};
    p->period = 10000000;
    p->time_ns = 1700000000000000000;
    p->duration_ns = 30000000000;
    pb_mapping m = {
        0x400000, 0x400000 + functions * 4096, 0, pb_string(p, "/usr/bin/app"), 0, true, true, true,
        true};
    pb_mapping_add(p, &m);
    make_functions(p, functions);
    make_samples(p, stacks, functions);
    void *buf;
    size_t n;
    FILE *out = fopen(argv[1], "wb");
    int rc = pb_encode(p, 1, &buf, &n);
    if (rc || !out || fwrite(buf, 1, n, out) != n || fclose(out)) {
        fprintf(stderr, "make_profile: %s: cannot write\n", argv[1]);
        return 1;
    }
    printf("%s: %zu stacks, %zu functions, %zu bytes\n", argv[1], p->nsamples, p->nfunctions, n);
    free(buf);
    pb_profile_free(p);
    return 0;
}
