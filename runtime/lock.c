/* Locks of the runtime itself, the futex under them, and the last words of a broken invariant.
 *
 * Invariants:
 *  1. A lock word is 0 free, 1 held, 2 held with a possible sleeper. Only 2 costs a system call at
 *     release.
 *  2. Nobody owns a lock: a coroutine may take it and its successor on the stack release it.
 *
 * Rejected: spinning without end (a holder can be descheduled: with 4 runnable threads
 * on 2 cores a spinner burns its slice), and pthread mutexes (owned by a thread).
 */
#include "rt.h"
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#if defined(__SANITIZE_THREAD__)
_Atomic(uint32_t) rt_fence_word;
#endif

/* Holders keep these locks for well under a microsecond: 4 rounds of 30 pauses are about that. */
enum { SPIN_ROUNDS = 4, SPIN_PAUSES = 30 };

int rt_futex_wait(_Atomic(uint32_t) *word, uint32_t expect, int64_t ns)
{
    struct timespec ts, *limit = NULL;
    if (ns >= 0) {
        ts.tv_sec = ns / 1000000000;
        ts.tv_nsec = ns % 1000000000;
        limit = &ts;
    }
    long r = syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expect, limit, NULL, 0);
    return r < 0 && errno == ETIMEDOUT ? -ETIMEDOUT : 0;
}

void rt_futex_wake(_Atomic(uint32_t) *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

void rt_lock_slow(rt_lock *l)
{
    for (int round = 0; round < SPIN_ROUNDS; round++) {
        for (int i = 0; i < SPIN_PAUSES; i++)
            rt_pause();
        if (load_relaxed(l) == 0 && rt_lock_try(l))
            return;
    }
    /* Taken as 2 from here on: we cannot know whether others sleep too. Acquire: partner is the
     * release in rt_lock_release. */
    while (atomic_exchange_explicit(l, 2, memory_order_acquire) != 0)
        rt_futex_wait(l, 2, -1);
}

void rt_unlock_slow(rt_lock *l)
{
    rt_futex_wake(l, 1);
}

void rt_throw(const char *what)
{
    static const char head[] = "weft: internal error: ";
    ssize_t ignored = write(2, head, sizeof head - 1);
    ignored = write(2, what, strlen(what));
    ignored = write(2, "\n", 1);
    (void)ignored;
    abort();
}
