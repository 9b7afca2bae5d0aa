/* Weft: coroutines on all cores, channels and select for C programs.
 *
 * Conventions that hold for every call below:
 *  - A call returns 0 (or a count or an index) or a negative errno value. `errno` is never the
 * channel.
 *  - Deadlines are absolute, in nanoseconds of weft_now(); WEFT_FOREVER is none. A call first
 * tries, then looks at the deadline, so a deadline in the past means "try once".
 *  - Unless it says otherwise, a call may be made from a coroutine and from a plain thread; never
 * from a signal handler.
 *  - Public structs have a fixed size with spare room; all-zero is a valid mutex, wait group and
 * once.
 */
#ifndef WEFT_H
#define WEFT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define WEFT_API __attribute__((visibility("default")))
#else
#define WEFT_API
#endif

#define WEFT_VERSION "0.1.0"
#define WEFT_FOREVER INT64_MAX

/* The version of the library that is loaded, as "MAJOR.MINOR.PATCH"; static storage. */
WEFT_API const char *weft_version(void);

/* ---- coroutines ---- */

/* Starts the workers and runs fn(argc, argv) as the first coroutine, on 8 MiB of lazily touched
 * stack; returns fn's value. The calling thread waits and never runs a coroutine. When fn returns,
 * no other coroutine runs again: they are abandoned, not unwound. A later weft_run may follow. A
 * failed start or a nested call prints one line on stderr and returns 125. Plain threads only. */
WEFT_API int weft_run(int (*fn)(int argc, char **argv), int argc, char **argv);

/* Starts fn(arg) as a coroutine. Before weft_run it is queued. 0; -ENOMEM; -EINVAL for a NULL fn;
 * -ESHUTDOWN after weft_run has returned (until the next one). */
WEFT_API int weft_go(void (*fn)(void *), void *arg);

/* Flags of weft_opts: the coroutine keeps one thread of its own for its whole life (thread-local
 * state, signal masks). */
#define WEFT_PINNED 1u

