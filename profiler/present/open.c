/* The one door of libweft-present.so: weft_present_open takes the collector's table and gives ours.
 *
 * Calls that come on a thread of the program are made quiet for their length, so that neither their
 * time nor their memory is in a profile.
 *
 * No locks of its own: the loader calls open once.
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "present.h"

const pf_collect_api *pf_collect;

static int serve(const char *addr)
{
    pf_collect->thread_quiet(true);
    int r = pf_http_serve(addr);
    pf_collect->thread_quiet(false);
    return r;
}

static int stop(void)
{
    pf_collect->thread_quiet(true);
    int r = pf_http_stop();
    pf_collect->thread_quiet(false);
    return r;
}

static int handle(const char *method, const char *target, const void *body, size_t n,
                  weft_reply_fn reply, void *arg)
{
    pf_collect->thread_quiet(true);
    int r = pf_handle(method, target, body, n, reply, arg);
    pf_collect->thread_quiet(false);
    return r;
}

static int write_whole(int fd, const char *buf, size_t n)
{
    while (n) {
        ssize_t w = write(fd, buf, n);
        if (w < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = fd, .events = POLLOUT};
            poll(&p, 1, -1);
        } else if (w < 0 && errno != EINTR) {
            return -errno;
        } else if (w > 0) {
            buf += w;
            n -= (size_t)w;
        }
    }
    return 0;
}

/* A reader that closed its pipe is the caller's error value, not the end of the program: SIGPIPE is
 * blocked here, and taken back if this write raised it. */
static int write_without_sigpipe(int fd, const char *buf, size_t n)
{
    sigset_t pipe_only, old, pending;
    bool was_pending;
    int r;

    sigemptyset(&pipe_only);
    sigaddset(&pipe_only, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_only, &old);
    sigpending(&pending);
    was_pending = sigismember(&pending, SIGPIPE);
    r = write_whole(fd, buf, n);
    if (r == -EPIPE && !was_pending)
        sigtimedwait(&pipe_only, NULL, &(struct timespec){0, 0});
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return r;
}

static int write_profile(pf_raw *raw, int fd, int debug)
{
    void *buf = NULL;
    size_t n = 0;
    bool text;
    int r;

    pf_collect->thread_quiet(true);
    r = pf_render(raw, debug, &buf, &n, &text);
    if (r == 0)
        r = write_without_sigpipe(fd, buf, n);
    free(buf);
    pf_collect->thread_quiet(false);
    return r;
}

static void after_fork_child(void)
{
    pf_http_forked();
    pf_symbols_forget();
}

static const pf_present_api present = {
    .version = PF_API_VERSION,
    .serve = serve,
    .stop = stop,
    .handle = handle,
    .write = write_profile,
    .after_fork_child = after_fork_child,
};

__attribute__((visibility("default"))) const pf_present_api *
weft_present_open(const pf_collect_api *api);

const pf_present_api *weft_present_open(const pf_collect_api *api)
{
    if (!api || api->version != PF_API_VERSION)
        return NULL;
    pf_collect = api;
    return &present;
}
