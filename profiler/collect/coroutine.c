/* The goroutine profile: every coroutine's stack, state, wait reason, age and creator.
 *
 * The runtime's iterator holds each coroutine that does not run while it is visited; its stack is
 * walked from the saved context inside its own bounds. A running one cannot be read from outside:
 * its thread is signalled, walks itself in the handler, and says whose stack it saw. Between the
 * visit and the signal the coroutine may have moved on; then it is looked for again.
 *
 * Invariants:
 *  1. The world never stops: at most one batch of the iterator's is held, for the time of its
 *     walks.
 *  2. A request slot is never freed, and a handler writes into it only after it has moved the state
 *     from ASKED of the same generation to WRITING; a late signal finds another state and leaves.
 *  3. The asker waits at most WAIT_NS for each attempt; a coroutine that could not be walked in
 *     time is in the profile all the same, with the frame PF_RUNNING_ELSEWHERE.
 *  4. Threads inside blocking calls and system calls are not signalled: that would break other
 *     people's waits with EINTR (H7). The coroutine of a blocking call shows its own parked stack;
 *     one in weft_syscall_enter is read through process_vm_readv, because it may leave while it is
 *     read, and its stack may be unmapped.
 *
 * Locks: ask_lock, rank 1, held by the asker over its whole wait; never in the handler.
 *
 * Rejected: signalling from inside the visit: 31 others would be held for as long as the thread
 * takes to answer.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "profiler/collect/threads.h"
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IDLE, ASKED, WRITING, DONE, PHASE_BITS = 2, PHASE_MASK = 3 };
enum { REQUESTS = 32, ROUNDS = 3 };
#define WAIT_NS 10000000

typedef struct request {
    _Atomic(uint32_t) state; /* generation << 2 | phase; futex */
    int32_t npcs;
    uint64_t id; /* the coroutine the handler saw, 0 none */
    weft_labels *labels;
    uintptr_t pcs[PF_DEPTH];
} request;

static request requests[REQUESTS];
static pf_lock ask_lock;

/* A coroutine that ran when it was visited. */
typedef struct pending {
    struct pending *next;
    pf_coro *coro;
    int32_t tid;
    bool done, found;
} pending;

typedef struct snapshot {
    pf_raw *raw;
    pending *running;
    int64_t now_ns;
    int error;
} snapshot;

/* ---- the handler's side ---- */

void pf_coroutine_signal(uintptr_t value, uintptr_t pc, uintptr_t sp, uintptr_t fp)
{
    request *r = &requests[value % REQUESTS];
    uint32_t generation = (uint32_t)(value / REQUESTS) << PHASE_BITS;
    uint32_t asked = generation | ASKED;
    /* acquire: partner is the asker's release of ASKED */
    if (!atomic_compare_exchange_strong_explicit(&r->state, &asked, generation | WRITING,
                                                 memory_order_acquire, memory_order_relaxed))
        return;
    weft_peek peek;
    r->npcs = pf_unwind_context(pc, sp, fp, r->pcs, PF_DEPTH, &peek);
    r->id = peek.kind == WEFT_ON_CORO ? peek.id : 0;
    r->labels = pf_labels_ref(r->id ? peek.labels : NULL);
    /* release: partner is the asker's acquire of DONE */
    atomic_store_explicit(&r->state, generation | DONE, memory_order_release);
    pf_futex_wake(&r->state, 1);
}

/* ---- asking a thread ---- */

/* A slot that no handler can be writing, with a new generation, published as ASKED. */
static request *open_request_locked(uintptr_t *value)
{
    for (int i = 0; i < REQUESTS; i++) {
        request *r = &requests[i];
        uint32_t state = atomic_load_explicit(&r->state, memory_order_acquire);
        if ((state & PHASE_MASK) == WRITING)
            continue; /* given up on; its handler is still on the way */
        if ((state & PHASE_MASK) == DONE)
            pf_labels_unref(r->labels);
        uint32_t generation = (state >> PHASE_BITS) + 1;
        if (generation >= UINT32_MAX >> (PHASE_BITS + 5))
            generation = 1;
        r->labels = NULL;
        /* release: partner is the handler's acquire */
        atomic_store_explicit(&r->state, generation << PHASE_BITS | ASKED, memory_order_release);
        *value = (uintptr_t)generation * REQUESTS + (uintptr_t)i;
        return r;
    }
    return NULL;
}

