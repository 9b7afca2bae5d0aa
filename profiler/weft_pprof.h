/* Weft's profiles: serve them, mount them in a server of your own, or write them to a file.
 *
 * Calls return 0 (or what they say) or a negative errno value; all may be made from coroutines and
 * plain threads, none from a signal handler.
 */
#ifndef WEFT_PPROF_H
#define WEFT_PPROF_H

#include "weft.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Serves /debug/pprof on addr: "HOST:PORT" (no host means 127.0.0.1, all interfaces only as 0.0.0.0
 * or [::]), or "unix:/path"; "%p" is the process id; port 0 picks one. Returns the port (0 for
 * unix). -EINVAL malformed address; -EALREADY served already; -EADDRINUSE and what bind gives;
 * -ELIBACC when libweft-present.so cannot be opened. */
WEFT_API int weft_pprof_serve(const char *addr);
/* Ends the server: running requests are cut off. -ENOENT when none runs. */
WEFT_API int weft_pprof_stop(void);

/* One answer, for a server of your own. Called once with the status and all headers ("Name:
 * value\r\n" each, ends with NUL), then with the body in pieces (status 0, headers NULL); a nonzero
 * return stops. */
typedef int (*weft_reply_fn)(void *arg, int status, const char *headers, const void *body,
                             size_t n);
/* Answers method and target ("/debug/pprof/heap?debug=1"); body is the request's, n its length.
 * Blocks as long as the profile takes: from a coroutine call it through weft_blocking. 0; -ENOENT
 * when the path is not below /debug/pprof (nothing was replied); -ELIBACC. */
WEFT_API int weft_pprof_handle(const char *method, const char *target, const void *body, size_t n,
                               weft_reply_fn reply, void *arg);

/* Starts the CPU profile at hz samples a second of CPU time (1..1000; 0 means 100); stop writes it
 * to fd, which stays the caller's. -EBUSY when one runs; -EEXIST when the program has a SIGPROF
 * handler of its own, which stays; -EINVAL; -ELIBACC; what timer_create gives when it is forbidden.
 * stop: -ENOENT when none runs, what write gives. */
WEFT_API int weft_pprof_cpu_start(int fd, int hz);
WEFT_API int weft_pprof_cpu_stop(void);

/* Writes a snapshot profile ("heap", "allocs", "goroutine", "block", "mutex", "threadcreate") to
 * fd: debug 0 gzip protobuf, 1 text, 2 (goroutine) long text. -ENOENT unknown name; what write
 * gives; -ELIBACC. */
WEFT_API int weft_pprof_write(const char *profile, int fd, int debug);

/* Rates; each returns the previous one, a negative argument only reads.
 * block: one sample per ns nanoseconds blocked on average, 1 everything, 0 off (the default).
 * heap: one sample per `bytes` allocated on average, 1 everything, 0 off; default 524288.
 * mutex: one of n contended unlocks, 0 off (the default). */
WEFT_API int64_t weft_pprof_block_rate(int64_t ns);
WEFT_API int64_t weft_pprof_heap_rate(int64_t bytes);
WEFT_API int weft_pprof_mutex_fraction(int n);

/* Sets a label of the running coroutine or thread; key and value are copied; a NULL value removes
 * it. Children inherit the set. -EINVAL for a NULL or empty key; -ENOMEM. */
WEFT_API int weft_label_set(const char *key, const char *value);
/* Installs a whole set and returns the one before; each call moves a reference. NULL is the empty
 * set. So a request's scope is: old = weft_labels_swap(NULL); ... weft_labels_swap(old) and
 * weft_labels_free of what that returns. */
typedef struct weft_labels weft_labels;
WEFT_API weft_labels *weft_labels_swap(weft_labels *);
WEFT_API void weft_labels_free(weft_labels *);

#ifdef __cplusplus
}
#endif
#endif
