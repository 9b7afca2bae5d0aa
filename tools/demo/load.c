/* `weft-demo load`: the client that drives the demo. Each connection is a coroutine that asks for
 * the routes in turn over one kept-alive connection, waits for the answer, and asks again.
 *
 *  1. Every connection walks the same list, each from its own place, so all routes get the same
 *     number of requests on any machine: what the profiles show does not depend on which route
 *     happens to be fast.
 *  2. A connection that fails ends; the others go on. The first failure's reason is kept, and any
 *     failure makes the exit status 1.
 *  3. SIGTERM and SIGINT end the load early, in order, with its table: a script can load for as
 *     long as it needs.
 *
 * Counters are shared by all connections and only added to; the table is printed after the last one
 * has ended.
 */
#include "tools/demo/demo.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "weft_net.h"

enum { REPLY_MAX = 16384, MAX_CONNECTIONS = 10000 };
#define SECOND_NS INT64_C(1000000000)
#define ANSWER_NS (30 * SECOND_NS) /* a bound on hanging, for machines that crawl */

typedef struct route_count {
    const char *path;
    _Atomic(int64_t) requests, failed, took_ns, longest_ns;
} route_count;

static route_count routes[] = {
    {.path = "/hash"},  {.path = "/sum?workers=4"}, {.path = "/leak"},
    {.path = "/churn"}, {.path = "/slow"},
};
enum { ROUTES = sizeof routes / sizeof *routes };

static struct load {
    const char *to, *path;
    long seconds, connections;
    int nroutes;
    int64_t deadline;
    weft_wg running;
    _Atomic(int) number;  /* of connections begun */
    _Atomic(bool) failed; /* why is written by the one who sets it */
    char why[128];
} load = {.seconds = 10, .connections = 8, .nroutes = ROUTES};

static volatile sig_atomic_t stopped;

static void stop(int sig)
{
    (void)sig;
    stopped = 1;
}

static void failure(const char *path, const char *why)
{
    if (!atomic_exchange_explicit(&load.failed, true, memory_order_relaxed))
        snprintf(load.why, sizeof load.why, "%s: %s", path, why);
}

/* ---- one connection ---- */

typedef struct client {
    int fd;
    int64_t dl;
    size_t have;
    char buf[REPLY_MAX + 1];
} client;

static int read_more(client *c)
{
    if (c->have == REPLY_MAX)
        return -EMSGSIZE;
    ssize_t n = weft_read_dl(c->fd, c->buf + c->have, REPLY_MAX - c->have, c->dl);
    if (n <= 0)
        return n ? (int)n : -ECONNRESET;
    c->have += (size_t)n;
    c->buf[c->have] = '\0';
    return 0;
}

/* The status of the answer, all of it read; or a negative errno. */
static int read_answer(client *c)
{
    const char *end;
    int status;
    while (!(end = strstr(c->buf, "\r\n\r\n"))) {
        int rc = read_more(c);
        if (rc)
            return rc;
    }
    const char *length = strcasestr(c->buf, "\r\nContent-Length:");
    if (sscanf(c->buf, "HTTP/1.1 %3d ", &status) != 1 || !length || length > end)
        return -EBADMSG;
    size_t want = (size_t)(end + 4 - c->buf) + strtoul(length + 17, NULL, 10);
    while (c->have < want) {
        int rc = read_more(c);
        if (rc)
            return rc;
    }
    return c->have == want ? status : -EBADMSG;
}

static int ask(client *c, const char *path)
{
    char request[512];
    int n = snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, load.to);
    if ((size_t)n >= sizeof request)
        return -ENAMETOOLONG;
    c->dl = weft_now() + ANSWER_NS;
    c->have = 0;
    c->buf[0] = '\0';
    ssize_t sent = weft_write_dl(c->fd, request, (size_t)n, c->dl);
    if (sent != n)
        return sent < 0 ? (int)sent : -EPIPE;
    return read_answer(c);
}

