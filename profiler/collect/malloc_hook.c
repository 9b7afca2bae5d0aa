/* The interposed allocation calls: count down, look into the filter, forward.
 *
 * Every name here forwards through a pointer. The pointers start at functions that find out who the
 * allocator is: glibc's own (__libc_malloc and so on, which need no dlsym and so no bootstrap
 * memory: H42), or a sanitizer's, when its runtime is in the process. The second matters for
 * libweft.a: our malloc is then in the program itself and stands before the sanitizer's, and a hook
 * that went on to glibc would end an ASan program before main. Through a pointer it is one jump
 * either way.
 *
 * Invariants
 *  1. malloc in the common case is: one subtraction from thread-local memory, one branch, one jump.
 *     free: one multiplication, one load, one branch, one jump. No frame, no call.
 *  2. A free is looked up before the allocator gets the block; a realloc takes the old block out
 *     first and puts it back when it failed (H44). realloc to a new size is a free and an
 *     allocation, also when the block stays where it is: only so is the chance of a block the one
 *     of its size.
 *  3. Each call is counted once: what the allocator calls inside itself does not come back here
 *     (H45).
 *  4. errno is what the allocator left.
 *  5. Where samples come through the sanitizer's own hooks, these names take none.
 *
 * The names are weak, so that a program that is linked fully static gets glibc's, without a clash
 * and without heap samples. Valgrind replaces them at start, whoever defines them; the profiles are
 * empty there.
 *
 * With PF_NO_MALLOC_NAMES (sanitizer builds) the names are left out and only the hooks are
 * installed.
 *
 * Rejected: jumping to __libc_malloc directly (no yielding; the same time, both are one indirect
 * jump); RTLD_NEXT (calloc inside dlsym, and order decides whose malloc that is: H47).
 *
 * Compiled with -fomit-frame-pointer: the common path pushes nothing. The slow halves have a frame,
 * because they ask for its address.
 */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include "profiler/collect/heap.h"

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define PF_NO_MALLOC_NAMES 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define PF_NO_MALLOC_NAMES 1
#endif
#endif

/* ---- a sanitizer's runtime, when there is one ---- */

#define PF_WEAK __attribute__((weak))
extern PF_WEAK void __asan_init(void);
extern PF_WEAK void __tsan_init(void);
extern PF_WEAK void __msan_init(void);
extern PF_WEAK void __lsan_init(void);
extern PF_WEAK int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *,
                                                                      size_t),
                                                             void (*)(const volatile void *));
extern PF_WEAK size_t __asan_get_alloc_stack(void *, void **, size_t, int *);
extern PF_WEAK size_t __tsan_get_alloc_stack(void *, void **, size_t, int *, unsigned long *);

static bool sanitized(void)
{
    return __asan_init || __tsan_init || __msan_init || __lsan_init;
}

/* The stack of block p's allocation as the sanitizer has walked it, as return addresses without its
 * own malloc; 0 when it has none. Its frames stand between the program and the hook and keep no
 * frame pointers, so ours would end there. ASan gives return addresses minus one, TSan as they are.
 * */
static int sanitizer_stack(const volatile void *p, uintptr_t *pcs)
{
    void *trace[PF_DEPTH];
    size_t depth = 0;
    uintptr_t back = 0;
    int thread;
    unsigned long os_thread;
    if (__asan_get_alloc_stack) {
        depth = __asan_get_alloc_stack((void *)p, trace, PF_DEPTH, &thread);
        back = 1;
    } else if (__tsan_get_alloc_stack) {
        depth = __tsan_get_alloc_stack((void *)p, trace, PF_DEPTH, &thread, &os_thread);
    }
    for (size_t i = 1; i < depth; i++)
        pcs[i - 1] = (uintptr_t)trace[i] + back;
    return depth > 1 ? (int)depth - 1 : 0;
}

PF_NOINLINE static void sanitizer_malloc(const volatile void *p, size_t n)
{
    if (!pf_heap_step((uint64_t)n + 1))
        return;
    unsigned rate_no = pf_heap_crossed((uint64_t)n + 1);
    if (!rate_no || !p)
        return;
    uintptr_t pcs[PF_DEPTH];
    int npcs = sanitizer_stack(p, pcs);
    if (npcs)
        pf_heap_record_stack((const void *)p, n, rate_no, pcs, npcs);
    else
        pf_heap_record((const void *)p, n, rate_no, __builtin_frame_address(0));
}

