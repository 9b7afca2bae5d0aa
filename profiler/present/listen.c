/* An address as people write it -> a listening socket.
 *
 * Invariants
 *  1. No host means 127.0.0.1; all interfaces only when they are asked for, as 0.0.0.0 or [::].
 *  2. A unix socket's path is taken over only from a dead server (connect is refused), never from
 *     a live one, and never when it is not a socket.
 *  3. A unix socket can be connected to by its owner only: there is no other check on it. The mode
 *     is set before listen, and before listen nobody can connect.
 *
 * No locks.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "present.h"

#define BACKLOG 64

/* ---- unix ---- */

static bool is_dead_socket(const struct sockaddr_un *sa, socklen_t len)
{
    struct stat st;
    int fd, r;

    if (lstat(sa->sun_path, &st) != 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return false;
    r = connect(fd, (const struct sockaddr *)sa, len) == 0 ? 0 : errno;
    close(fd);
    return r == ECONNREFUSED;
}

static int bind_unix(pf_listener *l, const char *path)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    bool abstract = path[0] == '@';
    size_t n = strlen(path);
    socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + !abstract);
    struct stat st;

    if (n < 1 + (size_t)abstract || n >= sizeof sa.sun_path)
        return -EINVAL;
    memcpy(sa.sun_path, path, n);
    if (abstract)
        sa.sun_path[0] = '\0';
    int r = bind(l->fd, (struct sockaddr *)&sa, len);
    if (r != 0 && errno == EADDRINUSE && !abstract && is_dead_socket(&sa, len)) {
        unlink(path);
        r = bind(l->fd, (struct sockaddr *)&sa, len);
    }
    if (r != 0)
        return -errno;
    if (!abstract) {
        chmod(path, 0600);
        strcpy(l->path, path);
        if (lstat(path, &st) == 0) {
            l->dev = st.st_dev;
            l->inode = st.st_ino;
        }
    }
    return 0;
}

static int listen_unix(pf_listener *l, const char *path)
{
    int r;

    l->is_unix = true;
    l->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return -errno;
    r = bind_unix(l, path);
    if (r == 0 && listen(l->fd, BACKLOG) != 0)
        r = -errno;
    return r;
}

/* ---- tcp ---- */

static bool is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)sa)->sin_addr.s_addr) >> 24 == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)sa)->sin6_addr);
}

static int bind_tcp(pf_listener *l, const struct addrinfo *ai, uint16_t port)
{
    struct sockaddr_storage sa = {0};
    socklen_t len = ai->ai_addrlen;
    int on = 1, off = 0;

    memcpy(&sa, ai->ai_addr, len);
    if (ai->ai_family == AF_INET6)
        ((struct sockaddr_in6 *)&sa)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)&sa)->sin_port = htons(port);
    l->fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (l->fd < 0)
        return -errno;
    setsockopt(l->fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (ai->ai_family == AF_INET6)
        setsockopt(l->fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof off);
    if (bind(l->fd, (struct sockaddr *)&sa, len) != 0 || listen(l->fd, BACKLOG) != 0)
        return -errno;
    len = sizeof sa;
    if (getsockname(l->fd, (struct sockaddr *)&sa, &len) != 0)
        return -errno;
    l->port = ntohs(ai->ai_family == AF_INET6 ? ((struct sockaddr_in6 *)&sa)->sin6_port
                                              : ((struct sockaddr_in *)&sa)->sin_port);
    l->loopback = is_loopback((struct sockaddr *)&sa);
    return 0;
}

/* Digits only, at most 65535. */
static int parse_port(const char *s)
{
    int port = 0;

    if (!*s || strlen(s) > 5)
        return -EINVAL;
    for (; *s; s++) {
        if (*s < '0' || *s > '9')
            return -EINVAL;
        port = port * 10 + (*s - '0');
    }
    return port <= 65535 ? port : -EINVAL;
}

/* A literal is not looked up; a name is, as the system does it. */
static int resolve(const char *host, struct addrinfo **out)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_NUMERICHOST | AI_PASSIVE};

    if (!host[0] || strcmp(host, "localhost") == 0)
        host = "127.0.0.1";
    if (getaddrinfo(host, NULL, &hints, out) == 0)
        return 0;
    if (strspn(host, "0123456789.") == strlen(host) || strchr(host, ':'))
        return -EINVAL;
    hints.ai_flags = AI_PASSIVE;
    return getaddrinfo(host, NULL, &hints, out) == 0 ? 0 : -EADDRNOTAVAIL;
}

static int listen_tcp(pf_listener *l, char *addr)
{
    char *colon = strrchr(addr, ':'), *host = addr;
    struct addrinfo *ai;
    int port, r;

    if (!colon)
        return -EINVAL;
    port = parse_port(colon + 1);
    *colon = '\0';
    if (host[0] == '[') {
        if (colon == host || colon[-1] != ']')
            return -EINVAL;
        colon[-1] = '\0';
        host++;
        if (!strchr(host, ':'))
            return -EINVAL;
    } else if (strchr(host, ':') || strpbrk(host, "/[] ")) {
        return -EINVAL;
    }
    if (port < 0)
        return port;
    r = resolve(host, &ai);
    if (r < 0)
        return r;
    r = bind_tcp(l, ai, (uint16_t)port);
    freeaddrinfo(ai);
    return r;
}

/* ---- entry ---- */

static char *expand_pid(const char *addr)
{
    char *out = NULL;
    size_t n;
    FILE *f = open_memstream(&out, &n);

    if (!f)
        return NULL;
    for (; *addr; addr++)
        if (addr[0] == '%' && addr[1] == 'p') {
            fprintf(f, "%d", (int)getpid());
            addr++;
        } else {
            fputc(*addr, f);
        }
    if (fclose(f) == 0)
        return out;
    free(out);
    return NULL;
}

int pf_listen(pf_listener *l, const char *addr)
{
    char *text;
    int r;

    memset(l, 0, sizeof *l);
    l->fd = -1;
    if (!addr)
        return -EINVAL;
    text = expand_pid(addr);
    if (!text)
        return -ENOMEM;
    r = strncmp(text, "unix:", 5) == 0 ? listen_unix(l, text + 5) : listen_tcp(l, text);
    free(text);
    if (r < 0)
        pf_listen_close(l);
    return r;
}

void pf_listen_close(pf_listener *l)
{
    struct stat st;

    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
    if (l->path[0] && lstat(l->path, &st) == 0 && st.st_dev == l->dev && st.st_ino == l->inode)
        unlink(l->path);
    l->path[0] = '\0';
}
