/* Coroutine records: slabs, free lists, ids, spawning.
 *
 * Invariants:
 *  1. Records are type-stable: a slab is never unmapped, so a stale rt_g pointer reads some G.
 *  2. id is 0 exactly while the record is FREE; ids are unique for the life of the process, handed
 *     to Ps in blocks of 64 (one shared counter would cost a cache miss per spawn).
 *  3. A record has no stack before it first runs: a million queued spawns cost records only.
 *
 * Locks: slab lock, rank 4.
 */
#include "rt.h"
#include "san.h"
#include "tls.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { SLAB_GS = 128, SLABS_MAX = 1 << 17, GFREE_MAX = 64, ID_BLOCK = 64 };

_Static_assert(sizeof(rt_g) <= 400, "a parked coroutine's record stays within 400 bytes");

static rt_lock slab_lock;
static rt_g *slabs[SLABS_MAX];     /* filled once, under slab_lock */
static _Atomic(uint32_t) nrecords; /* records in slabs; release, partner: rt_g_count */
static rt_g *free_gs;              /* slab_lock; linked by link */
static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;

rt_g *rt_g_at(uint32_t i)
{
    return &slabs[i / SLAB_GS][i % SLAB_GS];
}

uint32_t rt_g_count(void)
{
    return load_acquire(&nrecords); /* partner: the release in slab_new_locked */
}

static bool slab_new_locked(void)
{
    uint32_t n = load_relaxed(&nrecords);
    if (n / SLAB_GS == SLABS_MAX)
        return false;
    rt_g *slab = rt_os_alloc(SLAB_GS * sizeof *slab);
    if (!slab)
        return false;
    slabs[n / SLAB_GS] = slab;
    for (uint32_t i = SLAB_GS; i-- > 0;) {
        slab[i].link = free_gs;
        free_gs = &slab[i];
    }
    store_release(&nrecords, n + SLAB_GS);
    return true;
}

/* A free record, refilling p's list by half its limit. */
static rt_g *record_get(rt_p *p)
{
    if (p && p->gfree) {
        rt_g *g = p->gfree;
        p->gfree = g->link;
        p->ngfree--;
        return g;
    }
    rt_lock_acquire(&slab_lock);
    rt_g *g = NULL;
    if (free_gs || slab_new_locked()) {
        g = free_gs;
        free_gs = g->link;
        for (uint32_t i = 0; p && i < GFREE_MAX / 2 && free_gs; i++) {
            rt_g *more = free_gs;
            free_gs = more->link;
            more->link = p->gfree;
            p->gfree = more;
            p->ngfree++;
        }
    }
    rt_lock_release(&slab_lock);
    return g;
}

static void record_put(rt_p *p, rt_g *g)
{
    if (p) {
        g->link = p->gfree;
        p->gfree = g;
        if (++p->ngfree < GFREE_MAX)
            return;
        rt_lock_acquire(&slab_lock);
        while (p->ngfree > GFREE_MAX / 2) {
            rt_g *spill = p->gfree;
            p->gfree = spill->link;
            p->ngfree--;
            spill->link = free_gs;
            free_gs = spill;
        }
        rt_lock_release(&slab_lock);
        return;
    }
    rt_lock_acquire(&slab_lock);
    g->link = free_gs;
    free_gs = g;
    rt_lock_release(&slab_lock);
}

static uint64_t id_new(rt_p *p)
{
    if (!p)
        return atomic_fetch_add_explicit(&rt_sched.next_id, 1, memory_order_relaxed) + 1;
    if (p->id_next == p->id_end) {
        p->id_next =
            atomic_fetch_add_explicit(&rt_sched.next_id, ID_BLOCK, memory_order_relaxed) + 1;
        p->id_end = p->id_next + ID_BLOCK;
    }
    return p->id_next++;
}

static void bump(_Atomic(uint64_t) *own, _Atomic(uint64_t) *shared)
{
    if (own)
        store_relaxed(own, load_relaxed(own) + 1);
    else
        atomic_fetch_add_explicit(shared, 1, memory_order_relaxed);
}