static bool send(int32_t tid, uintptr_t value)
{
    siginfo_t si;
    memset(&si, 0, sizeof(si));
    si.si_signo = SIGPROF;
    si.si_code = SI_QUEUE;
    si.si_pid = getpid();
    si.si_uid = getuid();
    si.si_value.sival_ptr = (void *)value;
    return pf_syscall4(SYS_rt_tgsigqueueinfo, si.si_pid, tid, SIGPROF, (long)&si) == 0;
}

/* Waits for an answer until WAIT_NS have passed; false: it is withdrawn. */
static bool await(request *r)
{
    int64_t end = weft_now() + WAIT_NS;
    for (;;) {
        uint32_t state = atomic_load_explicit(&r->state, memory_order_acquire);
        if ((state & PHASE_MASK) == DONE)
            return true;
        int64_t left = end - weft_now();
        if (left > 0) {
            pf_futex_wait(&r->state, state, left);
            continue;
        }
        uint32_t idle = (state & ~(uint32_t)PHASE_MASK) | IDLE;
        if ((state & PHASE_MASK) != ASKED ||
            atomic_compare_exchange_strong_explicit(&r->state, &state, idle, memory_order_acquire,
                                                    memory_order_acquire))
            return (state & PHASE_MASK) == DONE;
    }
}

/* ---- samples ---- */

static void add(snapshot *s, pf_coro *coro, const uintptr_t *pcs, int n, bool leaf_exact,
                weft_labels *labels)
{
    pf_sample *sample = pf_raw_add(s->raw, pcs, (uint32_t)n, leaf_exact, labels);
    if (!sample) {
        s->error = -ENOMEM;
        return;
    }
    sample->values[0] = 1;
    sample->coro = coro;
}

static bool read_pair(uintptr_t at, uintptr_t pair[2])
{
    struct iovec to = {pair, 2 * sizeof(*pair)}, from = {(void *)at, 2 * sizeof(*pair)};
    return pf_syscall6(SYS_process_vm_readv, getpid(), (long)&to, 1, (long)&from, 1, 0) ==
           (long)sizeof(uintptr_t) * 2;
}

/* The stack of a coroutine in a system call: it is not held, so each load may find anything. */
static int walk_unheld(const weft_coro *c, uintptr_t *pcs)
{
    int n = 0;
    uintptr_t fp = c->fp, pair[2];
    pcs[n++] = c->pc;
    while (n < PF_DEPTH && fp >= c->sp && fp >= c->lo && fp % sizeof(fp) == 0 &&
           fp + sizeof(pair) <= c->hi && read_pair(fp, pair) && pair[1] >= 4096) {
        pcs[n++] = pair[1];
        if (pair[0] <= fp)
            break;
        fp = pair[0];
    }
    return n;
}

static void add_standing(snapshot *s, const weft_coro *c, pf_coro *coro)
{
    uintptr_t pcs[PF_DEPTH];
    if (!c->sp) {
        uintptr_t entry = c->fn;
        add(s, coro, &entry, 1, true, c->labels);
        return;
    }
    int n = c->state == WEFT_CORO_SYSCALL
                ? walk_unheld(c, pcs)
                : pf_unwind(c->pc, c->sp, c->fp, c->lo, c->hi, pcs, PF_DEPTH);
    add(s, coro, pcs, n, false, c->labels);
}

static void describe(const weft_coro *c, pf_coro *out, int64_t now_ns)
{
    out->id = c->id;
    out->creator_id = c->creator_id;
    out->fn = c->fn;
    out->creator_pc = c->creator_pc;
    strncpy(out->name, c->name, sizeof(out->name) - 1);
    out->state = c->state;
    out->reason = c->reason;
    out->pinned = c->pinned;
    out->age_ns = 0;
    if (c->since_ns && (c->state == WEFT_CORO_WAITING || c->state == WEFT_CORO_SYSCALL) &&
        now_ns > c->since_ns)
        out->age_ns = now_ns - c->since_ns;
}

