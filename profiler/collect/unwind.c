/* Stacks: the one function that finds callers, and its callers' shapes.
 *
 * The walker follows frame pointers inside the known bounds [lo,hi) of the stack it is on: a
 * coroutine's, a scheduler's, or a thread's registered one. It stands behind pf_unwind, so that
 * tables of .eh_frame rows can take its place without a caller noticing.
 *
 * Invariants:
 *  1. A load is made only inside [max(lo, sp), hi), both words of a frame record are checked (H14),
 *     and a step goes strictly upwards: the walk ends, and never touches a guard page.
 *  2. No lock, no allocation, no libc call, no memory but the caller's array: the handler's own
 *     frame stays under 512 bytes, because it may run on a coroutine's last kilobyte (H13).
 *  3. A null return address or a null frame pointer is the end: coroutine entries and thread starts
 *     have one (H22).
 *  4. Of a stack deeper than max the leaf half and the root half are kept with PF_TRUNCATED between
 *     (H41); after WALK_MAX frames the walk ends, and the last frame is PF_TRUNCATED.
 *
 * A leaf interrupted before its frame is made, or after it is gone, has its caller at the stack
 * pointer: the instruction bytes tell (H28). Only for interrupted contexts, where pc is about to
 * run; behind a return address the next function's prologue may stand.
 *
 * Rejected: probing each page with a system call instead of knowing bounds (0.1 us a page, and
 * seccomp may forbid it, H17); a SIGSEGV net around the loads (clashes with the program's, H18).
 */
#include "profiler/collect/pf.h"

enum { WALK_MAX = 8192 };

typedef struct walk {
    uintptr_t *pcs;
    int max, n;
    int half;  /* frames of the leaf half */
    int root;  /* next place of the root ring, when deep */
    bool deep; /* more than max frames were seen */
} walk;

static void walk_push(walk *w, uintptr_t pc)
{
    if (w->n < w->max) {
        w->pcs[w->n++] = pc;
        return;
    }
    if (!w->deep) {
        w->deep = true;
        w->half = w->max / 2;
        w->pcs[w->half] = PF_TRUNCATED;
        w->root = w->half + 1;
    }
    w->pcs[w->root] = pc;
    if (++w->root == w->max)
        w->root = w->half + 1;
}

static void reverse(uintptr_t *a, int n)
{
    for (int i = 0; i < n / 2; i++) {
        uintptr_t t = a[i];
        a[i] = a[n - 1 - i];
        a[n - 1 - i] = t;
    }
}

/* Brings the root ring into order, in place. */
static int walk_end(walk *w)
{
    if (w->deep) {
        uintptr_t *ring = w->pcs + w->half + 1;
        int n = w->max - w->half - 1, oldest = w->root - w->half - 1;
        reverse(ring, oldest);
        reverse(ring + oldest, n - oldest);
        reverse(ring, n);
    }
    return w->n;
}

static inline uintptr_t strip(uintptr_t pc) /* of its pointer authentication code (H26) */
{
#if defined(__aarch64__)
    register uintptr_t lr __asm__("x30") = pc;
    __asm__("hint 7" : "+r"(lr)); /* xpaclri; a no-op on cores without it */
    return lr;
#else
    return pc;
#endif
}

/* Pushes the callers of the frame whose record is at fp. */
static void walk_frames(walk *w, uintptr_t sp, uintptr_t fp, uintptr_t lo, uintptr_t hi)
{
    uintptr_t floor = sp > lo ? sp : lo;
    if (hi < 2 * sizeof(uintptr_t))
        return;
    for (int steps = 0; fp >= floor && fp <= hi - 2 * sizeof(uintptr_t); steps++) {
        if (fp % sizeof(uintptr_t))
            return;
        if (steps == WALK_MAX) {
            walk_push(w, PF_TRUNCATED);
            return;
        }
        uintptr_t next = ((const uintptr_t *)fp)[0];
        uintptr_t pc = strip(((const uintptr_t *)fp)[1]);
        if (pc < 4096)
            return;
        walk_push(w, pc);
        if (next <= fp)
            return;
        fp = next;
    }
}

/* Where the caller of an interrupted leaf without a frame of its own is kept: bytes above sp, or
 * -1 when the frame pointer chain is complete. */
