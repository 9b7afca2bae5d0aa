/* The private map of the present half: raw snapshots in, answers out.
 *
 *   route.c   request -> reply, without a transport
 *   listen.c  address -> listening socket               http.c   its connections and threads
 *   assemble.c raw -> profile                           text.c   raw -> debug=1 and 2
 *   symbol.c  address -> names, with a cache, over symbol_elf.c (files, symbol tables) and
 *             symbol_dwarf.c (functions, inline chains, lines)
 *
 * Nothing here names a symbol of libweft: what present needs of the process comes through the
 * pf_collect_api that open.c was given. All work is done on quiet threads (pf_quiet_*), so it never
 * shows in a profile.
 *
 * Locks, in rank order (a holder may only take a later one): server (http.c), symbols (symbol.c).
 */
#ifndef WEFT_PRESENT_H
#define WEFT_PRESENT_H

#include <libelf.h>
#include "profiler/collect/collect.h"
#include "proto/profile.h"

#define PF_SEGMENTS_MAX 16 /* executable segments of one ELF file that are looked at */

/* What open.c was given; NULL before. */
extern PF_HIDDEN const pf_collect_api *pf_collect;

/* ---- symbol.c ---- */

/* One source-level frame. Strings live until pf_symbols_end. */
typedef struct pf_frame {
    const char *name;        /* never NULL or "" */
    const char *system_name; /* as the linker knows it */
    const char *file;        /* "" when unknown */
    int64_t line;            /* 0 when unknown */
} pf_frame;

/* What one address means: frames[0] is the innermost inlined callee, the last one the function
 * that the code physically is in. */
typedef struct pf_place {
    uint32_t nframes; /* at least 1 */
    bool named;       /* false: the only frame's name is made up from the module and the offset */
    bool debug_info;  /* the frames come from DWARF, so the inline chain is complete */
    uint64_t entry;   /* ELF address where the physical function begins; the address itself when
                         unknown */
    pf_frame frames[];
} pf_place;

/* Between begin and end the caller holds the symbols lock, and places and strings stay. */
PF_HIDDEN void pf_symbols_begin(void);
PF_HIDDEN void pf_symbols_end(void);
/* The place of a runtime address (already minus one for a return address) in its module; module
 * NULL: in none. Synthetic addresses (below PF_SYNTHETIC_END) have their bracketed names. Never
 * NULL: when memory is out it is a static "[out of memory]". */
PF_HIDDEN const pf_place *pf_symbol_find(const pf_module *module, uintptr_t address);
/* Forgets everything without freeing it: in a child after fork, whose parent's threads may have
 * been in the middle of a change. Async-signal-safe. */
PF_HIDDEN void pf_symbols_forget(void);

/* ---- symbol_elf.c ---- */

typedef struct pf_symbol {
    uint64_t start, size;
    const char *name;
} pf_symbol;

/* A module's files, opened. The Elf handles stay open as long as the strings are used. */
typedef struct pf_elf {
    Elf *elf;           /* the module itself; NULL when it could not be had */
    Elf *debug;         /* its separate debug file; NULL when there is none or none is needed */
    void *memory;       /* copy that elf reads from, for [vdso] and images whose file is gone */
    pf_symbol *symbols; /* functions, sorted by start, one name for each start */
    size_t nsymbols;
} pf_elf;

/* Opens what the module was mapped from; checks that it is the same build. 0 or a negative
 * errno. */
PF_HIDDEN int pf_elf_open(pf_elf *e, const pf_module *m);
PF_HIDDEN void pf_elf_close(pf_elf *e);
/* The function symbol that covers an ELF address, or NULL. */
PF_HIDDEN const pf_symbol *pf_elf_symbol(const pf_elf *e, uint64_t vaddr);

/* ---- symbol_dwarf.c ---- */

typedef struct pf_dwarf pf_dwarf;
/* NULL when neither file has debug information (or memory is out). */
PF_HIDDEN pf_dwarf *pf_dwarf_open(Elf *elf);
PF_HIDDEN void pf_dwarf_close(pf_dwarf *);
/* Fills at most max frames for an ELF address; returns how many, 0 when DWARF says nothing.
 * frames[n-1].name may be NULL (the line table knows the address, no function does). *entry gets
 * the physical function's start when it is known. Strings live as long as the handle. */
PF_HIDDEN uint32_t pf_dwarf_find(pf_dwarf *, uint64_t vaddr, pf_frame *frames, uint32_t max,
                                 uint64_t *entry);

