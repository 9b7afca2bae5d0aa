/* weft_net.h on loopback: both kinds of callers, all kinds of descriptors, every way to end. */
#define SUITE net
#include "tests/runtime/net_help.h"
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/stat.h>

/* "host" with the port the listener got. */
static const char *addr_of(int listener, const char *host)
{
    static char text[64];
    struct sockaddr_in6 a; /* the port is at the same place in both families */
    socklen_t n = sizeof a;
    cr_assert_eq(getsockname(listener, (struct sockaddr *)&a, &n), 0);
    snprintf(text, sizeof text, "%s:%d", host, ntohs(a.sin6_port));
    return text;
}

static int listen_tcp(void)
{
    int fd = weft_listen("tcp", "127.0.0.1:0");
    cr_assert_geq(fd, 0, "listen: %d", fd);
    return fd;
}

/* A connected TCP pair. */
static void tcp_pair(int s[2])
{
    int l = listen_tcp();
    s[0] = weft_dial("tcp", addr_of(l, "127.0.0.1"));
    cr_assert_geq(s[0], 0);
    s[1] = weft_accept(l);
    cr_assert_geq(s[1], 0);
    weft_close(l);
}

static void fill(int fd)
{
    char block[4096] = "";
    while (send(fd, block, sizeof block, MSG_DONTWAIT | MSG_NOSIGNAL) > 0)
        continue;
}

/* ---- echo ---- */

static void echo_one(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char buf[512];
    ssize_t n;
    while ((n = weft_read(fd, buf, sizeof buf)) > 0)
        cr_assert_eq(weft_write(fd, buf, (size_t)n), n);
    cr_assert_eq(n, 0);
    cr_assert_eq(weft_close(fd), 0);
}

static void echo_server(void *arg)
{
    int fd, l = (int)(intptr_t)arg;
    while ((fd = weft_accept(l)) >= 0)
        spawn(echo_one, (void *)(intptr_t)fd);
    cr_assert_eq(fd, -EBADF, "the listener was closed");
}

static void converse(int fd, int rounds)
{
    char out[64], in[64];
    cr_assert_geq(fd, 0, "dial: %d", fd);
    for (int i = 0; i < rounds; i++) {
        int n = snprintf(out, sizeof out, "message %d of %d", i, fd), got = 0;
        cr_assert_eq(weft_write(fd, out, (size_t)n), n);
        while (got < n) {
            ssize_t r = weft_read(fd, in + got, sizeof in - (size_t)got);
            cr_assert_gt(r, 0);
            got += (int)r;
        }
        cr_assert_eq(memcmp(in, out, (size_t)n), 0);
    }
    cr_assert_eq(weft_close(fd), 0);
}

static void echo_over(const char *net, const char *at, const char *to)
{
    int l = weft_listen(net, at);
    cr_assert_geq(l, 0, "listen %s %s: %d", net, at, l);
    char target[128];
    snprintf(target, sizeof target, "%s", to ? addr_of(l, to) : at);
    spawn(echo_server, (void *)(intptr_t)l);
    for (int i = 0; i < 3; i++)
        converse(weft_dial(net, target), 20);
    cr_assert_eq(weft_close(l), 0);
    join(&spawned);
}

BOTH(echo, 60)
{
    echo_over("tcp", "127.0.0.1:0", "127.0.0.1");
    echo_over("tcp4", "localhost:0", "localhost");
    echo_over("tcp6", "[::1]:0", "[::1]");
    echo_over("tcp", "[::1]:0", "localhost"); /* the second address of localhost answers */
    echo_over("tcp", ":0", "");
    echo_over("tcp", ":0", "127.0.0.1"); /* one socket for both families */
    echo_over("tcp", ":0", "[::1]");
    echo_over("unix", abstract("echo"), NULL);
    echo_over("unix", scratch("echo"), NULL);
    unlink(scratch("echo"));
    return 0;
}

static char pairs_target[64];
static void client(void *arg)
{
    (void)arg;
    converse(weft_dial("tcp", pairs_target), SCALE(200));
}
BODY(pairs)
{
    int l = listen_tcp();
    weft_wg clients = WEFT_WG_INIT;
    strcpy(pairs_target, addr_of(l, "127.0.0.1"));
    start(&spawned, 8, echo_server, (void *)(intptr_t)l); /* acceptors in competition */
    start(&clients, 200, client, NULL);
    join(&clients);
    cr_assert_eq(weft_close(l), 0);
    join(&spawned);
    cr_assert_eq(rt_poll_waiters(), 0);
    return 0;
}
Test(net, pairs, .timeout = 100)
{
    RUN(2, pairs);
}