/* One request, counted. False ends the connection. */
static bool ask_counted(client *c, route_count *r)
{
    int64_t begin = weft_now();
    int status = ask(c, r->path);
    int64_t took = weft_now() - begin;
    char text[32];
    atomic_fetch_add_explicit(&r->requests, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&r->took_ns, took, memory_order_relaxed);
    int64_t longest = atomic_load_explicit(&r->longest_ns, memory_order_relaxed);
    while (took > longest &&
           !atomic_compare_exchange_weak_explicit(&r->longest_ns, &longest, took,
                                                  memory_order_relaxed, memory_order_relaxed)) {
    }
    if (status == 200)
        return true;
    atomic_fetch_add_explicit(&r->failed, 1, memory_order_relaxed);
    snprintf(text, sizeof text, "status %d", status);
    failure(r->path, status < 0 ? strerror(-status) : text);
    return status > 0;
}

static void connection(void *arg)
{
    (void)arg;
    int turn = atomic_fetch_add_explicit(&load.number, 1, memory_order_relaxed);
    client *c = malloc(sizeof *c);
    int fd = c ? weft_dial_dl("tcp", load.to, weft_now() + ANSWER_NS) : -ENOMEM;
    if (fd < 0) {
        failure(load.to, strerror(-fd));
    } else {
        c->fd = fd;
        while (!stopped && weft_now() < load.deadline)
            if (!ask_counted(c, &routes[turn++ % load.nroutes]))
                break;
        weft_close(fd);
    }
    free(c);
    weft_wg_done(&load.running);
}

/* ---- the whole ---- */

static void print_table(double seconds)
{
    int64_t all = 0;
    printf("%-24s %9s %7s %9s %9s\n", "route", "requests", "failed", "mean ms", "max ms");
    for (int i = 0; i < load.nroutes; i++) {
        route_count *r = &routes[i];
        double n = r->requests ? (double)r->requests : 1;
        printf("%-24s %9lld %7lld %9.2f %9.2f\n", r->path, (long long)r->requests,
               (long long)r->failed, (double)r->took_ns / n / 1e6, (double)r->longest_ns / 1e6);
        all += r->requests;
    }
    printf("%lld requests over %ld connections in %.1f s\n", (long long)all, load.connections,
           seconds);
}

static int run(int argc, char **argv)
{
    (void)argc, (void)argv;
    int64_t begin = weft_now();
    load.deadline = begin + load.seconds * SECOND_NS;
    /* One connection first: a service that is not there is one line, not one per connection. */
    int fd = weft_dial_dl("tcp", load.to, begin + ANSWER_NS);
    if (fd < 0)
        return demo_fail("load: %s: %s", load.to,
                         fd == -EINVAL ? "not an address (HOST:PORT)" : strerror(-fd));
    weft_close(fd);
    for (long i = 0; i < load.connections; i++) {
        weft_wg_add(&load.running, 1);
        int rc = weft_go_opts(&(weft_opts){.name = "client"}, connection, NULL);
        if (rc) {
            failure("a new connection", strerror(-rc));
            weft_wg_done(&load.running);
        }
    }
    weft_wg_wait(&load.running);
    print_table((double)(weft_now() - begin) / 1e9);
    fflush(stdout);
    return load.failed ? demo_fail("load: %s", load.why) : 0;
}

int demo_load(int argc, char **argv)
{
    const demo_flag flags[] = {
        {.name = "--to", .text = &load.to},
        {.name = "--path", .text = &load.path},
        {"--seconds", NULL, &load.seconds, 1, 1000000},
        {"--connections", NULL, &load.connections, 1, MAX_CONNECTIONS},
        {0},
    };
    int rc = demo_flags(flags, 1, argc, argv);
    if (rc)
        return rc;
    if (!load.to) {
        demo_fail("load: --to HOST:PORT is missing");
        return 2;
    }
    if (load.path && load.path[0] != '/') {
        demo_fail("load: --path %s: a path begins with /", load.path);
        return 2;
    }
    if (load.path) {
        routes[0].path = load.path;
        load.nroutes = 1;
    }
    signal(SIGTERM, stop);
    signal(SIGINT, stop);
    return weft_run(run, argc, argv);
}
