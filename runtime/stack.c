/* Stacks: size classes, groups of slots in one mapping each, guards, pools, trimming.
 *
 * A slot is a 64 KiB guard below `usable` bytes that are touched lazily. Class c has 64 KiB << c
 * usable. Slots are carved from a group (one mmap, never unmapped); a freed slot goes to the P's
 * hot cache, then to the class's pool, LIFO, so that what is reused is in the cache.
 *
 * Invariants:
 *  1. A slot is in one place: carved and in use, in one P's cache, or in one pool.
 *  2. pool->cold counts entries from the bottom of a pool whose pages have been given back.
 *  3. Groups are never huge pages (R34): one touched page must stay one page.
 *
 * Locks: class lock, rank 4; no system call that touches many pages is made under it.
 *
 * Guards: MADV_GUARD_INSTALL (Linux 6.13) costs no mapping, 0.33 us each; a guard survives
 * MADV_DONTNEED and fork. Where the kernel lacks it, mprotect, at two mappings per slot, until the
 * process is near vm.max_map_count; the rest are unguarded, counted, and said once.
 *
 * Rejected: malloc'd stacks (no guard), 4 KiB guards (a 16 KiB local array jumps over one), one
 * mapping per stack (dies at 32 700 of them with default limits).
 */
#include "san.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif

enum {
    GUARD_BYTES = 64 << 10,
    CLASS0_SHIFT = 16,
    CLASSES = 15, /* 64 KiB .. 1 GiB */
    GROUP_BYTES_MAX = 32 << 20,
    TRIM_BATCH = 1024,
};

struct pool {
    rt_lock lock;
    uintptr_t next, end;            /* not yet carved part of the newest group */
    uintptr_t *free;                /* lo of free slots, LIFO */
    uint32_t nfree, cap, cold, low; /* low: fewest free since the last trim */
};
static struct pool pools[CLASSES];
static _Atomic(uint32_t) guard_method; /* 0 unknown, 1 madvise, 2 mprotect */
static _Atomic(uint32_t) mprotect_guards, unguarded;
static uint32_t mprotect_max;
static _Atomic(int) default_class = -1;

static size_t class_bytes(uint32_t cls)
{
    return (size_t)1 << (CLASS0_SHIFT + cls);
}

void *rt_os_alloc(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

void *rt_os_grow(void *old, size_t old_bytes, size_t new_bytes)
{
    if (!old)
        return rt_os_alloc(new_bytes);
    void *p = mremap(old, old_bytes, new_bytes, MREMAP_MAYMOVE);
    return p == MAP_FAILED ? NULL : p;
}

static int class_for(size_t bytes)
{
    for (int c = 0; c < CLASSES; c++)
        if (bytes <= class_bytes((uint32_t)c))
            return c;
    return -EINVAL;
}

/* WEFT_STACK=BYTES[K|M]; read once. */
static int class_default(void)
{
    int c = load_relaxed(&default_class);
    if (c >= 0)
        return c;
    c = 0;
    const char *env = getenv("WEFT_STACK");
    if (env && *env) {
        char *end;
        unsigned long long v = strtoull(env, &end, 10);
        if (*end == 'K' || *end == 'k')
            v <<= 10, end++;
        else if (*end == 'M' || *end == 'm')
            v <<= 20, end++;
        c = *end || v == 0 || *env == '-' ? -EINVAL : class_for((size_t)v);
        if (c < 0) {
            fprintf(stderr, "weft: WEFT_STACK=%s: not a size up to 1024M; using 64K\n", env);
            c = 0;
        }
    }
    store_relaxed(&default_class, c);
    return c;
}

int rt_stack_class(size_t bytes)
{
    return bytes ? class_for(bytes) : class_default();
}

static uint32_t max_map_count(void)
{
    char buf[32] = {0};
    int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, buf, sizeof buf - 1);
    if (fd >= 0)
        close(fd);
    return n > 0 ? (uint32_t)strtoul(buf, NULL, 10) : 65530;
}

/* WEFT_DEBUG=guard=must (fail without madvise guards) or guard=mprotect (test the other way). */
static uint32_t probe_guard(uintptr_t guard)
{
    const char *debug = getenv("WEFT_DEBUG");
    bool force = debug && strstr(debug, "guard=mprotect");
    uint32_t method = 2;
    if (!force && madvise((void *)guard, GUARD_BYTES, MADV_GUARD_INSTALL) == 0)
        method = 1;
    if (debug && strstr(debug, "guard=must") && method != 1)
        rt_throw("stack: WEFT_DEBUG=guard=must, and this kernel has no MADV_GUARD_INSTALL");
    mprotect_max = max_map_count() / 2 - 1000;
    store_release(&guard_method, method); /* partner: acquire in guard_install */
    return method;
}

static void guard_install(uintptr_t guard)
{
    uint32_t method = load_acquire(&guard_method);
    if (!method)
        method = probe_guard(guard);
    if (method == 1 && madvise((void *)guard, GUARD_BYTES, MADV_GUARD_INSTALL) == 0)
        return;
    if (atomic_fetch_add_explicit(&mprotect_guards, 1, memory_order_relaxed) < mprotect_max &&
        mprotect((void *)guard, GUARD_BYTES, PROT_NONE) == 0)
        return;
    if (atomic_fetch_add_explicit(&unguarded, 1, memory_order_relaxed) == 0) {
        static const char line[] = "weft: too many mappings for stack guards: further stacks have "
                                   "none (vm.max_map_count)\n";
        ssize_t ignored = write(2, line, sizeof line - 1);
        (void)ignored;
    }
}