/* ---- deadlines ---- */

BOTH(deadlines, 60)
{
    int s[2], l = listen_tcp();
    char c;
    blocking_pair(s);
    int64_t until = weft_now() + 20 * MS;
    cr_assert_eq(weft_read_dl(s[0], &c, 1, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    cr_assert_eq(weft_read_dl(s[0], &c, 1, 0), -ETIMEDOUT);
    cr_assert_eq(weft_write_dl(s[1], "x", 1, 0), 1, "it tries first");
    cr_assert_eq(weft_read_dl(s[0], &c, 1, 0), 1);

    until = weft_now() + 20 * MS;
    cr_assert_eq(weft_accept_dl(l, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    cr_assert_eq(weft_accept_dl(l, 0), -ETIMEDOUT);

    until = weft_now() + 20 * MS;
    cr_assert_eq(weft_fd_wait_dl(s[0], POLLIN, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);

    fill(s[0]);
    until = weft_now() + 20 * MS;
    cr_assert_eq(weft_write_dl(s[0], "x", 1, until), -ETIMEDOUT);
    cr_assert_geq(weft_now(), until);
    return 0;
}

BOTH(part_of_a_write_before_the_deadline, 60)
{
    int s[2];
    size_t size = 8 << 20;
    char *big = calloc(1, size);
    tcp_pair(s);
    ssize_t n = weft_write_dl(s[0], big, size, weft_now() + 30 * MS);
    cr_assert_gt(n, 0);
    cr_assert_lt(n, size);
    cr_assert_eq(weft_write_dl(s[0], big, size, weft_now() + 10 * MS), -ETIMEDOUT);
    for (ssize_t got = 0; got < n;)
        got += weft_read(s[1], big, size);
    free(big);
    return 0;
}

/* A backlog of one: connects beyond it hang in the kernel. */
BOTH(dial_deadline, 60)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), r = 0;
    cr_assert_eq(bind(l, (struct sockaddr *)&a, sizeof a), 0);
    cr_assert_eq(listen(l, 0), 0);
    char target[64];
    strcpy(target, addr_of(l, "127.0.0.1"));
    for (int i = 0; i < 16 && r >= 0; i++) {
        int64_t until = weft_now() + 50 * MS;
        r = weft_dial_dl("tcp", target, until);
        if (r == -ETIMEDOUT)
            cr_assert_geq(weft_now(), until);
    }
    cr_assert_eq(r, -ETIMEDOUT);
    return 0;
}

static void unix_dialer(void *arg)
{
    *(int *)arg = weft_dial("unix", abstract("backlog"));
}
BOTH(dial_unix_backlog, 60)
{
    struct sockaddr_un a;
    socklen_t size = abstract_addr("backlog", &a);
    int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), r = 0, late = -1;
    cr_assert_eq(bind(l, (struct sockaddr *)&a, size), 0);
    cr_assert_eq(listen(l, 0), 0);
    for (int i = 0; i < 4 && r >= 0; i++)
        r = weft_dial_dl("unix", abstract("backlog"), weft_now() + 20 * MS);
    cr_assert_eq(r, -ETIMEDOUT);
    spawn(unix_dialer, &late);
    weft_sleep(5 * MS);
    cr_assert_geq(weft_accept(l), 0);
    join(&spawned);
    cr_assert_geq(late, 0, "room in the backlog lets it in");
    return 0;
}

/* ---- closing ---- */

struct reader {
    int fd;
    ssize_t result;
};
static void read_one(void *arg)
{
    struct reader *r = arg;
    char c;
    r->result = weft_read(r->fd, &c, 1);
}

BODY(close_while_read)
{
    enum { PAIRS = 500 };
    static struct reader r[PAIRS];
    static int peer[PAIRS];
    struct rlimit files = {4096, 4096};
    setrlimit(RLIMIT_NOFILE, &files);
    for (int i = 0; i < PAIRS; i++) {
        int s[2];
        blocking_pair(s);
        r[i].fd = s[0];
        peer[i] = s[1];
        spawn(read_one, &r[i]);
    }
    await_parked(PAIRS);
    for (int i = 0; i < PAIRS; i++)
        cr_assert_eq(weft_close(r[i].fd), 0);
    join(&spawned);
    for (int i = 0; i < PAIRS; i++) {
        cr_assert_eq(r[i].result, -EBADF);
        close(peer[i]);
    }
    cr_assert_eq(rt_poll_waiters(), 0);
    return 0;
}
Test(net, close_while_read, .timeout = 60)
{
    RUN(2, close_while_read);
}

/* At any moment of the other side's call: before it, in it, in poll. */
BOTH(close_at_any_moment, 100)
{
    for (int i = 0; i < SCALE(400); i++) {
        int s[2];
        blocking_pair(s);
        struct reader r = {.fd = s[0]};
        spawn(read_one, &r);
        for (int k = (i * 7919) % 5000; k; k--)
            rt_pause();
        if (i % 10 == 0)
            weft_sleep(MS);
        cr_assert_eq(weft_close(s[0]), 0);
        join(&spawned);
        cr_assert_eq(r.result, -EBADF);
        close(s[1]);
    }
    return 0;
}

static void accept_one(void *arg)
{
    struct reader *r = arg;
    r->result = weft_accept(r->fd);
}
BOTH(close_while_accepting, 60)
{
    struct reader r = {.fd = listen_tcp()};
    spawn(accept_one, &r);
    weft_sleep(5 * MS);
    cr_assert_eq(weft_close(r.fd), 0);
    join(&spawned);
    cr_assert_eq(r.result, -EBADF);
    return 0;
}

/* A reset with only a writer waiting; it says what went, then why. */
BOTH(peer_reset_wakes_a_writer, 60)
{
    int s[2];
    tcp_pair(s);
    struct writer w = {.fd = s[0], .n = 16 << 20};
    spawn(write_twice, &w);
    cr_assert_eq(weft_fd_wait(s[1], POLLIN), POLLIN);
    weft_sleep(20 * MS);
    struct linger now = {.l_onoff = 1, .l_linger = 0};
    setsockopt(s[1], SOL_SOCKET, SO_LINGER, &now, sizeof now);
    cr_assert_eq(weft_close(s[1]), 0);
    join(&spawned);
    cr_assert_gt(w.first, 0);
    cr_assert_lt(w.first, w.n);
    cr_assert(w.second == -EPIPE || w.second == -ECONNRESET, "%zd", w.second);
    return 0;
}

BOTH(no_sigpipe, 60)
{
    int s[2], t[2];
    char ab[4] = "abcd";
    struct iovec v[2] = {{ab, 2}, {ab + 2, 2}};
    blocking_pair(s);
    weft_close(s[1]);
    cr_assert_eq(weft_write(s[0], "x", 1), -EPIPE);
    cr_assert_eq(weft_writev_dl(s[0], v, 2, WEFT_FOREVER), -EPIPE);
    cr_assert_eq(weft_sendto_dl(s[0], "x", 1, 0, NULL, 0, WEFT_FOREVER), -EPIPE);
    tcp_pair(t);
    cr_assert_eq(weft_shutdown(t[0], SHUT_WR), 0);
    cr_assert_eq(weft_write(t[0], "x", 1), -EPIPE);
    char c;
    cr_assert_eq(weft_read(t[1], &c, 1), 0);
    cr_assert_eq(weft_shutdown(s[1], SHUT_WR), -EBADF);
    return 0;
}

static void shut_later(void *arg)
{
    weft_sleep(10 * MS);
    weft_shutdown((int)(intptr_t)arg, SHUT_RDWR);
}
BOTH(shutdown_wakes, 60)
{
    int s[2];
    char c;
    tcp_pair(s);
    spawn(shut_later, (void *)(intptr_t)s[0]);
    cr_assert_eq(weft_read(s[0], &c, 1), 0);
    join(&spawned);
    return 0;
}

static _Atomic(int) lingered;
static void close_lingering(void *arg)
{
    cr_assert_eq(weft_close((int)(intptr_t)arg), 0);
    atomic_store(&lingered, 1);
}
/* SO_LINGER makes close(2) block for unsent data: not on a processor. */
BODY(lingering_close)
{
    int s[2], beats = 0;
    struct linger on = {.l_onoff = 1, .l_linger = 1};
    tcp_pair(s);
    fill(s[0]);
    setsockopt(s[0], SOL_SOCKET, SO_LINGER, &on, sizeof on);
    spawn(close_lingering, (void *)(intptr_t)s[0]);
    while (!atomic_load(&lingered)) {
        weft_sleep(MS);
        beats++;
    }
    cr_assert_gt(beats, 50);
    cr_assert_eq(fcntl(s[0], F_GETFD), -1);
    join(&spawned);
    return 0;
}
Test(net, lingering_close, .timeout = 30)
{
    RUN(1, lingering_close);
}

/* ---- big transfers ---- */

static uint8_t pattern(size_t i)
{
    return (uint8_t)(i * 31 + (i >> 12));
}

struct drain {
    int fd;
    size_t total;
    bool slow;
};
static void drain_run(void *arg)
{
    struct drain *d = arg;
    static uint8_t buf[3][50000];
    struct iovec v[4] = {{buf[0], 1}, {buf[1], 0}, {buf[1], sizeof buf[1]}, {buf[2], 7777}};
    size_t at = 0;
    ssize_t n;
    for (int turn = 0; (n = weft_readv_dl(d->fd, v, 4, WEFT_FOREVER)) > 0; turn++) {
        for (size_t left = (size_t)n, i = 0; left; i++) {
            size_t part = left < v[i].iov_len ? left : v[i].iov_len;
            for (size_t k = 0; k < part; k++, at++)
                if (((uint8_t *)v[i].iov_base)[k] != pattern(at))
                    cr_fail("byte %zu", at);
            left -= part;
        }
        if (d->slow && turn % 16 == 0)
            weft_sleep(MS / 2);
    }
    cr_assert_eq(n, 0);
    cr_assert_eq(at, d->total);
    weft_close(d->fd);
}

static void big_write(int out, int in, size_t size)
{
    uint8_t *big = malloc(size);
    struct drain d = {.fd = in, .total = size, .slow = true};
    struct iovec v[40];
    size_t at = 0;
    for (size_t i = 0; i < size; i++)
        big[i] = pattern(i);
    for (int i = 0; i < 40; i++) { /* odd sizes, empty ones among them, more than one window */
        size_t n = i == 39 ? size - at : i % 5 == 0 ? 0 : size / 40 - (size_t)i * 13;
        v[i] = (struct iovec){big + at, n};
        at += n;
    }
    spawn(drain_run, &d);
    cr_assert_eq(weft_writev_dl(out, v, 40, WEFT_FOREVER), size);
    cr_assert_eq(weft_close(out), 0);
    join(&spawned);
    free(big);
}

BOTH(big_transfers, 100)
{
    int s[2];
    size_t size = (size_t)SCALE(8 << 20) + 12345;
    tcp_pair(s);
    big_write(s[0], s[1], size);
    blocking_pair(s);
    big_write(s[0], s[1], size);
    cr_assert_eq(pipe2(s, O_CLOEXEC), 0); /* blocking, as from elsewhere */
    big_write(s[1], s[0], size / 4);
    return 0;
}

/* ---- descriptors from elsewhere ---- */

static void answer(void *arg)
{
    int fd = (int)(intptr_t)arg;
    char c;
    weft_sleep(5 * MS);
    cr_assert_eq(weft_read(fd, &c, 1), 1);
    cr_assert_eq(weft_write(fd, "y", 1), 1);
}
BOTH(flags_of_others_stay, 60)
{
    int s[2], p[2];
    char c;
    blocking_pair(s);
    cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
    int before[4] = {fcntl(s[0], F_GETFL), fcntl(s[1], F_GETFL), fcntl(p[0], F_GETFL),
                     fcntl(p[1], F_GETFL)};
    spawn(answer, (void *)(intptr_t)s[1]);
    cr_assert_eq(weft_write(s[0], "x", 1), 1);
    cr_assert_eq(weft_read(s[0], &c, 1), 1, "waited on a blocking socket");
    cr_assert_eq(weft_read_dl(p[0], &c, 1, weft_now() + 5 * MS), -ETIMEDOUT);
    cr_assert_eq(weft_write(p[1], "x", 1), 1);
    cr_assert_eq(weft_read(p[0], &c, 1), 1);
    join(&spawned);
    for (int i = 0; i < 4; i++)
        cr_assert_eq(fcntl(i < 2 ? s[i] : p[i - 2], F_GETFL), before[i]);
    cr_assert(!(before[0] & O_NONBLOCK));
    return 0;
}

/* ---- accept, listen, dial: the corners ---- */

BOTH(new_descriptors, 60)
{
    int s[2], on = 0;
    socklen_t n = sizeof on;
    tcp_pair(s);
    for (int i = 0; i < 2; i++) {
        cr_assert(fcntl(s[i], F_GETFL) & O_NONBLOCK);
        cr_assert(fcntl(s[i], F_GETFD) & FD_CLOEXEC);
        cr_assert_eq(getsockopt(s[i], IPPROTO_TCP, TCP_NODELAY, &on, &n), 0);
        cr_assert(on);
    }
    int l = listen_tcp();
    cr_assert(fcntl(l, F_GETFD) & FD_CLOEXEC);
    cr_assert_eq(getsockopt(l, SOL_SOCKET, SO_REUSEADDR, &on, &n), 0);
    cr_assert(on);
    return 0;
}

BOTH(a_blocking_listener, 60)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(l, (struct sockaddr *)&a, sizeof a), 0);
    cr_assert_eq(listen(l, 8), 0);
    struct reader r = {.fd = l};
    cr_assert_eq(weft_accept_dl(l, weft_now() + 5 * MS), -ETIMEDOUT);
    spawn(accept_one, &r);
    weft_sleep(2 * MS);
    int fd = weft_dial("tcp", addr_of(l, "127.0.0.1"));
    cr_assert_geq(fd, 0);
    join(&spawned);
    cr_assert_geq(r.result, 0);
    cr_assert(!(fcntl(l, F_GETFL) & O_NONBLOCK));
    return 0;
}

