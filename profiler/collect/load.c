/* Opens the present half at its first use, and the public calls that need it.
 *
 * libweft-present.so brings libdw, libmicrohttpd and gnutls with it: a program that is never asked
 * for a profile must not pay for them. It is opened with RTLD_LOCAL, so that none of its libraries
 * shadows a symbol of the program (H25). It is looked for beside libweft (for a program that holds
 * libweft.a: beside the program), then in the configured library directory, then in WEFT_LIBDIR.
 *
 * Invariants:
 *  1. The present half is opened once and never closed. A failure is not remembered: the file may
 *     be installed later.
 *  2. Nothing of it runs on a coroutine's stack: these calls go through weft_blocking there,
 *     because libdw alone needs more than 64 KiB, and a coroutine must not wait for itself.
 *  3. While it works on a thread of the program's, that thread is quiet: its allocations are not
 *     the program's.
 *  4. A forked child drops the parent's listener before anything else of the program runs.
 *
 * Locks: load_lock, rank 1, held over dlopen; cpu_lock, rank 1, never with it.
 *
 * Rejected: linking it in and opening lazily with -z lazy: the libraries would still be mapped and
 * their constructors run (start 0.9 -> 2.8 ms, resident 1.3 -> 4.9 MB).
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "profiler/collect/pf.h"
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#ifndef WEFT_LIBDIR_DEFAULT
#define WEFT_LIBDIR_DEFAULT "/usr/local/lib"
#endif
static const char library[] = "libweft-present.so";
enum { RETRY_MS = 25, RETRY_FOR_MS = 2000 };

static pf_lock load_lock;
static _Atomic(const pf_present_api *) present;
static char load_error[PATH_MAX + 128]; /* under load_lock */

static pf_lock cpu_lock;
static bool cpu_mine; /* weft_pprof_cpu_start began the session that runs; under cpu_lock */
static int cpu_fd;

static char env_addr[PATH_MAX]; /* WEFT_PPROF, once it is served; "" else */

/* ---- what present is given ---- */

static const pf_source *const sources[] = {
    &pf_allocs_source, &pf_block_source, &pf_coroutine_source, &pf_heap_source,
    &pf_mutex_source,  &pf_cpu_source,   &pf_threads_source,   NULL};

static int modules_now(pf_raw *out)
{
    int r = pf_raw_init(out, NULL);
    if (!r && (r = pf_raw_modules(out)))
        pf_raw_free(out);
    return r;
}

const pf_collect_api pf_api = {
    .version = PF_API_VERSION,
    .sources = sources,
    .raw_free = pf_raw_free,
    .cpu_start = pf_cpu_start,
    .cpu_stop = pf_cpu_stop,
    .modules = modules_now,
    .reason_name = weft_hook_reason_name,
    .thread_quiet = pf_thread_quiet,
};

/* ---- opening ---- */

static const pf_present_api *try_open_locked(const char *dir, size_t n)
{
    char path[PATH_MAX];
    if (!n || snprintf(path, sizeof(path), "%.*s/%s", (int)n, dir, library) >= (int)sizeof(path))
        return NULL;
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = dlerror();
        /* "No such file" is how a search goes; anything else is worth telling. */
        if (!load_error[0] || access(path, F_OK) == 0)
            snprintf(load_error, sizeof(load_error), "%.4000s", why ? why : path);
        return NULL;
    }
    pf_present_open_fn open_fn;
    *(void **)&open_fn = dlsym(handle, PF_PRESENT_OPEN);
    const pf_present_api *api = open_fn ? open_fn(&pf_api) : NULL;
    if (!api || api->version != PF_API_VERSION) {
        snprintf(load_error, sizeof(load_error), "%.4000s: not of this version of Weft", path);
        dlclose(handle);
        return NULL;
    }
    return api;
}

/* The directory of the file this code is in. */
static size_t own_dir(char *out, size_t size)
{
    Dl_info info;
    struct link_map *map = NULL;
    out[0] = 0;
    if (!dladdr1((void *)(uintptr_t)&own_dir, &info, (void **)&map, RTLD_DL_LINKMAP))
        return 0;
    if (map && map->l_name && map->l_name[0]) {
        snprintf(out, size, "%s", info.dli_fname);
    } else { /* in the program itself: its name as given to exec may be relative */
        ssize_t n = readlink("/proc/self/exe", out, size - 1);
        out[n > 0 ? n : 0] = 0;
    }
    char *slash = strrchr(out, '/');
    return slash ? (size_t)(slash - out) : 0;
}

static const pf_present_api *open_present(void)
{
    /* acquire: partner is the release below */
    const pf_present_api *api = atomic_load_explicit(&present, memory_order_acquire);
    if (api)
        return api;
    pf_lock_acquire(&load_lock);
    api = atomic_load_explicit(&present, memory_order_relaxed);
    if (!api) {
        char dir[PATH_MAX];
        const char *env = secure_getenv("WEFT_LIBDIR");
        load_error[0] = 0;
        size_t n = own_dir(dir, sizeof(dir));
        api = try_open_locked(dir, n);
        if (!api)
            api = try_open_locked(WEFT_LIBDIR_DEFAULT, strlen(WEFT_LIBDIR_DEFAULT));
        if (!api && env)
            api = try_open_locked(env, strlen(env));
        atomic_store_explicit(&present, api, memory_order_release);
    }
    pf_lock_release(&load_lock);
    return api;
}

/* ---- running a call where it may run ---- */

typedef struct call {
    int (*fn)(struct call *);
    const char *text; /* address, profile name, method */
    const char *target;
    const void *body;
    size_t n;
    weft_reply_fn reply;
    void *arg;
    int fd, number;
    int result;
} call;

