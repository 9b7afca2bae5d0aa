/* Addresses as people write them. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include "tests/profiler/present/fake.h"

static pf_listener l;

static int try(const char *addr)
{
    int r = pf_listen(&l, addr);

    if (r == 0) {
        int on = 0;
        socklen_t n = sizeof on;
        cr_assert_eq(getsockopt(l.fd, SOL_SOCKET, SO_ACCEPTCONN, &on, &n), 0);
        cr_assert_eq(on, 1, "%s does not listen", addr);
    } else {
        cr_assert_eq(l.fd, -1);
    }
    return r;
}

static const char *bound_to(void)
{
    static char text[64];
    struct sockaddr_storage sa;
    socklen_t n = sizeof sa;

    cr_assert_eq(getsockname(l.fd, (struct sockaddr *)&sa, &n), 0);
    if (sa.ss_family == AF_INET)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&sa)->sin_addr, text, sizeof text);
    else
        inet_ntop(AF_INET6, &((struct sockaddr_in6 *)&sa)->sin6_addr, text, sizeof text);
    return text;
}

static bool have_v6(void)
{
    struct sockaddr_in6 sa = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&sa, sizeof sa) == 0;

    close(fd);
    return ok;
}

Test(listen, hosts_and_ports)
{
    static const struct {
        const char *addr, *bound;
        bool loopback;
    } t[] = {{"127.0.0.1:0", "127.0.0.1", true},
             {":0", "127.0.0.1", true},
             {"localhost:0", "127.0.0.1", true},
             {"127.1.2.3:0", "127.1.2.3", true},
             {"0.0.0.0:0", "0.0.0.0", false},
             {"[::1]:0", "::1", true},
             {"[::]:0", "::", false}};

    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        if (t[i].addr[0] == '[' && !have_v6())
            continue;
        cr_assert_eq(try(t[i].addr), 0, "%s", t[i].addr);
        cr_assert_str_eq(bound_to(), t[i].bound);
        cr_assert_eq(l.loopback, t[i].loopback, "%s", t[i].addr);
        cr_assert_gt(l.port, 0);
        pf_listen_close(&l);
    }
}

Test(listen, all_v6_takes_v4_too)
{
    if (!have_v6())
        return;
    cr_assert_eq(try("[::]:0"), 0);
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)l.port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    close(fd);
    pf_listen_close(&l);
}

Test(listen, malformed)
{
    static const char *const t[] = {
        "",           "6060",        "localhost",     "127.0.0.1:", "1.2.3.4:x",
        "1.2.3.4:-1", "1.2.3.4:0x1", "1.2.3.4:65536", "::1:80",     "[::1]",
        "[::1:80",    "[::1]x:80",   "[1.2.3.4]:1",   "1.2.3:x:1",  "1.2.3.999:1",
        "http://h:1", "unix:",       "unix:@",        "a b:1",      "[zz::1]:1"};

    for (size_t i = 0; i < sizeof t / sizeof *t; i++)
        cr_assert_eq(try(t[i]), -EINVAL, "%s", t[i]);
    cr_assert_eq(try(NULL), -EINVAL);
    char longer[256] = "unix:/";
    memset(longer + 6, 'x', 200);
    cr_assert_eq(try(longer), -EINVAL);
}

Test(listen, port_in_use)
{
    char addr[64];
    pf_listener first;

    cr_assert_eq(try("127.0.0.1:0"), 0);
    first = l;
    snprintf(addr, sizeof addr, "127.0.0.1:%d", first.port);
    cr_assert_eq(try(addr), -EADDRINUSE);
    pf_listen_close(&first);
    cr_assert_eq(try(addr), 0);
    pf_listen_close(&l);
}

static char path[64];

static void temporary(void)
{
    snprintf(path, sizeof path, "/tmp/weft-listen-%d", (int)getpid());
}

static void gone(void)
{
    unlink(path);
}

Test(listen, unix_sockets, .init = temporary, .fini = gone)
{
    char addr[96];
    struct stat st;
    pf_listener first;

    cr_assert_eq(try("unix:/tmp/weft-listen-%p"), 0);
    cr_assert_str_eq(l.path, path, "%%p is the process id");
    cr_assert_eq(l.port, 0);
    cr_assert_eq(lstat(path, &st), 0);
    cr_assert_eq(st.st_mode & 0777, 0600, "nobody else may ask");
    first = l;
    snprintf(addr, sizeof addr, "unix:%s", path);
    cr_assert_eq(try(addr), -EADDRINUSE, "a live server keeps its path");
    cr_assert_eq(lstat(path, &st), 0);

    close(first.fd); /* it dies without removing its path */
    cr_assert_eq(try(addr), 0, "a dead one's path is taken over");
    pf_listen_close(&l);
    cr_assert_neq(lstat(path, &st), 0, "and removed at the end");

    cr_assert_eq(try(addr), 0);
    unlink(path);
    FILE *f = fopen(path, "w"); /* somebody else's by now */
    fclose(f);
    pf_listen_close(&l);
    cr_assert_eq(lstat(path, &st), 0);
    cr_assert_eq(try(addr), -EADDRINUSE, "no socket, so not touched");
    cr_assert_eq(lstat(path, &st), 0);
    cr_assert_eq(try("unix:/nowhere/at/all"), -ENOENT);
    cr_assert_eq(try("unix:@weft-listen-%p"), 0);
    pf_listen_close(&l);
}