static void sanitizer_free(const volatile void *p)
{
    if (pf_live_maybe((const void *)p)) {
        pf_site site = pf_live_take((uintptr_t)p);
        if (site)
            pf_heap_gone(site);
    }
}

void pf_heap_start(void)
{
    if (sanitized() && __sanitizer_install_malloc_and_free_hooks)
        __sanitizer_install_malloc_and_free_hooks(sanitizer_malloc, sanitizer_free);
}

#ifndef PF_NO_MALLOC_NAMES

extern void *__libc_malloc(size_t);
extern void __libc_free(void *);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void *__libc_valloc(size_t);
extern void *__libc_pvalloc(size_t);

extern PF_WEAK void *__interceptor_malloc(size_t);
extern PF_WEAK void __interceptor_free(void *);
extern PF_WEAK void *__interceptor_calloc(size_t, size_t);
extern PF_WEAK void *__interceptor_realloc(void *, size_t);
extern PF_WEAK void *__interceptor_memalign(size_t, size_t);
extern PF_WEAK void *__interceptor_valloc(size_t);
extern PF_WEAK void *__interceptor_pvalloc(size_t);

static void *first_malloc(size_t);
static void first_free(void *);
static void *first_calloc(size_t, size_t);
static void *first_realloc(void *, size_t);
static void *first_memalign(size_t, size_t);
static void *first_valloc(size_t);
static void *first_pvalloc(size_t);

/* Written by resolve, with the same values by whoever comes first. */
static struct {
    void *(*malloc)(size_t);
    void (*free)(void *);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    void *(*valloc)(size_t);
    void *(*pvalloc)(size_t);
} next = {first_malloc,   first_free,   first_calloc, first_realloc,
          first_memalign, first_valloc, first_pvalloc};
static bool only_forward;

static void resolve(void)
{
    bool theirs = sanitized() && __interceptor_malloc && __interceptor_free;
    only_forward = theirs;
#define PF_NEXT(name)                                                                              \
    __atomic_store_n(&next.name,                                                                   \
                     theirs &&__interceptor_##name ? __interceptor_##name : __libc_##name,         \
                     __ATOMIC_RELAXED)
    PF_NEXT(malloc);
    PF_NEXT(free);
    PF_NEXT(calloc);
    PF_NEXT(realloc);
    PF_NEXT(memalign);
    PF_NEXT(valloc);
    PF_NEXT(pvalloc);
#undef PF_NEXT
}

static void *first_malloc(size_t n)
{
    resolve();
    return next.malloc(n);
}

static void first_free(void *p)
{
    resolve();
    next.free(p);
}

static void *first_calloc(size_t n, size_t size)
{
    resolve();
    return next.calloc(n, size);
}

static void *first_realloc(void *p, size_t n)
{
    resolve();
    return next.realloc(p, n);
}

static void *first_memalign(size_t align, size_t n)
{
    resolve();
    return next.memalign(align, n);
}

static void *first_valloc(size_t n)
{
    resolve();
    return next.valloc(n);
}

static void *first_pvalloc(size_t n)
{
    resolve();
    return next.pvalloc(n);
}

/* ---- slow halves ---- */

/* The block that the allocator gave for a call whose countdown ran out. */
static inline void *crossed(void *p, size_t n, const void *frame)
{
    unsigned rate_no = pf_heap_crossed((uint64_t)n + 1);
    if (rate_no && p && !only_forward)
        pf_heap_record(p, n, rate_no, frame);
    return p;
}

PF_NOINLINE static void *malloc_slow(size_t n)
{
    return crossed(next.malloc(n), n, __builtin_frame_address(0));
}

PF_NOINLINE static void free_slow(void *p)
{
    pf_site site = pf_live_take((uintptr_t)p);
    if (site)
        pf_heap_gone(site);
    next.free(p);
}

PF_NOINLINE static void *calloc_slow(size_t n, size_t size)
{
    return crossed(next.calloc(n, size), n * size, __builtin_frame_address(0));
}