static void run(void *arg)
{
    call *c = arg;
    uint8_t before = pf_tls.quiet;
    pf_tls.quiet |= 1;
    c->result = c->fn(c);
    pf_tls.quiet = (uint8_t)((pf_tls.quiet & ~1u) | (before & 1u));
}

static int dispatch(call *c)
{
    int r = weft_blocking(run, c); /* on a plain thread it runs in place */
    return r < 0 ? r : c->result;
}

/* ---- the public calls ---- */

static int do_serve(call *c)
{
    const pf_present_api *api = open_present();
    return api ? api->serve(c->text) : -ELIBACC;
}

int weft_pprof_serve(const char *addr)
{
    if (!addr)
        return -EINVAL;
    call c = {.fn = do_serve, .text = addr};
    return dispatch(&c);
}

static int do_stop(call *c)
{
    (void)c;
    const pf_present_api *api = atomic_load_explicit(&present, memory_order_acquire);
    if (!api)
        return -ENOENT;
    int r = api->stop();
    if (!r)
        env_addr[0] = 0;
    return r;
}

int weft_pprof_stop(void)
{
    call c = {.fn = do_stop};
    return dispatch(&c);
}

static int do_handle(call *c)
{
    const pf_present_api *api = open_present();
    return api ? api->handle(c->text, c->target, c->body, c->n, c->reply, c->arg) : -ELIBACC;
}

int weft_pprof_handle(const char *method, const char *target, const void *body, size_t n,
                      weft_reply_fn reply, void *arg)
{
    if (!method || !target || !reply || (n && !body))
        return -EINVAL;
    call c = {.fn = do_handle, .text = method, .target = target, .body = body, .n = n};
    c.reply = reply;
    c.arg = arg;
    return dispatch(&c);
}

static int do_cpu_start(call *c)
{
    if (!open_present()) /* now, not when the samples are there and cannot be written */
        return -ELIBACC;
    pf_lock_acquire(&cpu_lock);
    int r = pf_cpu_start(c->number);
    if (!r) {
        cpu_mine = true;
        cpu_fd = c->fd;
    }
    pf_lock_release(&cpu_lock);
    return r;
}

int weft_pprof_cpu_start(int fd, int hz)
{
    if (fd < 0 || hz < 0 || hz > 1000)
        return -EINVAL;
    call c = {.fn = do_cpu_start, .fd = fd, .number = hz};
    return dispatch(&c);
}

static int do_cpu_stop(call *c)
{
    (void)c;
    pf_raw raw;
    pf_lock_acquire(&cpu_lock);
    int fd = cpu_fd, r = cpu_mine ? pf_cpu_stop(&raw) : -ENOENT;
    cpu_mine = false;
    pf_lock_release(&cpu_lock);
    if (r)
        return r;
    r = open_present()->write(&raw, fd, 0);
    pf_raw_free(&raw);
    return r;
}

int weft_pprof_cpu_stop(void)
{
    call c = {.fn = do_cpu_stop};
    return dispatch(&c);
}

static int do_write(call *c)
{
    const pf_source *source = NULL;
    for (size_t i = 0; sources[i]; i++)
        if (!strcmp(sources[i]->name, c->text))
            source = sources[i];
    if (!source || !source->snapshot)
        return -ENOENT;
    const pf_present_api *api = open_present();
    if (!api)
        return -ELIBACC;
    pf_raw raw;
    int r = source->snapshot(&raw);
    if (r)
        return r;
    r = api->write(&raw, c->fd, c->number);
    pf_raw_free(&raw);
    return r;
}

int weft_pprof_write(const char *profile, int fd, int debug)
{
    if (!profile || fd < 0 || debug < 0)
        return -EINVAL;
    call c = {.fn = do_write, .text = profile, .fd = fd, .number = debug};
    return dispatch(&c);
}

/* ---- WEFT_PPROF ---- */

static void env_failed(const char *addr, int r)
{
    if (r == -ELIBACC)
        pf_warn("WEFT_PPROF=%s: %s", addr, load_error[0] ? load_error : strerror(ELIBACC));
    else
        pf_warn("WEFT_PPROF=%s: %s", addr, strerror(-r));
}

int pf_serve_env(const char *addr)
{
    int r = weft_pprof_serve(addr);
    if (r < 0 && r != -EALREADY)
        env_failed(addr, r);
    if (r >= 0)
        snprintf(env_addr, sizeof(env_addr), "%s", addr);
    return r;
}

/* In a forked child: the parent may be about to end (daemon), so its address is tried for a while;
 * then it is the parent's, and the child stays without. */
static void *serve_again(void *arg)
{
    char *addr = arg;
    struct timespec pause = {0, RETRY_MS * 1000000l};
    int r = -EADDRINUSE;
    for (int ms = 0; ms < RETRY_FOR_MS && r == -EADDRINUSE; ms += RETRY_MS) {
        if ((r = weft_pprof_serve(addr)) == -EADDRINUSE)
            nanosleep(&pause, NULL);
    }
    if (r < 0 && r != -EADDRINUSE && r != -EALREADY)
        env_failed(addr, r);
    return NULL;
}

void pf_load_fork(pf_fork_phase phase)
{
    if (phase != PF_FORK_CHILD)
        return;
    atomic_store_explicit(&load_lock, 0, memory_order_relaxed);
    atomic_store_explicit(&cpu_lock, 0, memory_order_relaxed);
    cpu_mine = false;
    const pf_present_api *api = atomic_load_explicit(&present, memory_order_relaxed);
    if (!api)
        return;
    api->after_fork_child();
    if (env_addr[0])
        pf_thread_spawn(serve_again, env_addr, NULL);
}
