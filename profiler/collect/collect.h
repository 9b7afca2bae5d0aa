/* What the collect half offers: sources of samples, raw snapshots of them, and the table of
 * functions that the present half is given. The arrow goes present -> collect only: present never
 * calls a collect symbol by name, because with a statically linked program there is none to find;
 * it gets a pf_collect_api when it is opened.
 *
 * A raw snapshot is plain data: buckets (stack + values), label sets, modules. It is made by a
 * source, owned by the caller, and freed by raw_free. Program counters are runtime addresses:
 * pcs[0] is the leaf. When leaf_exact is set, pcs[0] is the interrupted instruction; all others are
 * return addresses, so an address to show or to look up is pc - 1.
 */
#ifndef WEFT_COLLECT_H
#define WEFT_COLLECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "runtime/weft_hook.h"
#include "profiler/weft_pprof.h"

#define PF_HIDDEN __attribute__((visibility("hidden")))
#define PF_DEPTH  128 /* frames kept: leaf half and root half, with PF_TRUNCATED between */
#define PF_VALUES 4   /* values a sample can have */

/* Synthetic frames: pcs below 4096 are no addresses but one of these; present names them "[name]".
 */
enum {
    PF_TRUNCATED = 1,     /* [truncated]: frames are missing here */
    PF_LOST_FULL,         /* [lost: buffer full] */
    PF_LOST_NESTED,       /* [lost: nested signal] */
    PF_LOST_MEMORY,       /* [lost: out of memory] */
    PF_NO_STACK,          /* [no stack]: the thread's bounds are not known, or its walk failed */
    PF_SCHEDULER,         /* [scheduler]: the switch, or a worker looking for work */
    PF_NOT_STARTED,       /* [not started]: a coroutine that has not run yet */
    PF_RUNNING_ELSEWHERE, /* [running]: could not be walked in time */
    PF_SYNTHETIC_END
};

typedef struct pf_label {
    const char *key, *value;
} pf_label;
/* An immutable, counted set, sorted by key. label.c. */
struct weft_labels {
    _Atomic(uint32_t) refs;
    uint32_t n;
    pf_label label[];
};

/* Only in the coroutine source: what debug=1 and 2 tell beside the stack. */
typedef struct pf_coro {
    uint64_t id, creator_id;
    uintptr_t fn, creator_pc;
    char name[32];
    weft_coro_state state;
    weft_wait_reason reason;
    int64_t age_ns; /* since its last park; 0 unknown or not waiting */
    bool pinned;
} pf_coro;

typedef struct pf_sample {
    const uintptr_t *pcs;
    uint32_t npcs;
    bool leaf_exact;
    int64_t values[PF_VALUES];   /* as many as the source has types; already unbiased */
    int64_t unscaled[PF_VALUES]; /* the sampled sums, for heap debug=1 */
    const weft_labels *labels;   /* NULL for none; held by the snapshot */
    int64_t block_bytes; /* heap: size of one object, shown as the numeric label "bytes"; else 0 */
    const pf_coro *coro; /* coroutine source; else NULL */
} pf_sample;

/* One executable segment of the process. */
typedef struct pf_module {
    uintptr_t start, limit; /* mapped addresses */
    uint64_t offset;        /* of start in the file */
    uintptr_t bias;         /* runtime address - ELF virtual address */
    const char *path;       /* "/usr/lib/x.so", "[vdso]"; the program itself first */
    char build_id[65];      /* lower-case hex, "" when there is none */
} pf_module;

typedef struct pf_raw {
    const struct pf_source *source;
    pf_sample *samples;
    size_t nsamples;
    pf_module *modules;
    size_t nmodules;
    int64_t time_ns;     /* wall clock of the start (CPU) or of the snapshot */
    int64_t duration_ns; /* CPU only, else 0 */
    int64_t period;
    int64_t rate;  /* heap: mean bytes; block: ns; mutex: fraction, when the snapshot was made */
    int64_t lost;  /* samples lost for any reason (they are in samples too, as synthetic stacks) */
    int64_t count; /* what the index page shows */
    void *arena;   /* owns everything above */
} pf_raw;

typedef struct pf_type {
    const char *type, *unit;
} pf_type;

/* One source of samples, one profile name. */
typedef struct pf_source {
    const char *name; /* "heap" */
    const char *help; /* one sentence for the index page */
    uint32_t ntypes;
    pf_type types[PF_VALUES];
    pf_type period_type;
    const char *default_type; /* NULL: the last one */
    /* A snapshot now. 0 or a negative errno. Plain threads only. NULL for the CPU profile, which
     * has a session. */
    int (*snapshot)(pf_raw *out);
    int64_t (*count)(void); /* for the index page, cheap */
} pf_source;

extern PF_HIDDEN const pf_source pf_cpu_source, pf_heap_source, pf_allocs_source,
    pf_coroutine_source, pf_block_source, pf_mutex_source, pf_threads_source;

/* ---- what present is given, and what it gives back ---- */

#define PF_API_VERSION 1u
typedef struct pf_collect_api {
    uint32_t version;
    const pf_source *const *sources; /* NULL-terminated, sorted by name */
    void (*raw_free)(pf_raw *);
    /* The CPU session: one at a time. start: 0, -EBUSY, -EEXIST (the
     * program has a SIGPROF handler), what timer_create gives. stop fills raw: everything since
     * start. */
    int (*cpu_start)(int hz);
    int (*cpu_stop)(pf_raw *out);
    /* Modules of the process now (the program first), for symbol requests; freed by raw_free of the
     * raw they are in. */
    int (*modules)(pf_raw *out);
    const char *(*reason_name)(weft_wait_reason);
    /* The calling thread belongs to the profiler from now on (quiet = true) or no more: no samples
     * of any kind come from it, its allocations are not seen, and the deadlock report does not
     * count it as the program's. */
    void (*thread_quiet)(bool quiet);
} pf_collect_api;

typedef struct pf_present_api {
    uint32_t version;
    int (*serve)(const char *addr); /* as weft_pprof_serve */
    int (*stop)(void);
    int (*handle)(const char *method, const char *target, const void *body, size_t n,
                  weft_reply_fn reply, void *arg);
    int (*write)(pf_raw *raw, int fd, int debug); /* encodes and writes; raw stays the caller's */
    /* In a child after fork: forget the server (its threads are gone) and close its listener.
     * Async-signal-safe. */
    void (*after_fork_child)(void);
} pf_present_api;

/* The one symbol of libweft-present.so. NULL when the versions differ. Called once, under load.c's
 * lock. */
typedef const pf_present_api *(*pf_present_open_fn)(const pf_collect_api *);
#define PF_PRESENT_OPEN "weft_present_open"

#endif
