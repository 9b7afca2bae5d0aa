/* The walker on made-up stacks, where each load can be checked, and on real ones. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>
#include <sys/mman.h>

enum { WORDS = 1 << 16 };
static uintptr_t fake[WORDS];

/* A chain of n frames of two words, leaf first; frame i returns to 0x100000 + i + 1. */
static uintptr_t make_chain(int n)
{
    for (int i = 0; i < n; i++) {
        fake[2 * i] = i + 1 < n ? (uintptr_t)&fake[2 * (i + 1)] : 0;
        fake[2 * i + 1] = 0x100001 + (uintptr_t)i;
    }
    return (uintptr_t)fake;
}

static int walk(uintptr_t fp, uintptr_t *pcs, int max)
{
    return pf_unwind(0x100000, (uintptr_t)fake, fp, (uintptr_t)fake, (uintptr_t)(fake + WORDS), pcs,
                     max);
}

Test(unwind, a_chain_is_followed_to_its_end)
{
    uintptr_t pcs[PF_DEPTH];
    int n = walk(make_chain(10), pcs, PF_DEPTH);
    cr_assert_eq(n, 11);
    for (int i = 0; i < n; i++)
        cr_assert_eq(pcs[i], 0x100000 + i);
}

/* Both halves, and the marker between, for every depth around the limit. */
Test(unwind, deep_stacks_keep_leaf_and_root_halves)
{
    uintptr_t pcs[PF_DEPTH];
    static const int limits[] = {4, 5, 16, 127, 128};
    for (size_t k = 0; k < sizeof(limits) / sizeof(*limits); k++)
        for (int frames = 1; frames < 700; frames++) {
            int max = limits[k], n = walk(make_chain(frames - 1), pcs, max);
            if (frames == 1) /* a chain of none */
                continue;
            if (frames <= max) {
                cr_assert_eq(n, frames);
                continue;
            }
            cr_assert_eq(n, max);
            int half = max / 2;
            for (int i = 0; i < max; i++) {
                uintptr_t want = i < half    ? 0x100000 + (uintptr_t)i
                                 : i == half ? PF_TRUNCATED
                                             : 0x100000 + (uintptr_t)(frames - max + i);
                cr_assert_eq(pcs[i], want, "frames %d max %d place %d", frames, max, i);
            }
        }
}

Test(unwind, an_endless_stack_ends)
{
    uintptr_t pcs[PF_DEPTH];
    int n = walk(make_chain(WORDS / 2), pcs, PF_DEPTH);
    cr_assert_eq(n, PF_DEPTH);
    cr_assert_eq(pcs[PF_DEPTH - 1], PF_TRUNCATED); /* the root was not reached */
}

Test(unwind, bad_frame_pointers_end_the_walk)
{
    uintptr_t pcs[PF_DEPTH];
    uintptr_t base = make_chain(10);
    fake[4] = base; /* frame 2 points down */
    cr_assert_eq(walk(base, pcs, PF_DEPTH), 4);
    make_chain(10);
    fake[4] = (uintptr_t)&fake[4]; /* at itself */
    cr_assert_eq(walk(base, pcs, PF_DEPTH), 4);
    make_chain(10);
    fake[4] = (uintptr_t)&fake[6] + 4; /* between words */
    cr_assert_eq(walk(base, pcs, PF_DEPTH), 4);
    make_chain(10);
    fake[4] = (uintptr_t)(fake + WORDS); /* out of the stack */
    cr_assert_eq(walk(base, pcs, PF_DEPTH), 4);
    make_chain(10);
    fake[5] = 7; /* no address */
    cr_assert_eq(walk(base, pcs, PF_DEPTH), 3);
    cr_assert_eq(walk(1, pcs, PF_DEPTH), 1);
    cr_assert_eq(walk(0, pcs, PF_DEPTH), 1);
    cr_assert_eq(walk(UINTPTR_MAX - 7, pcs, PF_DEPTH), 1);
}