static bool group_new_locked(struct pool *pool, uint32_t cls)
{
    size_t slot = class_bytes(cls) + GUARD_BYTES;
    size_t n = GROUP_BYTES_MAX / slot;
    size_t bytes = slot * (n ? n : 1);
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
    if (p == MAP_FAILED)
        return false;
    madvise(p, bytes, MADV_NOHUGEPAGE); /* fails only where there are none */
    pool->next = (uintptr_t)p;
    pool->end = (uintptr_t)p + bytes;
    return true;
}

int rt_stack_get(rt_p *p, uint32_t cls, rt_stack *out)
{
    size_t bytes = class_bytes(cls);
    out->cls = cls;
    if (cls == (uint32_t)class_default() && p && p->nstacks) {
        out->lo = p->stacks[--p->nstacks];
        out->hi = out->lo + bytes;
        return 0;
    }
    struct pool *pool = &pools[cls];
    bool fresh = false;
    rt_lock_acquire(&pool->lock);
    if (pool->nfree) {
        out->lo = pool->free[--pool->nfree];
        if (pool->cold > pool->nfree)
            pool->cold = pool->nfree;
        if (pool->low > pool->nfree)
            pool->low = pool->nfree;
    } else if (pool->next < pool->end || group_new_locked(pool, cls)) {
        out->lo = pool->next + GUARD_BYTES;
        pool->next += bytes + GUARD_BYTES;
        fresh = true;
    } else {
        rt_lock_release(&pool->lock);
        return -ENOMEM;
    }
    rt_lock_release(&pool->lock);
    out->hi = out->lo + bytes;
    if (fresh)
        guard_install(out->lo - GUARD_BYTES);
    return 0;
}

static void reserve_locked(struct pool *pool, uint32_t n)
{
    if (pool->nfree + n <= pool->cap)
        return;
    uint32_t cap = pool->cap ? 2 * pool->cap : 4096; /* n <= TRIM_BATCH < 4096 */
    uintptr_t *grown = rt_os_grow(pool->free, pool->cap * sizeof *grown, cap * sizeof *grown);
    if (!grown)
        rt_throw("stack: no memory for the list of free stacks");
    pool->free = grown;
    pool->cap = cap;
}

static void pool_put(struct pool *pool, const uintptr_t *los, uint32_t n)
{
    rt_lock_acquire(&pool->lock);
    reserve_locked(pool, n);
    memcpy(pool->free + pool->nfree, los, n * sizeof *los);
    pool->nfree += n;
    rt_lock_release(&pool->lock);
}

void rt_stack_put(rt_p *p, rt_stack *s)
{
    san_stack_clean(s->lo, s->hi);
    if (s->cls != (uint32_t)class_default() || !p) {
        pool_put(&pools[s->cls], &s->lo, 1);
        return;
    }
    if (p->nstacks == RT_STACK_CACHE) { /* keep the hot half, the top */
        pool_put(&pools[s->cls], p->stacks, RT_STACK_CACHE / 2);
        p->nstacks -= RT_STACK_CACHE / 2;
        memmove(p->stacks, p->stacks + RT_STACK_CACHE / 2, p->nstacks * sizeof p->stacks[0]);
    }
    p->stacks[p->nstacks++] = s->lo;
}

/* Gives back the pages of stacks that nobody has wanted since the last tick: those below the
 * lowest point the pool reached. Taken out of the pool meanwhile, so that nobody runs on one. */
static void trim_pool(struct pool *pool, uint32_t cls)
{
    static uintptr_t batch[TRIM_BATCH]; /* sysmon's */
    for (;;) {
        rt_lock_acquire(&pool->lock);
        uint32_t limit = pool->low < pool->nfree ? pool->low : pool->nfree;
        uint32_t n = limit > pool->cold ? limit - pool->cold : 0;
        if (n > TRIM_BATCH)
            n = TRIM_BATCH;
        if (!n) { /* nothing is cold; from here on learn how low the pool gets */
            pool->low = pool->nfree;
            rt_lock_release(&pool->lock);
            return;
        }
        memcpy(batch, pool->free + pool->cold, n * sizeof batch[0]);
        memmove(pool->free + pool->cold, pool->free + pool->cold + n,
                (pool->nfree - pool->cold - n) * sizeof batch[0]);
        pool->nfree -= n;
        pool->low -= n;
        rt_lock_release(&pool->lock);
        for (uint32_t i = 0; i < n; i++)
            madvise((void *)batch[i], class_bytes(cls), MADV_DONTNEED);
        rt_lock_acquire(&pool->lock); /* back at the bottom, cold */
        reserve_locked(pool, n);
        memmove(pool->free + n, pool->free, pool->nfree * sizeof batch[0]);
        memcpy(pool->free, batch, n * sizeof batch[0]);
        pool->nfree += n;
        pool->cold += n;
        pool->low += n;
        rt_lock_release(&pool->lock);
    }
}

void rt_stack_trim(void)
{
    for (uint32_t c = 0; c < CLASSES; c++)
        trim_pool(&pools[c], c);
}