typedef struct weft_opts {
    const char *name;   /* shown in the goroutine profile; copied, cut at 31 bytes; NULL for none */
    size_t stack_bytes; /* usable stack, rounded up to a size class; 0 means the default
                           (WEFT_STACK, 64 KiB) */
    unsigned flags;     /* 0 or WEFT_PINNED */
    unsigned reserved;  /* 0 */
    uint64_t spare[2];  /* 0 */
} weft_opts;
#define WEFT_OPTS_INIT                                                                             \
    {                                                                                              \
        0, 0, 0, 0,                                                                                \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* weft_go with options; opts may be NULL. As weft_go; also -EINVAL for an unknown flag or a stack
 * over 1 GiB. */
WEFT_API int weft_go_opts(const weft_opts *opts, void (*fn)(void *), void *arg);

/* Lets other runnable coroutines run first. On a plain thread: sched_yield. */
WEFT_API void weft_yield(void);

/* Ends the calling coroutine; does not return. On a plain thread it ends the thread (pthread_exit).
 */
WEFT_API void weft_exit(void) __attribute__((noreturn));

/* The calling coroutine's id, unique for the life of the process and > 0; 0 on a plain thread. */
WEFT_API uint64_t weft_self(void);

/* n > 0 sets how many coroutines run at the same time (at most 1024); n <= 0 only reads. Returns
 * the previous value. The default is WEFT_PROCS, else the smaller of the affinity mask and the
 * cgroup's cpu.max. */
WEFT_API int weft_procs(int n);

/* Nanoseconds of CLOCK_MONOTONIC. Also from a signal handler. */
WEFT_API int64_t weft_now(void);

/* Sleeps for ns nanoseconds (<= 0 yields). Always 0. */
WEFT_API int weft_sleep(int64_t ns);

/* Runs fn(arg) on a pool thread that has a stack of at least 1 MiB, and waits for it; the
 * coroutine's processor runs others meanwhile. At most 512 such calls run at once, the rest queue.
 * fn may use all of weft as a plain thread. 0; -EINVAL for a NULL fn; -ENOMEM when no pool thread
 * could be started. On a plain thread fn runs in place. */
WEFT_API int weft_blocking(void (*fn)(void *), void *arg);

/* Bracket a call that may block in the kernel, made on the coroutine's own stack: between the two,
 * the processor may be given to other coroutines, and no other weft call may be made. No effect on
 * a plain thread. */
WEFT_API void weft_syscall_enter(void);
WEFT_API void weft_syscall_exit(void);

/* ---- channels ---- */

typedef struct weft_chan weft_chan;

/* A channel of elements of elem_bytes (0 allowed) with room for `capacity` of them (0: every send
 * meets a receive). Holds one reference. NULL: no memory, or the sizes overflow. */
WEFT_API weft_chan *weft_chan_new(size_t elem_bytes, size_t capacity);
WEFT_API weft_chan *weft_chan_retain(weft_chan *); /* returns its argument; NULL stays NULL */
WEFT_API void weft_chan_release(weft_chan *); /* frees at the last reference; NULL is ignored */

/* Send copies elem_bytes from the pointer (NULL sends zeros). 0; -EPIPE when the channel is or
 * becomes closed (the element stays the caller's); -ETIMEDOUT; -EAGAIN (try only); -EINVAL for a
 * NULL channel. */
WEFT_API int weft_chan_send(weft_chan *, const void *);
WEFT_API int weft_chan_send_dl(weft_chan *, const void *, int64_t deadline);
WEFT_API int weft_chan_try_send(weft_chan *, const void *);

/* Receive copies the element out (NULL discards it). 0; -EPIPE when closed and drained, the element
 * is zeroed; -ETIMEDOUT; -EAGAIN (try only); -EINVAL for a NULL channel. */
WEFT_API int weft_chan_recv(weft_chan *, void *);
WEFT_API int weft_chan_recv_dl(weft_chan *, void *, int64_t deadline);
WEFT_API int weft_chan_try_recv(weft_chan *, void *);

/* Closes: receivers drain what is buffered, then get -EPIPE; blocked senders get -EPIPE. 0; -EPIPE
 * when closed already; -EINVAL for NULL. */
WEFT_API int weft_chan_close(weft_chan *);
WEFT_API size_t weft_chan_len(const weft_chan *); /* buffered elements; 0 for NULL */
WEFT_API size_t weft_chan_cap(const weft_chan *); /* capacity; 0 for NULL */

/* ---- select ---- */

typedef struct weft_case {
    weft_chan *chan; /* NULL is never ready */
    void *elem;      /* received into, or sent from (only read then) */
    int op;          /* WEFT_OP_RECV or WEFT_OP_SEND */
    int result;      /* of the chosen case: 0 or -EPIPE */
    uint64_t spare[2];
} weft_case;
enum { WEFT_OP_RECV = 0, WEFT_OP_SEND = 1 };
#define WEFT_RECV(c, p)                                                                            \
    {                                                                                              \
        (c), (void *)(p), WEFT_OP_RECV, 0,                                                         \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }
#define WEFT_SEND(c, p)                                                                            \
    {                                                                                              \
        (c), (void *)(p), WEFT_OP_SEND, 0,                                                         \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* Waits until one case can go on, does it, and returns its index; among several ready ones each is
 * as likely. n = 0 (or only NULL channels) waits for ever. -ETIMEDOUT (dl); -EAGAIN (try); -EINVAL
 * for n < 0, n > 65535 or an unknown op; -ENOMEM when more than 64 cases find no memory. */
WEFT_API int weft_select(weft_case *, int n);
WEFT_API int weft_select_dl(weft_case *, int n, int64_t deadline);
WEFT_API int weft_try_select(weft_case *, int n);

/* ---- mutual exclusion, groups, once ---- */

typedef struct weft_mutex {
    uint32_t word[2];
    void *queue[2];
    uint64_t spare[2];
} weft_mutex;
#define WEFT_MUTEX_INIT                                                                            \
    {                                                                                              \
        {0, 0}, {0, 0},                                                                            \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* Not recursive, not owned by a thread: any coroutine or thread may unlock. lock_dl: -ETIMEDOUT;
 * try_lock: -EAGAIN; unlock of a free mutex: -EPERM. A waiter that has waited for 1 ms gets the
 * mutex handed over. */
WEFT_API int weft_mutex_lock(weft_mutex *);
WEFT_API int weft_mutex_lock_dl(weft_mutex *, int64_t deadline);
WEFT_API int weft_mutex_try_lock(weft_mutex *);
WEFT_API int weft_mutex_unlock(weft_mutex *);

typedef struct weft_wg {
    int64_t count;
    uint32_t word[2];
    void *queue[2];
    uint64_t spare[2];
} weft_wg;
#define WEFT_WG_INIT                                                                               \
    {                                                                                              \
        0, {0, 0}, {0, 0},                                                                         \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* add: n may be negative; -EINVAL when the count would become negative (it stays). wait returns
 * when it is 0. */
WEFT_API int weft_wg_add(weft_wg *, int n);
WEFT_API int weft_wg_done(weft_wg *);
WEFT_API int weft_wg_wait(weft_wg *);
WEFT_API int weft_wg_wait_dl(weft_wg *, int64_t deadline);

typedef struct weft_once {
    uint32_t word[2];
    void *queue[2];
    uint64_t spare[2];
} weft_once;
#define WEFT_ONCE_INIT                                                                             \
    {                                                                                              \
        {0, 0}, {0, 0},                                                                            \
        {                                                                                          \
            0, 0                                                                                   \
        }                                                                                          \
    }

/* Runs fn(arg) if no call on this object has yet; every caller returns after it has run. -EINVAL
 * for a NULL fn. A fn that calls weft_once_do on its own object waits for ever. */
WEFT_API int weft_once_do(weft_once *, void (*fn)(void *), void *arg);

#ifdef __cplusplus
}
#endif
#endif
