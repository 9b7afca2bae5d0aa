/* The calls of weft_net.h: try without blocking, and where the kernel says "not now", wait by
 * poll.c.
 *
 * Invariants:
 *  1. No call sets O_NONBLOCK on a descriptor that weft_* did not make: the flag belongs to the
 *     open file, which others may share. Sockets are tried with MSG_DONTWAIT; net_file.c has the
 *     rest.
 *  2. Sockets are only written by sendmsg with MSG_NOSIGNAL. That a descriptor is no socket is a
 *     hint in its record, checked by fstat at each use; that it is one shows by ENOTSOCK.
 *  3. errno is read by rt_errno_get right after the call that set it (R1).
 *  4. A call tries at least once before it looks at its deadline.
 *
 * What has no event to wait for is tried again at growing intervals (1 to 16 ms): connect to a unix
 * listener whose backlog is full, and sendto from an unconnected unix datagram socket to a full
 * one.
 *
 * Rejected: a reference count on the number, so that a close waits for tries that are under way
 * (two locked operations per call to guard a program against using a descriptor that it closes).
 */
#include "weft_net.h"
#include "net_addr.h"
#include "net_file.h"
#include "rt_poll.h"
#include "tls.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { WINDOW = 16 }; /* iovecs copied after a partial write */
enum { BACKOFF_FIRST_NS = 1000000, BACKOFF_LAST_NS = 16000000 };
enum { SELF_CONNECTS = 3 };

/* ---- one call in progress ---- */

struct op {
    int fd;
    unsigned dirs;
    bool waited;
    int64_t deadline;
    rt_poll_mark mark;
};

static void op_begin(struct op *op, int fd, unsigned dirs, int64_t deadline)
{
    *op = (struct op){.fd = fd, .dirs = dirs, .deadline = deadline};
    rt_poll_begin(fd, &op->mark);
}

/* After -EAGAIN: 0 to try again. */
static int op_wait(struct op *op)
{
    int r = rt_poll_wait(op->fd, op->dirs, &op->mark, op->deadline);
    op->waited = true;
    return r < 0 ? r : rt_poll_again(op->fd, &op->mark) ? 0 : -EBADF;
}

static void op_end(struct op *op)
{
    if (op->waited)
        rt_poll_pass(op->fd, op->dirs);
}

static int backoff(int64_t *ns, int64_t deadline)
{
    int64_t left = deadline == WEFT_FOREVER ? INT64_MAX : deadline - rt_now();
    if (left <= 0)
        return -ETIMEDOUT;
    weft_sleep(*ns < left ? *ns : left);
    if (*ns < BACKOFF_LAST_NS)
        *ns *= 2;
    return 0;
}

/* ---- one try, of either kind ---- */

static ssize_t socket_try(int fd, bool out, struct msghdr *msg, int flags)
{
    ssize_t n;
    socklen_t room = msg->msg_namelen;
    do {
        msg->msg_namelen = room;
        n = rt_result(out ? sendmsg(fd, msg, flags | MSG_DONTWAIT | MSG_NOSIGNAL)
                          : recvmsg(fd, msg, flags | MSG_DONTWAIT));
    } while (n == -EINTR);
    return n;
}

static ssize_t try_io(int fd, bool out, struct msghdr *msg, int flags, bool any_file)
{
    if (!any_file || !rt_poll_hint(fd)) {
        ssize_t n = socket_try(fd, out, msg, flags);
        if (n != -ENOTSOCK || !any_file)
            return n;
        rt_poll_hint_set(fd, true);
    }
    ssize_t n = rt_file_try(fd, out, msg->msg_iov, (int)msg->msg_iovlen);
    if (n != -EPROTOTYPE)
        return n;
    rt_poll_hint_set(fd, false);
    return socket_try(fd, out, msg, flags);
}

/* ---- reading ---- */

static ssize_t iov_total(const struct iovec *iov, int count)
{
    size_t sum = 0;
    if (count < 0 || count > IOV_MAX || (count > 0 && !iov))
        return -EINVAL;
    for (int i = 0; i < count; i++)
        if (iov[i].iov_len > SSIZE_MAX || (sum += iov[i].iov_len) > SSIZE_MAX)
            return -EINVAL;
    return (ssize_t)sum;
}

