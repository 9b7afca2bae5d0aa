/* Each interposed name: it does what libc says, and its blocks come and go in the ledger (H43). */
#include "tests/profiler/collect/heap_check.h"
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/resource.h>

extern void free_sized(void *, size_t);
extern void free_aligned_sized(void *, size_t, size_t);

static void all(void)
{
    weft_pprof_heap_rate(1);
}

static void ledger(int64_t size, int64_t allocs, int64_t live, const char *what)
{
    heap_row r = heap_rows(size);
    cr_assert(r.v[ALLOC_OBJECTS] == allocs && r.v[INUSE_OBJECTS] == live &&
                  r.v[INUSE_SPACE] == live * size,
              "%s: %lld allocated, %lld live, want %lld, %lld", what, (long long)r.v[ALLOC_OBJECTS],
              (long long)r.v[INUSE_OBJECTS], (long long)allocs, (long long)live);
}

Test(malloc_hook, common_names_under_any_allocator, .init = all)
{
    void *p = keep(malloc(50020));
    ledger(50020, 1, 1, "malloc");
    p = keep(realloc(p, 50021));
    ledger(50020, 1, 0, "realloc, the old one");
    ledger(50021, 1, 1, "realloc, the new one");
    free(p);
    ledger(50021, 1, 0, "free");
    p = keep(calloc(2, 25011));
    ledger(50022, 1, 1, "calloc");
    free(p);
}

#ifdef HEAP_PLAIN /* sanitizers round sizes up, and what they say to failures is their business */
static bool aligned(const void *p, size_t to)
{
    return p && (uintptr_t)p % to == 0;
}

Test(malloc_hook, every_name_is_in_the_ledger, .init = all)
{
    void *p = keep(malloc(50001));
    ledger(50001, 1, 1, "malloc");
    free(p);
    ledger(50001, 1, 0, "free");

    unsigned char *z = keep(calloc(7, 7143));
    for (int i = 0; i < 50001; i++)
        cr_assert_eq(z[i], 0);
    ledger(50001, 2, 1, "calloc");
    free(z);

    p = keep(realloc(NULL, 50002));
    ledger(50002, 1, 1, "realloc of nothing");
    p = keep(realloc(p, 50003));
    ledger(50002, 1, 0, "realloc, the old one");
    ledger(50003, 1, 1, "realloc, the new one");
    p = keep(reallocarray(p, 2, 25002));
    ledger(50003, 1, 0, "reallocarray, the old one");
    ledger(50004, 1, 1, "reallocarray, the new one");
    free(p);
    ledger(50004, 1, 0, "free");

    cr_assert(aligned(p = keep(memalign(256, 50005)), 256));
    ledger(50005, 1, 1, "memalign");
    free(p);
    cr_assert(aligned(p = keep(aligned_alloc(4096, 53248)), 4096));
    ledger(53248, 1, 1, "aligned_alloc");
    free_aligned_sized(p, 4096, 53248);
    ledger(53248, 1, 0, "free_aligned_sized");
    p = NULL;
    cr_assert_eq(posix_memalign(&p, 1024, 50007), 0);
    cr_assert(aligned(p, 1024));
    ledger(50007, 1, 1, "posix_memalign");
    free_sized(p, 50007);
    ledger(50007, 1, 0, "free_sized");
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    cr_assert(aligned(p = keep(valloc(50008)), page));
    ledger(50008, 1, 1, "valloc");
    free(p);
    cr_assert(aligned(p = keep(pvalloc(50009)), page));
    ledger(50009, 1, 1, "pvalloc");
    free(p);
    for (int64_t n = 50001; n < 50010; n++)
        cr_assert_eq(heap_rows(n).v[INUSE_OBJECTS], 0);
}

Test(malloc_hook, empty_blocks, .init = all)
{
    int64_t before = heap_rows(0).v[ALLOC_OBJECTS];
    void *a = keep(malloc(0)), *b = keep(calloc(0, 8)), *c = keep(calloc(8, 0));
    cr_assert(a && b && c && a != b && b != c);
    heap_row r = heap_rows(0);
    cr_assert_eq(r.v[ALLOC_OBJECTS] - before, 3);
    cr_assert_eq(r.v[ALLOC_SPACE], 0);
    free(a);
    free(b);
    free(c);
    free(keep(NULL));
}

