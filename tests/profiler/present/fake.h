/* A collector made by hand: a pf_collect_api whose snapshots are what a test puts into them, about
 * this very process. It counts what is taken and given back, and which threads are quiet.
 *
 * The sources are those of the real collector. A test fills fake_heap_raw and the like; a snapshot
 * is a deep copy, freed by raw_free. */
#ifndef WEFT_TESTS_FAKE_H
#define WEFT_TESTS_FAKE_H

#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "tests/check.h"
#include "profiler/present/present.h"

#define UNUSED   __attribute__((unused))
#define NOINLINE __attribute__((noinline))

/* ---- modules of this process ---- */

typedef struct fake_list {
    pf_module m[256];
    size_t n;
    int seen;
} fake_list;

UNUSED static void fake_build_id(const struct dl_phdr_info *info, char out[65])
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        const unsigned char *p = (const unsigned char *)(info->dlpi_addr + ph->p_vaddr),
                            *end = p + ph->p_memsz;
        while (ph->p_type == PT_NOTE && p < end) {
            const ElfW(Nhdr) *h = (const void *)p;
            const unsigned char *desc = p + sizeof *h + ((h->n_namesz + 3u) & ~3u);
            if (h->n_type == NT_GNU_BUILD_ID)
                for (unsigned k = 0; k < h->n_descsz && k < 32; k++)
                    sprintf(out + 2 * k, "%02x", desc[k]);
            p = desc + ((h->n_descsz + 3u) & ~3u);
        }
    }
}

UNUSED static int fake_module(struct dl_phdr_info *info, size_t size, void *arg)
{
    fake_list *l = arg;
    bool program = l->seen++ == 0;

    (void)size;
    for (int i = 0; i < info->dlpi_phnum && l->n < 256; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        if (ph->p_type != PT_LOAD || !(ph->p_flags & PF_X))
            continue;
        pf_module *m = &l->m[l->n++];
        memset(m, 0, sizeof *m);
        m->start = (info->dlpi_addr + ph->p_vaddr) & ~4095ul;
        m->limit = (info->dlpi_addr + ph->p_vaddr + ph->p_memsz + 4095) & ~4095ul;
        m->offset = ph->p_offset & ~4095ul;
        m->bias = info->dlpi_addr;
        char self[512];
        ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
        self[n > 0 ? n : 0] = '\0';
        m->path = strdup(program ? self : info->dlpi_name);
        fake_build_id(info, m->build_id);
    }
    return 0;
}

/* ---- snapshots ---- */

static atomic_int fake_live_raws, fake_quiet_threads, fake_cpu_running, fake_cpu_stops;
static _Thread_local bool fake_is_quiet;

UNUSED static void fake_raw_free(pf_raw *raw)
{
    pf_raw *owned = raw->arena;

    if (!owned)
        return;
    for (size_t i = 0; i < raw->nsamples; i++)
        free((void *)raw->samples[i].pcs);
    for (size_t i = 0; i < raw->nmodules; i++)
        free((void *)raw->modules[i].path);
    free(raw->samples);
    free(raw->modules);
    free(owned);
    memset(raw, 0, sizeof *raw);
    fake_live_raws--;
}

UNUSED static int fake_modules(pf_raw *out)
{
    fake_list l = {.n = 0};

    memset(out, 0, sizeof *out);
    out->arena = malloc(sizeof(pf_raw));
    fake_live_raws++;
    dl_iterate_phdr(fake_module, &l);
    out->modules = malloc(l.n * sizeof *out->modules);
    memcpy(out->modules, l.m, l.n * sizeof *out->modules);
    out->nmodules = l.n;
    return 0;
}

UNUSED static void fake_begin(pf_raw *raw, const pf_source *s)
{
    fake_modules(raw);
    raw->source = s;
    raw->time_ns = INT64_C(1700000000000000000);
    raw->period = 1;
}