rt_g *rt_g_new(rt_p *p, void (*fn)(void *), void *arg)
{
    rt_g *g = record_get(p);
    if (!g)
        return NULL;
    store_relaxed(&g->kind, RT_KIND_CORO);
    g->flags = 0;
    g->why = WEFT_WAIT_NONE;
    g->started = 0;
    g->fn = fn;
    g->arg = arg;
    g->sp = NULL;
    g->wait_obj = NULL;
    g->labels = NULL;
    g->name[0] = 0;
    g->saved_errno = 0;
    g->stack = (rt_stack){0};
    store_relaxed(&g->m, NULL);
    store_relaxed(&g->tid, 0);
    store_relaxed(&g->since, 0);
    store_relaxed(&g->timer.p, NULL);
    g->epoch = load_relaxed(&rt_sched.epoch);
    store_relaxed(&g->state, RT_RUNNABLE);
    store_release(&g->id, id_new(p)); /* partner: acquire of id in inspect.c */
    bump(p ? &p->nspawn : NULL, &rt_sched.foreign_spawns);
    return g;
}

void rt_g_free(rt_p *p, rt_g *g)
{
    store_relaxed(&g->id, 0);
    store_release(&g->state, RT_FREE); /* partner: acquire of state in inspect.c */
    bump(p ? &p->nexit : NULL, &rt_sched.foreign_exits);
    record_put(p, g);
}

size_t rt_g_live(void)
{
    uint64_t born = load_relaxed(&rt_sched.foreign_spawns);
    uint64_t died = load_relaxed(&rt_sched.foreign_exits);
    uint32_t n = load_acquire(&rt_sched.nalloc); /* partner: proc.c's grow */
    for (uint32_t i = 0; i < n; i++) {
        died += load_relaxed(&rt_sched.allp[i]->nexit);
        born += load_relaxed(&rt_sched.allp[i]->nspawn);
    }
    return born > died ? born - died : 0;
}

static void thread_gone(void *arg)
{
    rt_g *g = arg;
    rt_thread_g_set(NULL); /* a later destructor that waits gets a record of its own */
    store_relaxed(&g->state, RT_FREE);
    record_put(NULL, g);
}

static void thread_key_make(void)
{
    if (pthread_key_create(&thread_key, thread_gone))
        rt_throw("g: pthread_key_create failed");
}

rt_g *rt_g_thread(void)
{
    rt_g *g = rt_thread_g();
    if (g)
        return g;
    pthread_once(&thread_once, thread_key_make);
    g = record_get(NULL);
    if (!g || pthread_setspecific(thread_key, g))
        return NULL;
    store_relaxed(&g->kind, RT_KIND_THREAD);
    g->flags = 0;
    g->labels = NULL;
    store_relaxed(&g->id, 0);
    store_relaxed(&g->state, RT_RUNNING);
    store_relaxed(&g->timer.p, NULL);
    store_relaxed(&g->tid, (int32_t)syscall(SYS_gettid));
    rt_thread_g_set(g);
    const weft_hooks *hooks = rt_hook(WEFT_HOOK_THREAD);
    if (hooks && !rt_pool_g()) {
        uintptr_t lo, hi;
        rt_thread_bounds(&lo, &hi);
        hooks->thread_start(WEFT_THREAD_PLAIN, lo, hi);
    }
    return g;
}

int rt_spawn(const weft_opts *opts, void (*fn)(void *), void *arg, uintptr_t pc, rt_g **out)
{
    if (!fn || (opts && (opts->flags & ~WEFT_PINNED)))
        return -EINVAL;
    int cls = rt_stack_class(opts ? opts->stack_bytes : 0);
    if (cls < 0)
        return cls;
    rt_m *m = rt_m_self();
    rt_p *p = m ? m->p : NULL;
    rt_g *g = rt_g_new(p, fn, arg);
    if (!g)
        return -ENOMEM;
    g->stack_class = (uint32_t)cls;
    g->creator_pc = pc;
    g->creator_id = weft_self();
    if (opts) {
        g->flags = (uint8_t)opts->flags;
        if (opts->name) {
            strncpy(g->name, opts->name, sizeof g->name - 1);
            g->name[sizeof g->name - 1] = 0;
        }
    }
    const weft_hooks *hooks = rt_hook(WEFT_HOOK_LABEL);
    if (hooks) /* a plain thread's labels are the profiler's own affair: it passes NULL */
        g->labels = hooks->label_inherit(m && m->cur ? m->cur->labels : NULL);
    *out = g;
    return 0;
}
