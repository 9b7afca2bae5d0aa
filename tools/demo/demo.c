/* weft-demo: a small HTTP service on Weft coroutines whose routes behave like real trouble, and
 * `weft-demo load`, the client that drives them. The service is what `make demo` profiles.
 *
 *  1. Both addresses are bound before the first coroutine runs, so that a wrong address or a port
 *     in use is one line and status 1, and whoever reads the line "profiles" can connect.
 *  2. Port 0 lets the kernel pick; the two lines on stdout tell what it picked. That is how the
 *     scripts get free ports without a race.
 *
 * Block and mutex profiles are off in Weft unless asked for; the service asks, for every contended
 * unlock (they are some hundred a second at most) and for waits of 10 us on the average.
 */
#include "tools/demo/demo.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "weft_net.h"
#include "weft_pprof.h"

enum { BLOCK_RATE_NS = 10000, MUTEX_FRACTION = 1 };

static const char help[] =
    "weft-demo [--listen HOST:PORT] [--pprof HOST:PORT] [--seconds N]\n"
    "    an HTTP service on Weft coroutines and its profiles; 127.0.0.1:8080 and\n"
    "    127.0.0.1:6060 unless told, port 0 picks one; ends after N seconds (0: never)\n"
    "weft-demo load --to HOST:PORT [--seconds N] [--connections N] [--path PATH]\n"
    "    drives load on it: every route in turn, or PATH alone\n";

int demo_fail(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fputs("weft-demo: ", stderr);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
    va_end(ap);
    return 1;
}

static int usage_error(const char *word, const char *what)
{
    demo_fail("%s: %s (weft-demo --help lists the flags)", word, what);
    return 2;
}

static int set_flag(const demo_flag *f, const char *value)
{
    if (f->text) {
        *f->text = value;
        return 0;
    }
    char *end;
    errno = 0;
    long n = strtol(value, &end, 10);
    if (errno || end == value || *end || n < f->min || n > f->max) {
        demo_fail("%s: \"%s\" is not a number from %ld to %ld", f->name, value, f->min, f->max);
        return 2;
    }
    *f->number = n;
    return 0;
}

int demo_flags(const demo_flag *flags, int first, int argc, char **argv)
{
    for (int i = first; i < argc; i++) {
        size_t n = strcspn(argv[i], "=");
        const demo_flag *f = flags;
        while (f->name && (strlen(f->name) != n || strncmp(f->name, argv[i], n) != 0))
            f++;
        if (!f->name)
            return usage_error(argv[i], "unknown flag");
        const char *value = argv[i][n] ? argv[i] + n + 1 : argv[++i];
        if (!value)
            return usage_error(f->name, "needs a value");
        int rc = set_flag(f, value);
        if (rc)
            return rc;
    }
    return 0;
}

/* ---- the service ---- */

static struct service {
    const char *listen, *pprof;
    long seconds;
    int fd;
} service = {.listen = "127.0.0.1:8080", .pprof = "127.0.0.1:6060"};

static void accept_all(void *arg)
{
    (void)arg;
    int rc = demo_http_serve(service.fd, demo_route);
    exit(demo_fail("--listen %s: %s", service.listen, strerror(-rc)));
}

static int serve(int argc, char **argv)
{
    (void)argc, (void)argv;
    int rc = weft_go_opts(&(weft_opts){.name = "accept"}, accept_all, NULL);
    if (rc)
        return demo_fail("accept: %s", strerror(-rc));
    if (service.seconds > 0)
        weft_sleep(service.seconds * INT64_C(1000000000));
    else
        weft_select(NULL, 0);
    return 0;
}

static int address_error(const char *flag, const char *addr, int rc)
{
    const char *why = strerror(-rc);
    if (rc == -EINVAL)
        why = "not an address (HOST:PORT)";
    else if (rc == -ENOENT)
        why = "unknown host";
    else if (rc == -EALREADY)
        why = "profiles are served already (is WEFT_PPROF set?)";
    else if (rc == -ELIBACC)
        why = "libweft-present.so cannot be opened";
    return demo_fail("%s %s: %s", flag, addr, why);
}

static int port_of(int fd)
{
    struct sockaddr_in6 a; /* the port stands at the same place in both families */
    socklen_t n = sizeof a;
    /* getsockname fills it. NOLINTNEXTLINE(clang-analyzer-core.CallAndMessage) */
    return getsockname(fd, (struct sockaddr *)&a, &n) ? 0 : ntohs(a.sin6_port);
}

static void say_url(const char *what, const char *addr, int port, const char *path)
{
    int host = (int)(strrchr(addr, ':') - addr);
    if (strncmp(addr, "unix:", 5) == 0)
        printf("weft-demo: %s %s\n", what, addr);
    else
        printf("weft-demo: %s http://%.*s:%d%s\n", what, host ? host : 9, host ? addr : "127.0.0.1",
               port, path);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "load") == 0)
        return demo_load(argc - 1, argv + 1);
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        fputs(help, stdout);
        return 0;
    }
    const demo_flag flags[] = {{.name = "--listen", .text = &service.listen},
                               {.name = "--pprof", .text = &service.pprof},
                               {"--seconds", NULL, &service.seconds, 0, 1000000000},
                               {0}};
    int rc = demo_flags(flags, 1, argc, argv);
    if (rc)
        return rc;
    service.fd = weft_listen("tcp", service.listen);
    if (service.fd < 0)
        return address_error("--listen", service.listen, service.fd);
    int port = weft_pprof_serve(service.pprof);
    if (port < 0)
        return address_error("--pprof", service.pprof, port);
    weft_pprof_block_rate(BLOCK_RATE_NS);
    weft_pprof_mutex_fraction(MUTEX_FRACTION);
    /* On one processor the workers of /sum take turns and never meet at their lock. */
    if (weft_procs(0) < 2)
        weft_procs(2);
    say_url("service ", service.listen, port_of(service.fd), "/");
    say_url("profiles", service.pprof, port, "/debug/pprof/");
    fflush(stdout);
    return weft_run(serve, argc, argv);
}