Test(malloc_hook, failures_are_as_in_libc, .init = all)
{
    volatile size_t huge = SIZE_MAX, half = SIZE_MAX / 2;
    heap_row before = heap_rows(-1);
    for (int i = 0; i < 100; i++) {
        errno = 0;
        cr_assert_null(keep(malloc(huge)));
        cr_assert_eq(errno, ENOMEM);
        cr_assert_null(keep(malloc(half + 1)));
        errno = 0;
        cr_assert_null(keep(calloc(half, 3)));
        cr_assert_eq(errno, ENOMEM);
        errno = 0;
        cr_assert_null(keep(reallocarray(NULL, half, 3)));
        cr_assert_eq(errno, ENOMEM);
        void *p = &before;
        errno = 55;
        cr_assert_eq(posix_memalign(&p, 3, 8), EINVAL);
        cr_assert_eq(posix_memalign(&p, 4, 8), EINVAL);
        cr_assert_eq(posix_memalign(&p, 24, 8), EINVAL);
        cr_assert_eq(posix_memalign(&p, 64, half), ENOMEM);
        cr_assert(p == &before && errno == 55);
        cr_assert_null(keep(memalign(64, half)));
    }
    heap_row after = heap_rows(-1);
    cr_assert_eq(after.v[ALLOC_OBJECTS], before.v[ALLOC_OBJECTS], "a failure is no allocation");
    weft_pprof_heap_rate(524288);
    for (int i = 0; i < 100; i++)
        cr_assert_null(keep(malloc(half + (size_t)i)));
    weft_pprof_heap_rate(1);
    free(keep(malloc(50010)));
    ledger(50010, 1, 0, "after a huge failure the countdown goes on");
}

Test(malloc_hook, realloc_to_zero_frees, .init = all)
{
    volatile size_t zero = 0;
    void *p = keep(malloc(50011));
    p = realloc(p, zero);
    cr_assert_null(p);
    ledger(50011, 1, 0, "realloc to 0");
}
#endif

Test(malloc_hook, usable_size_may_be_filled, .init = all)
{
    for (size_t n = 0; n < 3000; n += 7) {
        unsigned char *p = keep(malloc(n));
        memset(p, 0xee, malloc_usable_size(p));
        p = keep(realloc(p, n * 2 + 1));
        memset(p, 0xdd, malloc_usable_size(p));
        free(p);
    }
}

/* What runs before any constructor of ours may run, and what libc allocates inside (H42, H45). */
static void *early;
__attribute__((constructor(101))) static void before_all(void)
{
    early = malloc(50012);
    early = realloc(early, 50013);
}

Test(malloc_hook, works_before_constructors_and_inside_libc, .init = all)
{
    cr_assert_not_null(early);
    free(early);
    void *h = dlopen("libz.so.1", RTLD_NOW | RTLD_LOCAL);
    if (h)
        dlclose(h);
    cr_assert_null(dlsym(RTLD_DEFAULT, "no_such_symbol_anywhere"));
    cr_assert_not_null(dlerror());
    FILE *f = fopen("/proc/self/maps", "r");
    char line[400], *grown = NULL;
    size_t cap = 0;
    cr_assert(f && fgets(line, sizeof line, f));
    cr_assert_gt(getline(&grown, &cap, f), 0);
    free(grown);
    fclose(f);
    char *text = NULL;
    cr_assert_gt(asprintf(&text, "%0*d %s", 5000, 1, line), 5000);
    free(text);
}

/* One call is one count, whatever the allocator does inside. */
Test(malloc_hook, counted_once, .init = all)
{
    int64_t before = heap_rows(-1).v[ALLOC_OBJECTS];
    for (int i = 0; i < 1000; i++) {
        void *p = keep(calloc(10, 10));
        p = keep(realloc(p, 200000));
        free(p);
    }
    cr_assert_eq(heap_rows(-1).v[ALLOC_OBJECTS] - before, 2000);
}

static void *in_a_thread(void *arg)
{
    free(keep(malloc(50014)));
    return keep(arg);
}

static pthread_key_t key;
static void at_thread_end(void *p)
{
    free(p);
    free(keep(malloc(50016)));
}

static void *with_a_key(void *arg)
{
    pthread_setspecific(key, malloc(50015));
    return arg;
}

Test(malloc_hook, from_a_threads_first_to_its_last_instruction, .init = all, .timeout = 60)
{
    cr_assert_eq(pthread_key_create(&key, at_thread_end), 0);
    for (int i = 0; i < 200; i++) {
        pthread_t t, u;
        cr_assert_eq(pthread_create(&t, NULL, in_a_thread, NULL), 0);
        cr_assert_eq(pthread_create(&u, NULL, with_a_key, NULL), 0);
        pthread_join(t, NULL);
        pthread_join(u, NULL);
    }
    ledger(50014, 200, 0, "threads");
    ledger(50015, 200, 0, "thread keys");
    ledger(50016, 200, 0, "thread key destructors");
}
