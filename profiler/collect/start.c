/* How the collect half starts: the constructor, the environment, fork.
 *
 * Invariants:
 *  1. The hooks are in place before main, so every worker, label and coroutine is seen from birth.
 *  2. A bad value in the environment is one line on stderr that names it, then the default; nothing
 *     here ends or delays the program.
 *  3. A program that runs with more rights than its user (AT_SECURE) ignores the environment.
 *  4. fork: before, the locks that hooks take are taken, in rank order, and SIGPROF is blocked: a
 *     tick would interrupt the copying of page tables again and again (H9). After it, in the child,
 *     what belonged to threads that are not there is forgotten (H52, H53).
 *
 * When WEFT_PPROF serves: at the first weft_run; or from load, in a program that cannot have
 * coroutines because no module of it refers to weft_run or weft_go. A program that holds the
 * library itself (linked statically) cannot be asked: it is served when LATER_NS have passed
 * without a weft_run, which is after most daemons have forked; a fork starts the time again.
 *
 * Rejected: serving from load always. A daemon forks after load and before weft_run; serving later
 * needs no second listener.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "profiler/collect/threads.h"
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

void pf_warn(const char *format, ...)
{
    char line[1024];
    va_list args;
    int n = snprintf(line, sizeof(line), "weft: ");
    va_start(args, format);
    n += vsnprintf(line + n, sizeof(line) - (size_t)n - 1, format, args);
    va_end(args);
    if (n > (int)sizeof(line) - 2)
        n = (int)sizeof(line) - 2;
    line[n++] = '\n';
    ssize_t ignored = write(STDERR_FILENO, line, (size_t)n); /* one line, in one piece */
    (void)ignored;
}

/* ---- the environment ---- */

/* A whole number from 0 to max; -1 when it is absent or bad (which is said). */
static int64_t env_number(const char *name, int64_t max, const char *fallback)
{
    const char *text = secure_getenv(name);
    char *end;
    if (!text || !*text)
        return -1;
    errno = 0;
    long long v = strtoll(text, &end, 10);
    if (!errno && !*end && end != text && v >= 0 && v <= max)
        return v;
    pf_warn("%s=%s: not a number from 0 to %lld; using %s", name, text, (long long)max, fallback);
    return -1;
}

static void read_rates(void)
{
    int64_t v;
    if ((v = env_number("WEFT_HEAP_RATE", INT64_MAX >> 8, "524288")) >= 0)
        weft_pprof_heap_rate(v);
    if ((v = env_number("WEFT_BLOCK_RATE", INT64_MAX >> 8, "0")) >= 0)
        weft_pprof_block_rate(v);
    if ((v = env_number("WEFT_MUTEX_FRACTION", INT32_MAX, "0")) >= 0)
        weft_pprof_mutex_fraction((int)v);
}

static void serve_env(void)
{
    static _Atomic(bool) tried;
    const char *addr = secure_getenv("WEFT_PPROF");
    if (!addr || !*addr || atomic_exchange_explicit(&tried, true, memory_order_relaxed))
        return;
    pf_serve_env(addr);
}

/* ---- does the program have coroutines? ---- */

typedef struct dynamic {
    const ElfW(Sym) * symbols;
    const char *strings;
    const ElfW(Rela) * tables[2];
    size_t bytes[2];
} dynamic;

static void read_dynamic(const struct dl_phdr_info *info, dynamic *d)
{
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_DYNAMIC)
            continue;
        const ElfW(Dyn) *dyn = (const void *)(info->dlpi_addr + info->dlpi_phdr[i].p_vaddr);
        for (; dyn->d_tag != DT_NULL; dyn++) {
            uintptr_t at = dyn->d_un.d_ptr; /* relocated in place, except in the vDSO */
            if (at < info->dlpi_addr)
                at += info->dlpi_addr;
            if (dyn->d_tag == DT_SYMTAB)
                d->symbols = (const void *)at;
            else if (dyn->d_tag == DT_STRTAB)
                d->strings = (const void *)at;
            else if (dyn->d_tag == DT_RELA)
                d->tables[0] = (const void *)at;
            else if (dyn->d_tag == DT_RELASZ)
                d->bytes[0] = dyn->d_un.d_val;
            else if (dyn->d_tag == DT_JMPREL)
                d->tables[1] = (const void *)at;
            else if (dyn->d_tag == DT_PLTRELSZ)
                d->bytes[1] = dyn->d_un.d_val;
        }
    }
}