static int first_visit(const weft_coro *c, void *arg)
{
    snapshot *s = arg;
    pf_coro *coro = pf_raw_alloc(s->raw, sizeof(*coro));
    pending *p = NULL;
    if (!coro)
        return -ENOMEM;
    describe(c, coro, s->now_ns);
    if (c->state != WEFT_CORO_RUNNING) {
        add_standing(s, c, coro);
        return s->error;
    }
    if (!(p = pf_raw_alloc(s->raw, sizeof(*p))))
        return -ENOMEM;
    *p = (pending){.next = s->running, .coro = coro, .tid = c->tid, .found = true};
    s->running = p;
    return 0;
}

/* Looks only for those whose thread did not have them any more. */
static int next_visit(const weft_coro *c, void *arg)
{
    snapshot *s = arg;
    for (pending *p = s->running; p; p = p->next) {
        if (p->done || p->coro->id != c->id)
            continue;
        p->found = true;
        p->tid = c->tid;
        if (c->state == WEFT_CORO_RUNNING)
            return 0;
        describe(c, p->coro, s->now_ns);
        add_standing(s, c, p->coro);
        p->done = true;
        return s->error;
    }
    return 0;
}

static void ask_locked(snapshot *s, pending *p)
{
    uintptr_t value;
    request *r = p->tid > 0 ? open_request_locked(&value) : NULL;
    if (!r)
        return;
    if (!send(p->tid, value)) { /* the thread is gone: no handler will come */
        atomic_fetch_and_explicit(&r->state, ~(uint32_t)PHASE_MASK, memory_order_relaxed);
        return;
    }
    if (!await(r))
        return;
    if (r->id == p->coro->id) {
        add(s, p->coro, r->pcs, r->npcs, true, r->labels);
        p->done = true;
    }
}

/* The running ones. A coroutine that is nowhere to be found has ended meanwhile: it is left out. */
static int add_running(snapshot *s)
{
    int r = 0;
    bool can_ask = s->running && pf_signal_ready() == 0;
    for (int round = 0; round < ROUNDS && can_ask && !r && !s->error; round++) {
        bool open = false;
        pf_lock_acquire(&ask_lock);
        for (pending *p = s->running; p; p = p->next)
            if (!p->done && p->found)
                ask_locked(s, p);
        pf_lock_release(&ask_lock);
        for (pending *p = s->running; p; p = p->next) {
            open |= !p->done;
            p->found = p->done;
        }
        if (!open)
            break;
        r = weft_hook_coros(next_visit, s);
    }
    static const uintptr_t elsewhere = PF_RUNNING_ELSEWHERE;
    for (pending *p = s->running; p && !r && !s->error; p = p->next)
        if (!p->done && p->found)
            add(s, p->coro, &elsewhere, 1, false, NULL);
    return r ? r : s->error;
}

static int64_t count_coros(void)
{
    return (int64_t)weft_hook_coro_count();
}

static int take(pf_raw *raw)
{
    int r = pf_raw_init(raw, &pf_coroutine_source);
    if (r)
        return r;
    snapshot s = {.raw = raw, .now_ns = weft_now()};
    r = weft_hook_coros(first_visit, &s);
    if (!r)
        r = s.error;
    if (!r)
        r = add_running(&s);
    if (!r)
        r = pf_raw_modules(raw);
    raw->count = (int64_t)raw->nsamples;
    if (r)
        pf_raw_free(raw);
    return r;
}

void pf_coroutine_fork(pf_fork_phase phase)
{
    if (phase != PF_FORK_CHILD)
        return;
    atomic_store_explicit(&ask_lock, 0, memory_order_relaxed);
    for (int i = 0; i < REQUESTS; i++)
        atomic_fetch_and_explicit(&requests[i].state, ~(uint32_t)PHASE_MASK, memory_order_relaxed);
}

const pf_source pf_coroutine_source = {
    .name = "goroutine",
    .help = "Stack traces of all current coroutines. debug=2 prints each with its state.",
    .ntypes = 1,
    .types = {{"goroutine", "count"}},
    .period_type = {"goroutine", "count"},
    .snapshot = take,
    .count = count_coros,
};