UNUSED static pf_sample *fake_add(pf_raw *raw, const uintptr_t *pcs, uint32_t n)
{
    uintptr_t *copy = malloc((n + 1) * sizeof *copy);

    memcpy(copy, pcs, n * sizeof *pcs);
    if ((raw->nsamples & (raw->nsamples - 1)) == 0) /* full: a power of two */
        raw->samples = realloc(raw->samples, (2 * raw->nsamples + 1) * sizeof *raw->samples);
    pf_sample *s = &raw->samples[raw->nsamples++];
    *s = (pf_sample){.pcs = copy, .npcs = n};
    return s;
}

/* What the sources give: each test sets these. */
static void (*fake_fill)(pf_raw *raw);
static int fake_error; /* a snapshot fails with it */

static int fake_heap(pf_raw *), fake_allocs(pf_raw *), fake_block(pf_raw *), fake_mutex(pf_raw *),
    fake_goroutine(pf_raw *), fake_threads(pf_raw *);
UNUSED static int64_t fake_count(void)
{
    return 7;
}

#define FAKE_HEAP_TYPES                                                                            \
    .ntypes = 4, .period_type = {"space", "bytes"},                                                \
    .types = {{"alloc_objects", "count"},                                                          \
              {"alloc_space", "bytes"},                                                            \
              {"inuse_objects", "count"},                                                          \
              {"inuse_space", "bytes"}}
#define FAKE_CONTENTION_TYPES                                                                      \
    .ntypes = 2, .period_type = {"contentions", "count"},                                          \
    .types = {{"contentions", "count"}, {"delay", "nanoseconds"}}
UNUSED static const pf_source fake_sources[] = {
    {.name = "allocs",
     .help = "All <allocations> & more.",
     FAKE_HEAP_TYPES,
     .default_type = "alloc_space",
     .snapshot = fake_allocs,
     .count = fake_count},
    {.name = "block", .help = "b", FAKE_CONTENTION_TYPES, .snapshot = fake_block},
    {.name = "goroutine",
     .help = "g",
     .ntypes = 1,
     .types = {{"goroutine", "count"}},
     .period_type = {"goroutine", "count"},
     .snapshot = fake_goroutine},
    {.name = "heap", .help = "h", FAKE_HEAP_TYPES, .snapshot = fake_heap, .count = fake_count},
    {.name = "mutex", .help = "m", FAKE_CONTENTION_TYPES, .snapshot = fake_mutex},
    {.name = "profile",
     .help = "cpu",
     .ntypes = 2,
     .types = {{"samples", "count"}, {"cpu", "nanoseconds"}},
     .period_type = {"cpu", "nanoseconds"}},
    {.name = "threadcreate",
     .help = "t",
     .ntypes = 1,
     .types = {{"threadcreate", "count"}},
     .period_type = {"threadcreate", "count"},
     .snapshot = fake_threads},
};
enum { ALLOCS, BLOCK, GOROUTINE, HEAP, MUTEX, PROFILE, THREADS };
UNUSED static const pf_source *const fake_source_list[] = {
    &fake_sources[0], &fake_sources[1], &fake_sources[2], &fake_sources[3],
    &fake_sources[4], &fake_sources[5], &fake_sources[6], NULL};

UNUSED static int fake_take(pf_raw *raw, int which)
{
    if (fake_error)
        return fake_error;
    fake_begin(raw, &fake_sources[which]);
    if (fake_fill)
        fake_fill(raw);
    return 0;
}
UNUSED static int fake_allocs(pf_raw *r)
{
    return fake_take(r, ALLOCS);
}
UNUSED static int fake_block(pf_raw *r)
{
    return fake_take(r, BLOCK);
}
UNUSED static int fake_goroutine(pf_raw *r)
{
    return fake_take(r, GOROUTINE);
}
UNUSED static int fake_heap(pf_raw *r)
{
    return fake_take(r, HEAP);
}
UNUSED static int fake_mutex(pf_raw *r)
{
    return fake_take(r, MUTEX);
}
UNUSED static int fake_threads(pf_raw *r)
{
    return fake_take(r, THREADS);
}

