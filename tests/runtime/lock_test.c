/* The runtime lock: exclusion, hand-over between threads, sleeping when held long, futex waits. */
#include "runtime/rt.h"
#include "tests/check.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>

#if defined(__SANITIZE_THREAD__)
enum { TURNS = 20000 };
#else
enum { TURNS = 500000 };
#endif

static rt_lock lock;
static long shared;

static void *count(void *arg)
{
    for (int i = 0; i < TURNS; i++) {
        rt_lock_acquire(&lock);
        shared++;
        rt_lock_release(&lock);
    }
    return arg;
}

Test(lock, excludes)
{
    pthread_t t[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, count, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    cr_assert_eq(shared, 4L * TURNS);
    cr_assert_eq(load_relaxed(&lock), 0u);
}

static void *take_and_leave(void *arg)
{
    rt_lock_acquire(&lock);
    return arg;
}

/* Invariant 2: nobody owns it, so a switch can hand it over. */
Test(lock, may_be_released_by_another_thread)
{
    pthread_t t;
    pthread_create(&t, NULL, take_and_leave, NULL);
    pthread_join(t, NULL);
    cr_assert(!rt_lock_try(&lock));
    rt_lock_release(&lock);
    cr_assert(rt_lock_try(&lock));
}

static void *sleeper(void *arg)
{
    take_and_leave(arg);
    shared = 1;
    rt_lock_release(&lock);
    return arg;
}

Test(lock, a_sleeper_is_woken)
{
    pthread_t t;
    rt_lock_acquire(&lock);
    pthread_create(&t, NULL, sleeper, NULL);
    while (load_relaxed(&lock) != 2) /* it has given up spinning */
        rt_pause();
    cr_assert_eq(shared, 0);
    rt_lock_release(&lock);
    pthread_join(t, NULL);
    cr_assert_eq(shared, 1);
}

Test(lock, futex_waits_only_for_the_expected_value)
{
    _Atomic(uint32_t) word = 7;
    cr_assert_eq(rt_futex_wait(&word, 6, -1), 0);
    int64_t start = weft_now();
    cr_assert_eq(rt_futex_wait(&word, 7, 5000000), -ETIMEDOUT);
    cr_assert_geq(weft_now() - start, 5000000);
}

Test(lock, throw_says_what_and_aborts, .signal = SIGABRT)
{
    rt_throw("lock_test: on purpose");
}
