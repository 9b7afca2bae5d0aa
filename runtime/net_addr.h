/* Addresses as weft_net.h writes them, to what the kernel wants. See net_addr.c. */
#ifndef WEFT_NET_ADDR_H
#define WEFT_NET_ADDR_H

#include "rt.h"
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

typedef struct rt_addr {
    union {
        struct sockaddr sa;
        struct sockaddr_in in;
        struct sockaddr_in6 in6;
        struct sockaddr_un un;
    };
    socklen_t len;
    bool dual; /* an IPv6 socket that takes IPv4 too */
} rt_addr;

enum { RT_ADDR_MAX = 2 };

/* The addresses to try, in order: their number (1 or 2), or -EINVAL, -ENOENT, -ENAMETOOLONG.
 * passive: for listen. */
RT_HIDDEN int rt_addr_parse(const char *net, const char *addr, bool passive,
                            rt_addr out[RT_ADDR_MAX]);

#endif