/* ---- assemble.c ---- */

typedef enum pf_kind { PF_KIND_CPU, PF_KIND_HEAP, PF_KIND_CONTENTION, PF_KIND_COUNT } pf_kind;
PF_HIDDEN pf_kind pf_kind_of(const pf_source *);

/* Samples of one stack and one label set (and one block size), added up. */
typedef struct pf_group {
    const pf_sample *sample; /* the first of them */
    int64_t values[PF_VALUES], unscaled[PF_VALUES];
} pf_group;

/* Groups the samples. Order: column `by` of the values descending (PF_VALUES + i: column i of
 * unscaled), then the stack; by < 0: first appearance.
 * NULL without memory (and for no samples, with *n = 0 and *err = 0); free() it. */
PF_HIDDEN pf_group *pf_group_samples(const pf_raw *raw, int by, size_t *n, int *err);

/* The module that an address is in, or NULL. */
PF_HIDDEN const pf_module *pf_module_of(const pf_raw *raw, uintptr_t address);
/* The address to show and to look up for frame i: exact for an exact leaf, else one less. */
PF_HIDDEN uintptr_t pf_frame_address(const pf_sample *s, uint32_t i);

/* What is shown of a stack: frames [first, end), without the `inner` innermost lines of the first.
 * The rest is the library itself, as Go hides runtime.*; never everything. */
typedef struct pf_view {
    uint32_t first, end, inner;
} pf_view;
/* The symbols lock is held. */
PF_HIDDEN pf_view pf_view_of(const pf_raw *raw, const pf_sample *s);

PF_HIDDEN int pf_assemble(const pf_raw *raw, pb_profile **out);

/* ---- text.c ---- */

/* The text of debug >= 1, in a malloc'd buffer. -EINVAL for the CPU profile, which has none. */
PF_HIDDEN int pf_text(const pf_raw *raw, int debug, char **buf, size_t *n);
/* A snapshot in the form that debug asks for. */
PF_HIDDEN int pf_render(const pf_raw *raw, int debug, void **buf, size_t *n, bool *is_text);

/* ---- route.c ---- */

typedef struct pf_request {
    const char *method;
    const char *target; /* undecoded, with its query */
    const void *body;
    size_t nbody;
    /* Waits for ns; nonzero when the peer is gone or the server ends. NULL: waits for all of it. */
    int (*wait)(void *arg, int64_t ns);
    void *arg;
} pf_request;

typedef struct pf_reply {
    int status;
    char *headers; /* "Name: value\r\n" each; without Content-Length */
    void *body;
    size_t nbody; /* of a GET; HEAD replies carry none */
} pf_reply;

/* Answers. 0; -ENOENT outside /debug/pprof; -ECANCELED the peer is gone; -ENOMEM. */
PF_HIDDEN int pf_route(const pf_request *, pf_reply *);
PF_HIDDEN void pf_reply_free(pf_reply *);
PF_HIDDEN int pf_reply_error(pf_reply *, int status, const char *line);
/* The first value of a query parameter, decoded, malloc'd; NULL when it is absent. */
PF_HIDDEN char *pf_query(const char *query, const char *key);
PF_HIDDEN int pf_handle(const char *method, const char *target, const void *body, size_t n,
                        weft_reply_fn reply, void *arg);

/* ---- listen.c ---- */

typedef struct pf_listener {
    int fd;
    int port; /* 0 for unix */
    bool is_unix;
    bool loopback;       /* only this machine's processes reach it by TCP */
    char path[108];      /* of a unix socket in the file system, else "" */
    uint64_t dev, inode; /* of that path, so that only our own is removed */
} pf_listener;
/* "HOST:PORT", "[V6]:PORT", "unix:/path", "unix:@name"; %p is the process id. 0 or a negative
 * errno, as weft_pprof_serve says. */
PF_HIDDEN int pf_listen(pf_listener *, const char *addr);
/* Closes it, and removes a unix socket's path when it is still ours. */
PF_HIDDEN void pf_listen_close(pf_listener *);

/* ---- http.c ---- */

PF_HIDDEN int pf_http_serve(const char *addr);
PF_HIDDEN int pf_http_stop(void);
PF_HIDDEN void pf_http_forked(void);

/* ---- page/index.c ---- */

PF_HIDDEN int pf_page_index(char **buf, size_t *n);

#endif
