/* The context switch: what it saves, where, and how to read a parked coroutine's registers.
 *
 * A saved context is one pointer, the stack pointer after the callee-saved registers were pushed.
 * Both layouts are fixed by switch_amd64.S and switch_arm64.S and repeated here in words, so that
 * inspect.c can tell where a parked coroutine stands.
 */
#ifndef WEFT_SWITCH_H
#define WEFT_SWITCH_H

#include <stdint.h>

/* Saves the caller's context in *save and continues the one in `to`. Returns when somebody
 * switches back. */
extern void rt_switch(void **save, void *to) __attribute__((visibility("hidden")));
/* The first frame of every coroutine: calls rt_coro_main; its return address is undefined. */
extern void rt_coro_start(void) __attribute__((visibility("hidden")));

#if defined(__x86_64__)
/* from sp upwards: mxcsr|fcw, r15, r14, r13, r12, rbx, rbp, return address */
enum { RT_CTX_WORDS = 8, RT_CTX_FP = 6, RT_CTX_PC = 7 };
#define RT_CTX_MXCSR 0x1f80u
#define RT_CTX_FCW   0x37fu
#elif defined(__aarch64__)
/* from sp upwards: x29, x30, x19..x28, d8..d15, fpcr, pad */
enum { RT_CTX_WORDS = 22, RT_CTX_FP = 0, RT_CTX_PC = 1 };
#endif

/* Writes the context of a coroutine that has never run at the top of its stack. */
static inline void *rt_ctx_make(uintptr_t hi)
{
    uintptr_t *top = (uintptr_t *)(hi & ~(uintptr_t)15) - 2; /* null return slot, null frame */
    top[0] = 0;
    top[1] = 0;
    uintptr_t *sp = top - RT_CTX_WORDS;
    for (int i = 0; i < RT_CTX_WORDS; i++)
        sp[i] = 0;
#if defined(__x86_64__)
    sp[0] = RT_CTX_MXCSR | (uintptr_t)RT_CTX_FCW << 32;
#endif
    sp[RT_CTX_PC] = (uintptr_t)rt_coro_start;
    return sp;
}

static inline uintptr_t rt_ctx_pc(const void *sp)
{
    return ((const uintptr_t *)sp)[RT_CTX_PC];
}

static inline uintptr_t rt_ctx_fp(const void *sp)
{
    return ((const uintptr_t *)sp)[RT_CTX_FP];
}

/* The stack pointer that the caller of rt_switch has after its return. */
static inline uintptr_t rt_ctx_sp(const void *sp)
{
    return (uintptr_t)((const uintptr_t *)sp + RT_CTX_WORDS);
}

#endif