BOTH(accept_out_of_descriptors, 60)
{
    struct rlimit old, none;
    int l = listen_tcp(), fd = weft_dial("tcp", addr_of(l, "127.0.0.1"));
    cr_assert_geq(fd, 0);
    getrlimit(RLIMIT_NOFILE, &old);
    none = (struct rlimit){(rlim_t)fd + 1, old.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    int r;
    do /* fills the holes below fd */
        r = dup(l);
    while (r >= 0);
    cr_assert_eq(weft_accept(l), -EMFILE);
    setrlimit(RLIMIT_NOFILE, &old);
    cr_assert_geq(weft_accept(l), 0, "the connection is still there");
    return 0;
}

BOTH(dead_unix_sockets, 60)
{
    char path[100];
    strcpy(path, scratch("dead"));
    int l = weft_listen("unix", path);
    cr_assert_geq(l, 0);
    cr_assert_eq(weft_listen("unix", path), -EADDRINUSE, "somebody listens there");
    weft_close(l);
    cr_assert_eq(weft_dial("unix", path), -ECONNREFUSED);
    l = weft_listen("unix", path);
    cr_assert_geq(l, 0, "a dead socket is replaced");
    weft_close(l);
    unlink(path);
    cr_assert_eq(weft_dial("unix", path), -ENOENT);
    int file = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    cr_assert_eq(weft_listen("unix", path), -EADDRINUSE, "what is no socket stays");
    struct stat st;
    cr_assert_eq(stat(path, &st), 0);
    cr_assert(S_ISREG(st.st_mode));
    close(file);
    unlink(path);
    return 0;
}

BOTH(refusals, 60)
{
    char c;
    int l = listen_tcp();
    char target[64];
    strcpy(target, addr_of(l, "127.0.0.1"));
    cr_assert_eq(weft_listen("tcp", target), -EADDRINUSE);
    weft_close(l);
    cr_assert_eq(weft_dial("tcp", target), -ECONNREFUSED);
    cr_assert_eq(weft_dial("tcp", "127.0.0.1"), -EINVAL);
    cr_assert_eq(weft_dial("sctp", "127.0.0.1:1"), -EINVAL);
    cr_assert_eq(weft_listen("tcp", "no.such.host:1"), -ENOENT);
    cr_assert_eq(weft_listen("unix", "/no-such-directory/s"), -ENOENT);
    cr_assert_eq(weft_listen("tcp", "192.0.2.1:0"), -EADDRNOTAVAIL);
    cr_assert_eq(weft_read(-1, &c, 1), -EBADF);
    cr_assert_eq(weft_read(900, &c, 0), -EBADF);
    cr_assert_eq(weft_write(900, &c, 1), -EBADF);
    cr_assert_eq(weft_accept(900), -EBADF);
    cr_assert_eq(weft_close(900), -EBADF);
    cr_assert_eq(weft_fd_wait(900, POLLIN), -EBADF);
    cr_assert_eq(weft_fd_wait(-1, POLLIN), -EBADF);
    cr_assert_eq(weft_fd_wait(0, 0), -EINVAL);
    cr_assert_eq(weft_fd_wait(0, POLLPRI), -EINVAL);
    cr_assert_eq(weft_readv_dl(0, NULL, -1, WEFT_FOREVER), -EINVAL);
    cr_assert_eq(weft_writev_dl(1, NULL, -1, WEFT_FOREVER), -EINVAL);
    cr_assert_eq(weft_writev_dl(1, NULL, 1, WEFT_FOREVER), -EINVAL);
    int s[2];
    blocking_pair(s);
    cr_assert_eq(weft_accept(s[0]), -EINVAL);
    cr_assert_eq(weft_read(s[0], &c, 0), 0, "no bytes asked: no wait");
    cr_assert_eq(weft_write(s[0], &c, 0), 0);
    return 0;
}

/* ---- waiting for readiness, datagrams ---- */

static void write_later(void *arg)
{
    weft_sleep(5 * MS);
    cr_assert_eq(weft_write((int)(intptr_t)arg, "x", 1), 1);
}
BOTH(ready_events, 60)
{
    int s[2];
    char c;
    blocking_pair(s);
    cr_assert_eq(weft_fd_wait(s[0], POLLOUT), POLLOUT);
    cr_assert_eq(weft_fd_wait(s[0], POLLIN | POLLOUT), POLLOUT);
    spawn(write_later, (void *)(intptr_t)s[1]);
    cr_assert_eq(weft_fd_wait(s[0], POLLIN), POLLIN);
    cr_assert_eq(weft_fd_wait(s[0], POLLIN), POLLIN, "still so: nothing was read");
    join(&spawned);
    cr_assert_eq(weft_read(s[0], &c, 1), 1);
    fill(s[0]);
    spawn(write_later, (void *)(intptr_t)s[1]);
    cr_assert_eq(weft_fd_wait(s[0], POLLIN | POLLOUT), POLLIN, "the first of the two");
    join(&spawned);
    weft_close(s[1]);
    cr_assert(weft_fd_wait(s[0], POLLIN) & POLLHUP);
    return 0;
}

static int datagram_socket(const char *name, struct sockaddr_un *a, socklen_t *n)
{
    *n = abstract_addr(name, a);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)a, *n), 0);
    return fd;
}
static void take_one(void *arg)
{
    char buf[8];
    weft_sleep(5 * MS);
    cr_assert_gt(weft_read((int)(intptr_t)arg, buf, sizeof buf), 0);
}
BOTH(datagrams, 60)
{
    struct sockaddr_un a, b, from;
    socklen_t an, bn, fn = sizeof from;
    char buf[8];
    int x = datagram_socket("x", &a, &an), y = datagram_socket("y", &b, &bn);
    const struct sockaddr *to = (struct sockaddr *)&b;
    cr_assert_eq(weft_sendto_dl(x, "hello", 5, 0, to, bn, WEFT_FOREVER), 5);
    cr_assert_eq(weft_recvfrom_dl(y, buf, 3, MSG_TRUNC, (struct sockaddr *)&from, &fn, 0), 5);
    cr_assert_eq(fn, an);
    cr_assert_eq(memcmp(&from, &a, an), 0);
    cr_assert_eq(weft_recvfrom_dl(y, buf, 8, MSG_DONTWAIT, NULL, NULL, WEFT_FOREVER), -EAGAIN);
    cr_assert_eq(weft_recvfrom_dl(y, buf, 8, 0, NULL, NULL, weft_now() + MS), -ETIMEDOUT);
    ssize_t r;
    do
        r = weft_sendto_dl(x, "again", 5, MSG_DONTWAIT, to, bn, WEFT_FOREVER);
    while (r == 5);
    cr_assert_eq(r, -EAGAIN);
    cr_assert_eq(weft_sendto_dl(x, "again", 5, 0, to, bn, weft_now() + 3 * MS), -ETIMEDOUT);
    spawn(take_one, (void *)(intptr_t)y);
    cr_assert_eq(weft_sendto_dl(x, "again", 5, 0, to, bn, WEFT_FOREVER), 5);
    join(&spawned);
    return 0;
}