UNUSED static int fake_cpu_start(int hz)
{
    int none = 0;

    cr_assert_eq(hz, 100);
    return atomic_compare_exchange_strong(&fake_cpu_running, &none, 1) ? 0 : -EBUSY;
}

UNUSED static int fake_cpu_stop(pf_raw *out)
{
    cr_assert_eq(fake_cpu_running, 1);
    fake_begin(out, &fake_sources[PROFILE]);
    out->period = 10000000;
    out->duration_ns = 1000;
    if (fake_fill)
        fake_fill(out);
    fake_cpu_stops++;
    fake_cpu_running = 0;
    return 0;
}

UNUSED static const char *fake_reason(weft_wait_reason r)
{
    return r == WEFT_WAIT_CHAN_RECV ? "chan receive" : r == WEFT_WAIT_SLEEP ? "sleep" : "select";
}

UNUSED static void fake_quiet(bool quiet)
{
    cr_assert_neq(fake_is_quiet, quiet);
    fake_is_quiet = quiet;
    fake_quiet_threads += quiet ? 1 : -1;
}

UNUSED static pf_collect_api fake_api = {
    .version = PF_API_VERSION,
    .sources = fake_source_list,
    .raw_free = fake_raw_free,
    .cpu_start = fake_cpu_start,
    .cpu_stop = fake_cpu_stop,
    .modules = fake_modules,
    .reason_name = fake_reason,
    .thread_quiet = fake_quiet,
};

UNUSED static void fake_setup(void)
{
    pf_collect = &fake_api;
}

/* ---- a stack of known functions ---- */

/* After fake_stack: return addresses of a chain of calls. fake_leaf is called by fake_deep, which
 * is always inlined into fake_middle, itself inlined into fake_outer, which fake_root calls, and
 * that fake_stack. Lines are of the calls. */
#define FAKE_FRAMES 3
static uintptr_t fake_pcs[FAKE_FRAMES]; /* in fake_outer's code, fake_root's, fake_stack's */
static int fake_line_deep, fake_line_middle, fake_line_outer, fake_line_root;
static volatile int fake_sink;

UNUSED NOINLINE static void fake_leaf(void)
{
    fake_pcs[0] = (uintptr_t)__builtin_return_address(0);
}
UNUSED static inline __attribute__((always_inline)) void fake_deep(void)
{
    fake_line_deep = __LINE__ + 1;
    fake_leaf();
    fake_sink++;
}
UNUSED static inline __attribute__((always_inline)) void fake_middle(void)
{
    fake_line_middle = __LINE__ + 1;
    fake_deep();
    fake_sink++;
}
UNUSED NOINLINE static void fake_outer(void)
{
    fake_pcs[1] = (uintptr_t)__builtin_return_address(0);
    fake_line_outer = __LINE__ + 1;
    fake_middle();
    fake_sink++;
}
UNUSED NOINLINE static void fake_root(void)
{
    fake_pcs[2] = (uintptr_t)__builtin_return_address(0);
    fake_line_root = __LINE__ + 1;
    fake_outer();
    fake_sink++;
}
UNUSED NOINLINE static void fake_stack(void)
{
    fake_root();
    fake_sink++;
}

/* A function made of its name only: an address in it, 4 bytes past its start. */
#define FAKE_FUNCTION(name)                                                                        \
    NOINLINE UNUSED static void name(void)                                                         \
    {                                                                                              \
        fake_sink += (int)sizeof(#name);                                                           \
        fake_sink += (int)sizeof(#name) * 3;                                                       \
    }
#define FAKE_PC(name) ((uintptr_t)(name) + 4)

/* ---- label sets ---- */

UNUSED static weft_labels *fake_labels(uint32_t n, const char *const *pairs)
{
    weft_labels *l = calloc(1, sizeof *l + n * sizeof l->label[0]);

    l->refs = 1;
    l->n = n;
    for (uint32_t i = 0; i < n; i++)
        l->label[i] = (pf_label){pairs[2 * i], pairs[2 * i + 1]};
    return l;
}

#endif