static bool is_own(const struct dl_phdr_info *info)
{
    uintptr_t here = (uintptr_t)&is_own;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *ph = &info->dlpi_phdr[i];
        uintptr_t start = info->dlpi_addr + ph->p_vaddr;
        if (ph->p_type == PT_LOAD && here >= start && here - start < ph->p_memsz)
            return true;
    }
    return false;
}

enum { NO_COROUTINES, COROUTINES, HOLDS_LIBRARY };

/* Whether this module starts coroutines; the program itself may hold the library, and then nothing
 * tells. */
static int refers_to_run(struct dl_phdr_info *info, size_t size, void *program)
{
    (void)size;
    bool is_program = *(bool *)program;
    *(bool *)program = false;
    if (is_own(info))
        return is_program ? HOLDS_LIBRARY : NO_COROUTINES;
    dynamic d = {0};
    read_dynamic(info, &d);
    for (int t = 0; t < 2 && d.symbols && d.strings; t++)
        for (size_t i = 0; d.tables[t] && i < d.bytes[t] / sizeof(ElfW(Rela)); i++) {
            const char *name = d.strings + d.symbols[ELF64_R_SYM(d.tables[t][i].r_info)].st_name;
            if (!strncmp(name, "weft_", 5) &&
                (!strcmp(name + 5, "run") || !strcmp(name + 5, "go") ||
                 !strcmp(name + 5, "go_opts")))
                return COROUTINES;
        }
    return NO_COROUTINES;
}

static int has_coroutines(void)
{
    bool is_program = true;
    return dl_iterate_phdr(refers_to_run, &is_program);
}

#define LATER_NS 200000000
static _Atomic(bool) later; /* a thread waits to see whether coroutines come */

static void *serve_later(void *arg)
{
    (void)arg;
    struct timespec ts = {0, LATER_NS};
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
        ;
    atomic_store_explicit(&later, false, memory_order_relaxed);
    serve_env();
    return NULL;
}

/* ---- fork ---- */

static sigset_t fork_mask; /* the forking thread's; under pf_threads_lock from prepare on */

static void fork_prepare(void)
{
    sigset_t prof, before;
    sigemptyset(&prof);
    sigaddset(&prof, SIGPROF);
    pthread_sigmask(SIG_BLOCK, &prof, &before);
    pf_threads_fork(PF_FORK_PREPARE);
    fork_mask = before;
    pf_heap_fork(PF_FORK_PREPARE);
    pf_contention_fork(PF_FORK_PREPARE);
}

static void fork_parent(void)
{
    sigset_t before = fork_mask;
    pf_contention_fork(PF_FORK_PARENT);
    pf_heap_fork(PF_FORK_PARENT);
    pf_threads_fork(PF_FORK_PARENT);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

static void fork_child(void)
{
    sigset_t before = fork_mask;
    pf_tls.in_handler = 0;
    pf_contention_fork(PF_FORK_CHILD);
    pf_heap_fork(PF_FORK_CHILD);
    pf_cpu_fork(PF_FORK_CHILD);
    pf_coroutine_fork(PF_FORK_CHILD);
    pf_threads_fork(PF_FORK_CHILD);
    pf_load_fork(PF_FORK_CHILD);
    if (atomic_load_explicit(&later, memory_order_relaxed)) /* its thread is not in the child */
        pf_thread_spawn(serve_later, NULL, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/* ---- the constructor ---- */

static const weft_hooks hooks = {
    .version = WEFT_HOOK_VERSION,
    .label_inherit = pf_label_inherit,
    .label_drop = pf_label_drop,
    .block_end = pf_block_end,
    .unlock_end = pf_unlock_end,
    .thread_start = pf_thread_start,
    .thread_stop = pf_thread_stop,
    .run_start = serve_env,
};

static const weft_report report = {.walk = pf_unwind, .name = pf_elf_name};

__attribute__((constructor)) static void start(void)
{
    /* An earlier constructor may have turned contention on already. */
    weft_hook_set(&hooks,
                  weft_hook_mask(0, 0) | WEFT_HOOK_LABEL | WEFT_HOOK_THREAD | WEFT_HOOK_RUN);
    weft_hook_report_set(&report);
    pf_thread_here(); /* usually the main thread: its bounds */
    pthread_atfork(fork_prepare, fork_parent, fork_child);
    pf_heap_start();
    read_rates();
    const char *addr = secure_getenv("WEFT_PPROF");
    if (!addr || !*addr)
        return;
    int coroutines = has_coroutines();
    if (coroutines == NO_COROUTINES)
        serve_env();
    if (coroutines == HOLDS_LIBRARY) {
        atomic_store_explicit(&later, true, memory_order_relaxed);
        pf_thread_spawn(serve_later, NULL, NULL);
    }
}
