/* Reads "tcp" "host:port", "[v6%zone]:port", ":port", and "unix" "path" or "@name".
 *
 * Invariants:
 *  1. Nothing is asked of the network or of files: the host is a literal, "localhost" or missing;
 *     other names are -ENOENT. A text that can be no address at all is -EINVAL.
 *  2. The result is a pure function of the texts (but for interface names in a zone).
 *
 * Where two addresses fit, IPv4 comes first for localhost, as services listen there first; a
 * listener on all interfaces prefers one IPv6 socket that takes both, and has 0.0.0.0 to fall back
 * on.
 *
 * Rejected: getaddrinfo with AI_NUMERICHOST. It takes "127.1", "0x7f000001" and "1" for addresses,
 * service names for ports, and loads nss modules onto a coroutine's stack.
 */
#include "net_addr.h"
#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <net/if.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

enum { HOST_MAX = 255 };

struct host_port {
    char host[HOST_MAX + 1];
    bool bracketed;
    uint16_t port;
};

/* Decimal digits only, at most max; -1 otherwise. */
static int64_t parse_number(const char *s, int64_t max)
{
    int64_t value = 0;
    if (!*s)
        return -1;
    for (; *s; s++) {
        if (*s < '0' || *s > '9')
            return -1;
        value = value * 10 + (*s - '0');
        if (value > max)
            return -1;
    }
    return value;
}

static int split(const char *addr, struct host_port *out)
{
    const char *host = addr, *end, *colon;
    out->bracketed = *addr == '[';
    if (out->bracketed) {
        host = addr + 1;
        end = strchr(host, ']');
        if (!end || end[1] != ':' || end == host)
            return -EINVAL;
        colon = end + 1;
    } else {
        colon = end = strchr(addr, ':');
        if (!colon || strchr(colon + 1, ':'))
            return -EINVAL; /* no port, or an IPv6 literal that needs brackets */
    }
    int64_t port = parse_number(colon + 1, UINT16_MAX);
    size_t n = (size_t)(end - host);
    if (port < 0 || n > HOST_MAX)
        return -EINVAL;
    memcpy(out->host, host, n);
    out->host[n] = '\0';
    out->port = (uint16_t)port;
    return 0;
}

static rt_addr make_v4(in_addr_t addr, uint16_t port)
{
    rt_addr a = {.len = sizeof a.in};
    a.in = (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(addr)};
    return a;
}

static rt_addr make_v6(const struct in6_addr *addr, uint16_t port, bool dual)
{
    rt_addr a = {.len = sizeof a.in6, .dual = dual};
    a.in6 = (struct sockaddr_in6){
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = *addr};
    return a;
}

static bool is_localhost(const char *host)
{
    return strcasecmp(host, "localhost") == 0 || strcasecmp(host, "localhost.") == 0;
}

/* Could be a name that a resolver knows. One that ends in a number is a broken IPv4 literal. */
static bool is_name(const char *host)
{
    const char *last = host;
    if (*host == '.' || *host == '-')
        return false;
    for (const char *s = host; *s; s++) {
        if (!isalnum((unsigned char)*s) && *s != '-' && *s != '.' && *s != '_')
            return false;
        if (*s == '.' && s[1] == '.')
            return false;
        if (*s == '.' && s[1])
            last = s + 1;
    }
    return !isdigit((unsigned char)*last) || strspn(last, "0123456789") != strlen(last);
}

static int parse_v6(struct host_port *hp, bool dual_wildcard, rt_addr *out)
{
    struct in6_addr v6;
    char *zone = strchr(hp->host, '%');
    int64_t scope = 0;
    if (zone) {
        *zone++ = '\0';
        scope = parse_number(zone, UINT32_MAX);
        if (scope < 0 && *zone)
            scope = if_nametoindex(zone);
        if (scope <= 0)
            return -EINVAL;
    }
    if (inet_pton(AF_INET6, hp->host, &v6) != 1)
        return -EINVAL;
    *out = make_v6(&v6, hp->port, dual_wildcard && IN6_IS_ADDR_UNSPECIFIED(&v6));
    out->in6.sin6_scope_id = (uint32_t)scope;
    return 1;
}

static int parse_tcp(const char *addr, bool want4, bool want6, bool passive, rt_addr *out)
{
    struct host_port hp;
    struct in_addr v4;
    int n = 0, r = split(addr, &hp);
    if (r < 0)
        return r;
    if (hp.bracketed)
        return want6 ? parse_v6(&hp, want4 && passive, out) : -EINVAL;
    if (!hp.host[0] && passive) {
        if (want6)
            out[n++] = make_v6(&in6addr_any, hp.port, want4);
        if (want4)
            out[n++] = make_v4(INADDR_ANY, hp.port);
        return n;
    }
    if (!hp.host[0] || is_localhost(hp.host)) {
        if (want4)
            out[n++] = make_v4(INADDR_LOOPBACK, hp.port);
        if (want6)
            out[n++] = make_v6(&in6addr_loopback, hp.port, false);
        return n;
    }
    if (inet_pton(AF_INET, hp.host, &v4) == 1) {
        if (!want4)
            return -EINVAL;
        out[0] = make_v4(ntohl(v4.s_addr), hp.port);
        return 1;
    }
    return is_name(hp.host) ? -ENOENT : -EINVAL;
}

static int parse_unix(const char *path, rt_addr *out)
{
    size_t n = strlen(path);
    *out = (rt_addr){0};
    out->un.sun_family = AF_UNIX;
    if (n == 0 || (path[0] == '@' && n == 1))
        return -EINVAL;
    if (path[0] == '@') { /* the name needs no NUL at its end */
        if (n > sizeof out->un.sun_path)
            return -ENAMETOOLONG;
        memcpy(out->un.sun_path, path, n);
        out->un.sun_path[0] = '\0';
        out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n);
        return 1;
    }
    if (n >= sizeof out->un.sun_path)
        return -ENAMETOOLONG;
    memcpy(out->un.sun_path, path, n + 1);
    out->len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + 1);
    return 1;
}

int rt_addr_parse(const char *net, const char *addr, bool passive, rt_addr out[RT_ADDR_MAX])
{
    if (!net || !addr)
        return -EINVAL;
    if (strcmp(net, "unix") == 0)
        return parse_unix(addr, out);
    bool both = strcmp(net, "tcp") == 0;
    bool only4 = strcmp(net, "tcp4") == 0, only6 = strcmp(net, "tcp6") == 0;
    if (!both && !only4 && !only6)
        return -EINVAL;
    return parse_tcp(addr, both || only4, both || only6, passive, out);
}
