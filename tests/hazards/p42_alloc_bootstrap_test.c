/* H42: an interposed malloc that calls what calls malloc. The names work before any constructor,
 * from dlsym and dlopen, inside a freshly exec'ed program with the library preloaded, and from a
 * thread's first instruction on, with every allocation sampled.
 */
#include "tests/profiler/collect/heap_check.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>

static int64_t seen_before_main;
__attribute__((constructor(101))) static void first_of_all(void)
{
    void *h = dlopen(NULL, RTLD_NOW);
    void *missing = dlsym(h, "surely_not_there");
    char *text = dlerror();
    seen_before_main = text && !missing ? (int64_t)strlen(text) : -1;
    free(keep(calloc(3, 30)));
}

Test(p42, before_constructors)
{
    cr_assert_gt(seen_before_main, 0);
}

Test(p42, the_loader_at_rate_1)
{
    weft_pprof_heap_rate(1);
    for (int i = 0; i < 20; i++) {
        void *h = dlopen("libpthread.so.0", RTLD_NOW | RTLD_LOCAL);
        cr_assert_not_null(h);
        cr_assert_null(dlsym(h, "no_such_name"));
        cr_assert_not_null(dlerror());
        cr_assert_not_null(dlsym(h, "pthread_create"));
        dlclose(h);
        cr_assert_null(dlopen("no_such_library.so.7", RTLD_NOW));
        cr_assert_not_null(dlerror());
    }
}

static void *first_instruction(void *arg)
{
    char *p = keep(calloc(1, 100));
    p = keep(realloc(p, 100000));
    free(p);
    return arg;
}

Test(p42, new_threads_at_rate_1, .timeout = 60)
{
    weft_pprof_heap_rate(1);
    for (int i = 0; i < 300; i++) {
        pthread_t t;
        cr_assert_eq(pthread_create(&t, NULL, first_instruction, NULL), 0);
        pthread_join(t, NULL);
    }
    cr_assert_eq(heap_rows(100000).v[INUSE_OBJECTS], 0);
    cr_assert_geq(heap_rows(100000).v[ALLOC_OBJECTS], 300);
}

/* Children that exec inherit WEFT_HEAP_RATE; each must start, allocate and end. */
Test(p42, children_that_exec, .timeout = 120)
{
    weft_pprof_heap_rate(1);
    setenv("WEFT_HEAP_RATE", "1", 1);
    for (int i = 0; i < 20; i++) {
        int status = system("test \"$(printf 'b\\na\\n' | sort | tr -d '\\n')\" = ab");
        cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
    }
}