static ssize_t read_loop(int fd, struct msghdr *msg, int flags, bool any_file, int64_t deadline)
{
    struct op op;
    op_begin(&op, fd, RT_POLL_IN, deadline);
    for (;;) {
        ssize_t n = try_io(fd, false, msg, flags, any_file);
        if (n != -EAGAIN || flags & (MSG_DONTWAIT | MSG_ERRQUEUE)) {
            op_end(&op);
            return n;
        }
        int r = op_wait(&op);
        if (r < 0)
            return r;
    }
}

ssize_t weft_readv_dl(int fd, const struct iovec *iov, int iovcnt, int64_t deadline)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovcnt};
    ssize_t total = iov_total(iov, iovcnt);
    if (total <= 0) /* recvmsg would wait where read does not */
        return total < 0 ? total : rt_result(fcntl(fd, F_GETFD)) < 0 ? -EBADF : 0;
    return read_loop(fd, &msg, 0, true, deadline);
}

ssize_t weft_read_dl(int fd, void *buf, size_t n, int64_t deadline)
{
    struct iovec iov = {.iov_base = buf, .iov_len = n};
    return weft_readv_dl(fd, &iov, 1, deadline);
}

ssize_t weft_read(int fd, void *buf, size_t n)
{
    return weft_read_dl(fd, buf, n, WEFT_FOREVER);
}

ssize_t weft_recvfrom_dl(int fd, void *buf, size_t n, int flags, struct sockaddr *from,
                         socklen_t *fromlen, int64_t deadline)
{
    struct iovec iov = {.iov_base = buf, .iov_len = n};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_name = from,
                         .msg_namelen = from && fromlen ? *fromlen : 0};
    ssize_t got = read_loop(fd, &msg, flags, false, deadline);
    if (got >= 0 && from && fromlen)
        *fromlen = msg.msg_namelen;
    return got;
}

/* ---- writing ---- */

/* What is left of a write: skip bytes of the first iovec are gone. */
struct cursor {
    const struct iovec *iov;
    int count;
    size_t skip;
};

static void cursor_advance(struct cursor *c, size_t n)
{
    n += c->skip;
    while (c->count > 0 && n >= c->iov->iov_len) {
        n -= c->iov->iov_len;
        c->iov++;
        c->count--;
    }
    c->skip = n;
}

/* The rest as iovecs: the caller's own while no part of one is gone, so that a message is sent
 * whole. */
static void cursor_window(const struct cursor *c, struct iovec *copy, struct msghdr *msg)
{
    msg->msg_iov = (struct iovec *)c->iov;
    msg->msg_iovlen = (size_t)c->count;
    if (c->skip == 0)
        return;
    if (msg->msg_iovlen > WINDOW)
        msg->msg_iovlen = WINDOW;
    memcpy(copy, c->iov, msg->msg_iovlen * sizeof *copy);
    copy[0].iov_base = (char *)copy[0].iov_base + c->skip;
    copy[0].iov_len -= c->skip;
    msg->msg_iov = copy;
}

static ssize_t write_loop(int fd, struct msghdr *msg, int flags, bool any_file, int64_t deadline)
{
    struct iovec copy[WINDOW];
    struct cursor rest = {.iov = msg->msg_iov, .count = (int)msg->msg_iovlen};
    ssize_t total = iov_total(rest.iov, rest.count), done = 0, n = 0;
    bool waitless = flags & MSG_DONTWAIT;
    int64_t pause_ns = BACKOFF_FIRST_NS;
    struct op op;
    if (total < 0)
        return total;
    const struct sockaddr *to = msg->msg_name;
    bool no_event = to && msg->msg_namelen >= sizeof to->sa_family && to->sa_family == AF_UNIX;
    op_begin(&op, fd, RT_POLL_OUT, deadline);
    cursor_advance(&rest, 0);
    for (;;) {
        cursor_window(&rest, copy, msg);
        n = try_io(fd, true, msg, flags, any_file);
        if (n == -EAGAIN && !waitless) {
            n = no_event ? backoff(&pause_ns, deadline) : op_wait(&op);
            if (n < 0)
                return done > 0 ? done : n;
            continue;
        }
        if (n < 0)
            break;
        done += n;
        if (n == 0 || done >= total)
            break;
        cursor_advance(&rest, (size_t)n);
        if (!rt_poll_again(fd, &op.mark)) {
            n = -EBADF;
            break;
        }
    }
    op_end(&op);
    return done > 0 ? done : n;
}

