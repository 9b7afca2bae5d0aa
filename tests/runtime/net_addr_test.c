/* The address reader: what each text means, and which texts mean nothing. */
#include "runtime/net_addr.h"
#include "tests/check.h"
#include <arpa/inet.h>
#include <errno.h>
#include <stddef.h>

/* "4 127.0.0.1:80", "6 [::1]:80", with " dual" where it takes both; entries joined by " | ". */
static void render(const rt_addr *a, int n, char *out, size_t room)
{
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        char ip[INET6_ADDRSTRLEN] = "";
        bool six = a[i].sa.sa_family == AF_INET6;
        const void *from = six ? (const void *)&a[i].in6.sin6_addr : &a[i].in.sin_addr;
        inet_ntop(a[i].sa.sa_family, from, ip, sizeof ip);
        cr_assert_eq(a[i].len, six ? sizeof a[i].in6 : sizeof a[i].in);
        at += (size_t)snprintf(
            out + at, room - at, six ? "%s6 [%s]:%d%s" : "%s4 %s:%d%s", i ? " | " : "", ip,
            ntohs(six ? a[i].in6.sin6_port : a[i].in.sin_port), a[i].dual ? " dual" : "");
    }
}

struct row {
    const char *net, *addr;
    bool passive;
    const char *want; /* NULL: err */
    int err;
};

static void check_rows(const struct row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        rt_addr a[RT_ADDR_MAX];
        char got[256] = "";
        int r = rt_addr_parse(rows[i].net, rows[i].addr, rows[i].passive, a);
        if (!rows[i].want) {
            cr_assert_eq(r, rows[i].err, "row %zu: %s %s", i, rows[i].net, rows[i].addr);
            continue;
        }
        cr_assert_gt(r, 0, "row %zu: %s %s", i, rows[i].net, rows[i].addr);
        render(a, r, got, sizeof got);
        cr_assert_str_eq(got, rows[i].want, "row %zu: %s %s", i, rows[i].net, rows[i].addr);
    }
}

Test(net_addr, good)
{
    static const struct row rows[] = {
        {"tcp", "127.0.0.1:80", false, "4 127.0.0.1:80", 0},
        {"tcp4", "10.1.2.3:65535", true, "4 10.1.2.3:65535", 0},
        {"tcp", "0.0.0.0:1", true, "4 0.0.0.0:1", 0},
        {"tcp", "127.0.0.1:0", true, "4 127.0.0.1:0", 0},
        {"tcp", "127.0.0.1:00080", false, "4 127.0.0.1:80", 0},
        {"tcp", "[::1]:80", false, "6 [::1]:80", 0},
        {"tcp6", "[2001:db8::7]:443", true, "6 [2001:db8::7]:443", 0},
        {"tcp", "[::]:80", true, "6 [::]:80 dual", 0},
        {"tcp6", "[::]:80", true, "6 [::]:80", 0},
        {"tcp", "[::]:80", false, "6 [::]:80", 0},
        {"tcp", "[::ffff:1.2.3.4]:9", false, "6 [::ffff:1.2.3.4]:9", 0},
        {"tcp", ":80", true, "6 [::]:80 dual | 4 0.0.0.0:80", 0},
        {"tcp4", ":80", true, "4 0.0.0.0:80", 0},
        {"tcp6", ":80", true, "6 [::]:80", 0},
        {"tcp", ":80", false, "4 127.0.0.1:80 | 6 [::1]:80", 0},
        {"tcp", "localhost:80", false, "4 127.0.0.1:80 | 6 [::1]:80", 0},
        {"tcp", "localhost:80", true, "4 127.0.0.1:80 | 6 [::1]:80", 0},
        {"tcp4", "LocalHost.:80", false, "4 127.0.0.1:80", 0},
        {"tcp6", "localhost:80", false, "6 [::1]:80", 0},
    };
    check_rows(rows, sizeof rows / sizeof rows[0]);
}

