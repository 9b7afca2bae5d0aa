/* What the tests of weft_net.h share; define SUITE before. */
#ifndef WEFT_TESTS_NET_HELP_H
#define WEFT_TESTS_NET_HELP_H

#include "runtime/rt_poll.h"
#include "runtime/weft_net.h"
#include "tests/runtime/together.h"
#include <stddef.h>
#include <sys/un.h>

/* Defines the test twice: the body as the first coroutine, and on a plain thread. `spawn` starts
 * the other side in the same kind of place. */
__attribute__((unused)) static bool on_threads;
#define BOTH(name, seconds) BOTH_OF(SUITE, name, seconds)
#define BOTH_OF(suite, name, seconds)                                                              \
    BODY(name);                                                                                    \
    Test(suite, name, .timeout = (seconds))                                                        \
    {                                                                                              \
        RUN(2, name);                                                                              \
    }                                                                                              \
    Test(suite, name##_threads, .timeout = (seconds))                                              \
    {                                                                                              \
        on_threads = true;                                                                         \
        cr_assert_eq(name(0, NULL), 0);                                                            \
    }                                                                                              \
    BODY(name)

__attribute__((unused)) static weft_wg spawned;
__attribute__((unused)) static void spawn(void (*fn)(void *), void *arg)
{
    (on_threads ? start_threads : start)(&spawned, 1, fn, arg);
}

/* Not weft_yield: while something is runnable, descriptors are looked at every 10 ms only. */
__attribute__((unused)) static void breathe(void)
{
    weft_sleep(10000);
}

__attribute__((unused)) static void await_parked(uint32_t n)
{
    while (rt_poll_waiters() != n)
        breathe();
}

__attribute__((unused)) static void blocking_pair(int s[2])
{
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
}

/* Tests run side by side: the names of each hold its process id. */
__attribute__((unused)) static const char *scratch(const char *name)
{
    static char path[100];
    snprintf(path, sizeof path, "/tmp/weft-net-%d-%s", (int)getpid(), name);
    return path;
}
__attribute__((unused)) static const char *abstract(const char *name)
{
    static char text[100];
    snprintf(text, sizeof text, "@weft-net-%d-%s", (int)getpid(), name);
    return text;
}
__attribute__((unused)) static socklen_t abstract_addr(const char *name, struct sockaddr_un *a)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    strcpy(a->sun_path, abstract(name));
    size_t n = strlen(a->sun_path);
    a->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
}

struct writer {
    int fd;
    size_t n;
    ssize_t first, second;
};
__attribute__((unused)) static void write_twice(void *arg)
{
    struct writer *w = arg;
    char *big = calloc(1, w->n);
    w->first = weft_write(w->fd, big, w->n);
    w->second = weft_write(w->fd, big, w->n);
    free(big);
}

#endif