/* The record's second word lies behind hi, on a page that faults (H14). */
Test(unwind, a_record_across_the_upper_bound_is_not_read)
{
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    cr_assert(page != MAP_FAILED);
    cr_assert_eq(mprotect(page + 4096, 4096, PROT_NONE), 0);
    uintptr_t lo = (uintptr_t)page, hi = lo + 4096, pcs[8];
    for (uintptr_t fp = hi - 32; fp < hi + 32; fp++)
        cr_assert_leq(pf_unwind(0x1000000, lo, fp, lo, hi, pcs, 8), 2);
    cr_assert_eq(pf_unwind(0x1000000, hi, hi - 16, lo, hi, pcs, 8), 1); /* below sp */
    cr_assert_eq(pf_unwind(0x1000000, lo, lo, lo, 0, pcs, 8), 1);
}

CHECK_FRAME static int descend(int depth, uintptr_t *pcs)
{
    int n = depth ? descend(depth - 1, pcs) : pf_unwind_here(__builtin_frame_address(0), pcs, 128);
    check_sink++;
    return n;
}

Test(unwind, own_stack_by_name)
{
    uintptr_t pcs[PF_DEPTH];
    pf_thread_here();
    int n = descend(5, pcs), frames = 0;
    for (int i = 0; i < n; i++)
        frames += check_has_frame(&pcs[i], 1, "descend");
    cr_assert_eq(frames, 5); /* the one that asked is left out */
}

static void *on_unknown_thread(void *arg)
{
    uintptr_t pcs[8];
    int n = descend(3, pcs);
    *(int *)arg = n == 2 && pcs[0] >= 4096 && pcs[1] == PF_NO_STACK;
    return NULL;
}

Test(unwind, unknown_bounds_give_the_leaf_only)
{
    pthread_t t;
    int right = 0;
    cr_assert_eq(pthread_create(&t, NULL, on_unknown_thread, &right), 0);
    pthread_join(t, NULL);
    cr_assert(right);
}

static void in_coroutine(void *chan)
{
    uintptr_t pcs[PF_DEPTH];
    int n = descend(200, pcs);
    int right =
        n == PF_DEPTH && pcs[64] == PF_TRUNCATED && check_has_frame(pcs + 65, 63, "in_coroutine");
    weft_chan_send(chan, &right);
}

static int first(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *chan = weft_chan_new(sizeof(int), 0);
    int right = 0;
    weft_go(in_coroutine, chan);
    weft_chan_recv(chan, &right);
    return right;
}

Test(unwind, a_coroutine_stack_has_its_root)
{
    cr_assert_eq(weft_run(first, 0, NULL), 1);
}

#if defined(__x86_64__)
/* Interrupted before its frame is made, or after it is gone: the caller is at the stack pointer. */
Test(unwind, the_caller_of_a_frameless_leaf)
{
    static const struct {
        unsigned char code[8];
        int at, word; /* where in code, and where the return address is; -1: nothing to repair */
    } cases[] = {
        {{0xc3}, 0, 0},
        {{0x55}, 0, 0},
        {{0xf3, 0x0f, 0x1e, 0xfa, 0x55}, 0, 0},
        {{0x55, 0x48, 0x89, 0xe5}, 1, 1},
        {{0xff, 0x25}, 0, 0},
        {{0x90}, 0, -1},
        {{0x90, 0x48, 0x89, 0xe5}, 1, -1},
    };
    unsigned char *code =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pf_thread_here();
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        uintptr_t stack[4] = {0x111111, 0x222222, 0x333333, 0x444444}, pcs[8] = {0};
        memcpy(code + 64, cases[i].code, 8);
        weft_peek peek;
        int n = pf_unwind_context((uintptr_t)code + 64 + (uintptr_t)cases[i].at, (uintptr_t)stack,
                                  0, pcs, 8, &peek);
        cr_assert_eq(n, 2, "case %zu", i);
        cr_assert_eq(pcs[1], cases[i].word < 0 ? PF_NO_STACK : stack[cases[i].word], "case %zu", i);
    }
}
#endif