Test(net_addr, bad)
{
    static const char *const malformed[] = {
        "",
        ":",
        "80",
        "localhost",
        "127.0.0.1",
        "127.0.0.1:",
        "[::1]",
        "[::1]80",
        "[::1]:",
        "[]:80",
        "[::1:80",
        "::1:80",
        "1.2.3.4:x",
        "1.2.3.4:-1",
        "1.2.3.4:+1",
        "1.2.3.4: 1",
        "1.2.3.4:1 ",
        "1.2.3.4:65536",
        "1.2.3:80",
        "256.1.1.1:1",
        "01.2.3.4:80",
        "1.2.3.4.5:80",
        "127.1:80",
        "1:80",
        "[1.2.3.4]:80",
        "[::g]:80",
        "[::1%]:80",
        "[fe80::1%0]:80",
        "a b:80",
        "-x:80",
        ".x:80",
        "x..y:80",
        "x/y:80",
        "1.2.3.4:http",
        "[::1]:http",
        "1.2.3.4:0x50",
        "1.2.3.4:99999999999999999999",
        "[::1%no-such-interface]:80",
        "[[::1]]:80",
        "x]:80",
    };
    for (size_t i = 0; i < sizeof malformed / sizeof malformed[0]; i++) {
        rt_addr a[RT_ADDR_MAX];
        cr_assert_eq(rt_addr_parse("tcp", malformed[i], false, a), -EINVAL, "%s", malformed[i]);
        cr_assert_eq(rt_addr_parse("tcp", malformed[i], true, a), -EINVAL, "%s", malformed[i]);
    }
    static const struct row rows[] = {
        {"tcp", "example.com:80", false, NULL, -ENOENT},
        {"tcp", "db-1:5432", true, NULL, -ENOENT},
        {"tcp", "a_b.c:1", false, NULL, -ENOENT},
        {"tcp4", "[::1]:80", false, NULL, -EINVAL},
        {"tcp6", "127.0.0.1:80", false, NULL, -EINVAL},
        {"udp", "127.0.0.1:80", false, NULL, -EINVAL},
        {"", "127.0.0.1:80", false, NULL, -EINVAL},
        {"tcp5", "127.0.0.1:80", false, NULL, -EINVAL},
        {"TCP", "127.0.0.1:80", false, NULL, -EINVAL},
        {NULL, "127.0.0.1:80", false, NULL, -EINVAL},
        {"tcp", NULL, false, NULL, -EINVAL},
        {"unix", "", false, NULL, -EINVAL},
        {"unix", "@", false, NULL, -EINVAL},
    };
    check_rows(rows, sizeof rows / sizeof rows[0]);
}

Test(net_addr, long_hosts)
{
    rt_addr a[RT_ADDR_MAX];
    char text[400];
    memset(text, 'a', sizeof text);
    strcpy(text + 255, ":80");
    cr_assert_eq(rt_addr_parse("tcp", text, false, a), -ENOENT);
    memset(text, 'a', sizeof text);
    strcpy(text + 256, ":80");
    cr_assert_eq(rt_addr_parse("tcp", text, false, a), -EINVAL);
}

Test(net_addr, zone)
{
    rt_addr a[RT_ADDR_MAX];
    cr_assert_eq(rt_addr_parse("tcp", "[fe80::1%7]:80", false, a), 1);
    cr_assert_eq(a[0].in6.sin6_scope_id, 7);
    cr_assert_eq(rt_addr_parse("tcp", "[fe80::1%lo]:80", false, a), 1);
    cr_assert_gt(a[0].in6.sin6_scope_id, 0);
}

Test(net_addr, unix_paths)
{
    rt_addr a[RT_ADDR_MAX];
    const size_t head = offsetof(struct sockaddr_un, sun_path);
    char path[200];
    cr_assert_eq(rt_addr_parse("unix", "/tmp/s", true, a), 1);
    cr_assert_eq(a[0].sa.sa_family, AF_UNIX);
    cr_assert_str_eq(a[0].un.sun_path, "/tmp/s");
    cr_assert_eq(a[0].len, head + 7);

    cr_assert_eq(rt_addr_parse("unix", "@name", true, a), 1);
    cr_assert_eq(a[0].un.sun_path[0], '\0');
    cr_assert_eq(memcmp(a[0].un.sun_path + 1, "name", 4), 0);
    cr_assert_eq(a[0].len, head + 5, "an abstract name has no NUL at its end");

    memset(path, 'x', sizeof path);
    path[107] = '\0';
    cr_assert_eq(rt_addr_parse("unix", path, true, a), 1);
    path[107] = 'x';
    path[108] = '\0';
    cr_assert_eq(rt_addr_parse("unix", path, true, a), -ENAMETOOLONG);
    path[0] = '@';
    cr_assert_eq(rt_addr_parse("unix", path, true, a), 1);
    path[108] = 'x';
    path[109] = '\0';
    cr_assert_eq(rt_addr_parse("unix", path, true, a), -ENAMETOOLONG);
}