static int leaf_offset(uintptr_t pc)
{
#if defined(__x86_64__)
    const unsigned char *at = (const unsigned char *)pc;
    uintptr_t left = 4096 - pc % 4096;  /* the next page need not be there */
    if (at[0] == 0xc3 || at[0] == 0x55) /* ret; push %rbp */
        return 0;
    if (left >= 2 && at[0] == 0xff && at[1] == 0x25) /* jmp *GOT: a PLT entry or a tail call */
        return 0;
    if (left >= 5 && at[0] == 0xf3 && at[1] == 0x0f && at[2] == 0x1e && at[3] == 0xfa &&
        at[4] == 0x55) /* endbr64; push %rbp */
        return 0;
    if (left >= 3 && pc % 4096 && at[0] == 0x48 && at[1] == 0x89 && at[2] == 0xe5 &&
        at[-1] == 0x55) /* push %rbp; here: mov %rsp, %rbp */
        return sizeof(uintptr_t);
    return -1;
#else
    (void)pc; /* the caller is in the link register, which only the next frame's record holds */
    return -1;
#endif
}

static void walk_leaf(walk *w, uintptr_t pc, uintptr_t sp, uintptr_t lo, uintptr_t hi)
{
    int off = leaf_offset(pc);
    if (off < 0 || sp < lo || hi < sizeof(uintptr_t) || sp % sizeof(uintptr_t))
        return;
    uintptr_t at = sp + (uintptr_t)off;
    if (at > hi - sizeof(uintptr_t))
        return;
    uintptr_t ret = *(const uintptr_t *)at;
    if (ret >= 4096)
        walk_push(w, ret);
}

int pf_unwind(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t lo, uintptr_t hi, uintptr_t *pcs,
              int max)
{
    walk w = {.pcs = pcs, .max = max};
    walk_push(&w, pc);
    walk_frames(&w, sp, fp, lo, hi);
    return walk_end(&w);
}

/* The bounds of the stack that sp is on; false when they are not known. */
static bool find_bounds(uintptr_t sp, weft_peek *peek, uintptr_t *lo, uintptr_t *hi)
{
    weft_hook_peek(sp, peek);
    *lo = peek->lo;
    *hi = peek->hi;
    if (!*hi) {
        *lo = pf_tls.lo;
        *hi = pf_tls.hi;
    }
    if (peek->kind == WEFT_ON_POOL && pf_tls.base > sp && pf_tls.base < *hi)
        *hi = pf_tls.base; /* thread start frames would stand in the middle of the joined stack */
    return sp >= *lo && sp < *hi;
}

static void walk_join(walk *w, const weft_peek *peek)
{
    if (peek->kind != WEFT_ON_POOL || !peek->join.sp)
        return;
    walk_push(w, peek->join.pc);
    walk_frames(w, peek->join.sp, peek->join.fp, peek->join.lo, peek->join.hi);
}

int pf_unwind_context(uintptr_t pc, uintptr_t sp, uintptr_t fp, uintptr_t *pcs, int max,
                      weft_peek *peek)
{
    walk w = {.pcs = pcs, .max = max};
    uintptr_t lo, hi;
    walk_push(&w, pc);
    if (!find_bounds(sp, peek, &lo, &hi)) {
        walk_push(&w, PF_NO_STACK);
        return w.n;
    }
    walk_leaf(&w, pc, sp, lo, hi);
    walk_frames(&w, sp, fp, lo, hi);
    if (w.n ==
        1) /* no stack is one frame deep: the chain is broken at the leaf, or it is a switch */
        walk_push(&w, peek->kind == WEFT_ON_SCHED ? PF_SCHEDULER : PF_NO_STACK);
    walk_join(&w, peek);
    return walk_end(&w);
}

int pf_unwind_here(const void *frame, uintptr_t *pcs, int max)
{
    const uintptr_t *record = frame;
    walk w = {.pcs = pcs, .max = max};
    weft_peek peek;
    uintptr_t lo, hi;
    walk_push(&w, strip(record[1]));
    if (!find_bounds((uintptr_t)frame, &peek, &lo, &hi)) {
        walk_push(&w, PF_NO_STACK);
        return w.n;
    }
    walk_frames(&w, (uintptr_t)(record + 2), record[0], lo, hi);
    walk_join(&w, &peek);
    return walk_end(&w);
}