ssize_t weft_writev_dl(int fd, const struct iovec *iov, int iovcnt, int64_t deadline)
{
    struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovcnt};
    if (iovcnt < 0)
        return -EINVAL;
    return write_loop(fd, &msg, 0, true, deadline);
}

ssize_t weft_write_dl(int fd, const void *buf, size_t n, int64_t deadline)
{
    struct iovec iov = {.iov_base = (void *)buf, .iov_len = n};
    return weft_writev_dl(fd, &iov, 1, deadline);
}

ssize_t weft_write(int fd, const void *buf, size_t n)
{
    return weft_write_dl(fd, buf, n, WEFT_FOREVER);
}

ssize_t weft_sendto_dl(int fd, const void *buf, size_t n, int flags, const struct sockaddr *to,
                       socklen_t tolen, int64_t deadline)
{
    struct iovec iov = {.iov_base = (void *)buf, .iov_len = n};
    struct msghdr msg = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_name = (void *)to, .msg_namelen = to ? tolen : 0};
    return write_loop(fd, &msg, flags, false, deadline);
}

/* ---- listen and accept ---- */

static void set_option(int fd, int level, int name, int value)
{
    setsockopt(fd, level, name, &value, sizeof value);
}

/* Only a refused connect proves that nobody listens there. */
static bool unix_socket_is_dead(const rt_addr *a)
{
    struct stat st;
    if (a->un.sun_path[0] == '\0' || lstat(a->un.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return false;
    bool dead = rt_result(connect(fd, &a->sa, a->len)) == -ECONNREFUSED;
    close(fd);
    return dead;
}

static int bind_and_listen(int fd, const rt_addr *a)
{
    int family = a->sa.sa_family;
    if (family != AF_UNIX)
        set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    if (family == AF_INET6)
        set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, !a->dual);
    int r = (int)rt_result(bind(fd, &a->sa, a->len));
    if (r == -EADDRINUSE && family == AF_UNIX && unix_socket_is_dead(a)) {
        unlink(a->un.sun_path);
        r = (int)rt_result(bind(fd, &a->sa, a->len));
    }
    return r < 0 ? r : (int)rt_result(listen(fd, SOMAXCONN));
}

int weft_listen(const char *net, const char *addr)
{
    rt_addr a[RT_ADDR_MAX];
    int n = rt_addr_parse(net, addr, true, a), r = n;
    for (int i = 0; i < n; i++) {
        int fd = (int)rt_result(
            socket(a[i].sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        r = fd < 0 ? fd : bind_and_listen(fd, &a[i]);
        if (r == 0)
            return fd;
        if (fd >= 0)
            rt_poll_close(fd);
        if (r != -EAFNOSUPPORT && r != -EADDRNOTAVAIL) /* those: no IPv6 here, or no IPv4 */
            break;
    }
    return r;
}

static int accept_once(int fd)
{
    return (int)rt_result(accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC));
}

static int accept_ready(int fd)
{
    int listens = 0, r = rt_poll_now(fd, POLLIN);
    socklen_t n = sizeof listens;
    if (r != -EAGAIN)
        return r;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) < 0)
        return -rt_errno_get();
    return listens ? -EAGAIN : -EINVAL; /* accept would say so at once */
}

/* accept has no "do not wait" of its own: the listener's flag decides. */
static int try_accept(int fd)
{
    int r;
    do {
        r = (int)rt_result(fcntl(fd, F_GETFL));
        if (r < 0)
            return r;
        if (r & O_NONBLOCK) {
            r = accept_once(fd);
        } else {
            r = accept_ready(fd);
            if (r < 0)
                return r;
            weft_syscall_enter();
            r = accept_once(fd);
            weft_syscall_exit();
        }
    } while (r == -EINTR || r == -ECONNABORTED || r == -EPROTO); /* gone before we came */
    return r;
}