PF_NOINLINE static void *memalign_slow(size_t align, size_t n)
{
    return crossed(next.memalign(align, n), n, __builtin_frame_address(0));
}

PF_NOINLINE static void *valloc_slow(size_t n)
{
    return crossed(next.valloc(n), n, __builtin_frame_address(0));
}

PF_NOINLINE static void *pvalloc_slow(size_t n)
{
    return crossed(next.pvalloc(n), n, __builtin_frame_address(0));
}

/* The old block may be sampled, or the countdown ran out, or both. */
PF_NOINLINE static void *realloc_slow(void *old, size_t n, bool ran_out)
{
    pf_site site = pf_live_take((uintptr_t)old);
    void *p = next.realloc(old, n);
    if (site && (p || n == 0)) /* realloc(old, 0) frees and gives NULL */
        pf_heap_gone(site);
    else if (site)
        pf_heap_restore(old, site);
    return ran_out ? crossed(p, n, __builtin_frame_address(0)) : p;
}

/* ---- the names ---- */

#define PF_NAME WEFT_API PF_WEAK

PF_NAME void *malloc(size_t n)
{
    if (pf_heap_step((uint64_t)n + 1))
        return malloc_slow(n);
    return next.malloc(n);
}

PF_NAME void free(void *p)
{
    if (pf_unlikely(pf_live_maybe(p))) {
        free_slow(p);
        return;
    }
    next.free(p);
}

PF_NAME void *calloc(size_t n, size_t size)
{
    size_t bytes;
    if (pf_unlikely(__builtin_mul_overflow(n, size, &bytes)))
        return next.calloc(n, size);
    if (pf_heap_step((uint64_t)bytes + 1))
        return calloc_slow(n, size);
    return next.calloc(n, size);
}

PF_NAME void *realloc(void *p, size_t n)
{
    bool ran_out = pf_heap_step((uint64_t)n + 1);
    if (pf_unlikely(ran_out || pf_live_maybe(p)))
        return realloc_slow(p, n, ran_out);
    return next.realloc(p, n);
}

PF_NAME void *memalign(size_t align, size_t n)
{
    if (pf_heap_step((uint64_t)n + 1))
        return memalign_slow(align, n);
    return next.memalign(align, n);
}

PF_NAME void *aligned_alloc(size_t align, size_t n)
{
    if (pf_heap_step((uint64_t)n + 1))
        return memalign_slow(align, n);
    return next.memalign(align, n);
}

PF_NAME void *valloc(size_t n)
{
    if (pf_heap_step((uint64_t)n + 1))
        return valloc_slow(n);
    return next.valloc(n);
}

PF_NAME void *pvalloc(size_t n)
{
    if (pf_heap_step((uint64_t)n + 1))
        return pvalloc_slow(n);
    return next.pvalloc(n);
}

/* Does not touch *out when it fails, and tells by its value, not by errno. */
PF_NAME int posix_memalign(void **out, size_t align, size_t n)
{
    if (align < sizeof(void *) || (align & (align - 1)) != 0)
        return EINVAL;
    int saved = errno;
    void *p = pf_heap_step((uint64_t)n + 1)
                  ? crossed(next.memalign(align, n), n, __builtin_frame_address(0))
                  : next.memalign(align, n);
    errno = saved;
    if (!p)
        return ENOMEM;
    *out = p;
    return 0;
}

PF_NAME void *reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (pf_unlikely(__builtin_mul_overflow(n, size, &bytes))) {
        errno = ENOMEM;
        return NULL;
    }
    bool ran_out = pf_heap_step((uint64_t)bytes + 1);
    if (pf_unlikely(ran_out || pf_live_maybe(p)))
        return realloc_slow(p, bytes, ran_out);
    return next.realloc(p, bytes);
}

/* C23. The sizes are hints for allocators that have no header. */
PF_NAME void free_sized(void *p, size_t n);
PF_NAME void free_sized(void *p, size_t n)
{
    (void)n;
    free(p);
}

PF_NAME void free_aligned_sized(void *p, size_t align, size_t n);
PF_NAME void free_aligned_sized(void *p, size_t align, size_t n)
{
    (void)align;
    (void)n;
    free(p);
}

#endif
