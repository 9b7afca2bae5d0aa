/* What net.c and net_file.c share. */
#ifndef WEFT_NET_FILE_H
#define WEFT_NET_FILE_H

#include "rt.h"
#include "tls.h"
#include <sys/types.h>
#include <sys/uio.h>

/* One try to read or write what is not a socket. -EAGAIN: wait for the descriptor first;
 * -EPROTOTYPE: it is a socket after all. */
RT_HIDDEN ssize_t rt_file_try(int fd, bool out, const struct iovec *iov, int count);
/* The ready ones of events, now; -EAGAIN for none. */
RT_HIDDEN int rt_poll_now(int fd, short events);

/* The result of a system call as libc returns it, with errno in place of -1. */
static inline ssize_t rt_result(ssize_t r)
{
    return r < 0 ? -rt_errno_get() : r;
}

#endif