int weft_accept_dl(int fd, int64_t deadline)
{
    struct op op;
    op_begin(&op, fd, RT_POLL_IN, deadline);
    for (;;) {
        int conn = try_accept(fd);
        if (conn != -EAGAIN) {
            op_end(&op);
            if (conn >= 0) /* no effect on a unix socket */
                set_option(conn, IPPROTO_TCP, TCP_NODELAY, 1);
            return conn;
        }
        int r = op_wait(&op);
        if (r < 0)
            return r;
    }
}

int weft_accept(int fd)
{
    return weft_accept_dl(fd, WEFT_FOREVER);
}

/* ---- dial ---- */

static int connect_result(int fd)
{
    int ready = rt_poll_now(fd, POLLOUT), err = 0;
    socklen_t n = sizeof err;
    if (ready < 0)
        return ready;
    if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &n) < 0)
        return -rt_errno_get();
    return -err;
}

static int connect_dl(int fd, const rt_addr *a, int64_t deadline)
{
    struct op op;
    int64_t pause_ns = BACKOFF_FIRST_NS;
    int r;
    while ((r = (int)rt_result(connect(fd, &a->sa, a->len))) == -EAGAIN &&
           a->sa.sa_family == AF_UNIX) {
        r = backoff(&pause_ns, deadline);
        if (r < 0)
            return r;
    }
    if (r != -EINPROGRESS && r != -EINTR)
        return r;
    op_begin(&op, fd, RT_POLL_OUT, deadline);
    while ((r = connect_result(fd)) == -EAGAIN) {
        r = op_wait(&op);
        if (r < 0)
            return r;
    }
    return r;
}

/* TCP may connect a socket to itself when the port asked for is the ephemeral one it got. */
static bool is_self_connected(int fd)
{
    rt_addr us = {.len = sizeof us.in6}, them = {.len = sizeof them.in6};
    if (getsockname(fd, &us.sa, &us.len) < 0 || getpeername(fd, &them.sa, &them.len) < 0)
        return false;
    return us.len == them.len && memcmp(&us.sa, &them.sa, us.len) == 0;
}

static int dial_one(const rt_addr *a, int64_t deadline)
{
    int family = a->sa.sa_family;
    for (int i = 0; i < SELF_CONNECTS; i++) {
        int fd = (int)rt_result(socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
        if (fd < 0)
            return fd;
        if (family != AF_UNIX)
            set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
        int r = connect_dl(fd, a, deadline);
        if (r == 0 && (family == AF_UNIX || !is_self_connected(fd)))
            return fd;
        rt_poll_close(fd);
        if (r < 0)
            return r;
    }
    return -ECONNREFUSED;
}

int weft_dial_dl(const char *net, const char *addr, int64_t deadline)
{
    rt_addr a[RT_ADDR_MAX];
    int n = rt_addr_parse(net, addr, false, a), first = n;
    for (int i = 0; i < n; i++) {
        int r = dial_one(&a[i], deadline);
        if (r >= 0)
            return r;
        if (i == 0)
            first = r;
    }
    return first;
}

int weft_dial(const char *net, const char *addr)
{
    return weft_dial_dl(net, addr, WEFT_FOREVER);
}

/* ---- the rest ---- */

int weft_shutdown(int fd, int how)
{
    return (int)rt_result(shutdown(fd, how));
}

int weft_close(int fd)
{
    return rt_poll_close(fd);
}

int weft_fd_wait_dl(int fd, short events, int64_t deadline)
{
    struct op op;
    if (events == 0 || events & ~(POLLIN | POLLOUT))
        return -EINVAL;
    unsigned dirs = (events & POLLIN ? RT_POLL_IN : 0u) | (events & POLLOUT ? RT_POLL_OUT : 0u);
    if (fd < 0)
        return -EBADF;
    op_begin(&op, fd, dirs, deadline);
    for (;;) {
        int ready = rt_poll_now(fd, events);
        if (ready != -EAGAIN) {
            op_end(&op);
            return ready;
        }
        int r = op_wait(&op);
        if (r < 0)
            return r;
    }
}

int weft_fd_wait(int fd, short events)
{
    return weft_fd_wait_dl(fd, events, WEFT_FOREVER);
}
