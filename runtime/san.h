/* What the sanitizers must be told about coroutines; empty in a plain build.
 *
 * AddressSanitizer needs the bounds of the stack that is switched to, before the switch, and one
 * fake-stack slot per coroutine; ThreadSanitizer needs a fiber per coroutine and per scheduler
 * stack, switched as the last thing before the jump (R50).
 */
#ifndef WEFT_SAN_H
#define WEFT_SAN_H

#include "rt.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define RT_ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define RT_TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define RT_ASAN 1
#endif
#if defined(__SANITIZE_THREAD__)
#define RT_TSAN 1
#endif

/* ThreadSanitizer keeps about 400 KiB of thread-local storage, taken from the stack. */
#ifdef RT_TSAN
#define SAN_STACK_EXTRA (1 << 20)
#else
#define SAN_STACK_EXTRA 0
#endif

#ifdef RT_ASAN
void __sanitizer_start_switch_fiber(void **fake, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *fake, const void **bottom, size_t *size);
void __asan_unpoison_memory_region(void const volatile *addr, size_t size);
#endif
#ifdef RT_TSAN
void *__tsan_get_current_fiber(void);
void *__tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void *fiber);
void __tsan_switch_to_fiber(void *fiber, unsigned flags);
#endif

/* Before a switch to a stack [lo,hi) whose fiber is `fiber`; save keeps the left one's fake stack,
 * NULL when it never runs again. */
static inline void san_switch(void **save, void *fiber, uintptr_t lo, uintptr_t hi)
{
#ifdef RT_ASAN
    __sanitizer_start_switch_fiber(save, (const void *)lo, hi - lo);
#endif
#ifdef RT_TSAN
    __tsan_switch_to_fiber(fiber, 0);
#endif
    (void)save, (void)fiber, (void)lo, (void)hi;
}

/* First thing after a switch, on the new stack; fake is what its last san_switch saved. */
static inline void san_arrived(void *fake)
{
#ifdef RT_ASAN
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
#endif
    (void)fake;
}

static inline void *san_fiber_new(void)
{
#ifdef RT_TSAN
    return __tsan_create_fiber(0);
#else
    return NULL;
#endif
}

static inline void *san_fiber_self(void)
{
#ifdef RT_TSAN
    return __tsan_get_current_fiber();
#else
    return NULL;
#endif
}

static inline void san_fiber_free(void *fiber)
{
#ifdef RT_TSAN
    __tsan_destroy_fiber(fiber);
#endif
    (void)fiber;
}

/* A stack that ends has frames whose redzones are still poisoned. */
static inline void san_stack_clean(uintptr_t lo, uintptr_t hi)
{
#ifdef RT_ASAN
    __asan_unpoison_memory_region((void *)lo, hi - lo);
#endif
    (void)lo, (void)hi;
}

#endif
