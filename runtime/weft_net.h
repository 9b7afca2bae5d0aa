/* Weft's file descriptors: reads, writes, accepts and dials that park the coroutine instead of the
 * thread.
 *
 * net is "tcp", "tcp4", "tcp6" or "unix"; addr is "host:port", "[v6]:port", or a path ("@name" is
 * abstract). A missing host means all interfaces in listen and loopback in dial. Host names other
 * than literals and "localhost" give -EAI_NONAME's errno twin, -ENOENT. Every call may be made from
 * a coroutine and from a plain thread (which then blocks in poll); none from a signal handler.
 * Sockets never raise SIGPIPE. Descriptors that came from elsewhere never get O_NONBLOCK; on ttys,
 * pipes and files calls wait by poll and the blocking pool.
 */
#ifndef WEFT_NET_H
#define WEFT_NET_H

#include "weft.h"
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A listening descriptor (CLOEXEC, SO_REUSEADDR), or -EINVAL for an unknown net or a malformed
 * address, -ENOENT for an unknown host, and what socket, bind and listen give. A unix path that is
 * a dead socket is replaced. */
WEFT_API int weft_listen(const char *net, const char *addr);
/* A connected descriptor (CLOEXEC, TCP_NODELAY), or a negative errno; -EBADF when fd is closed
 * meanwhile. */
WEFT_API int weft_accept(int fd);
WEFT_API int weft_accept_dl(int fd, int64_t deadline);
WEFT_API int weft_dial(const char *net, const char *addr);
WEFT_API int weft_dial_dl(const char *net, const char *addr, int64_t deadline);

/* Bytes read, 0 at the end, or a negative errno (-ETIMEDOUT, -EBADF when closed meanwhile). */
WEFT_API ssize_t weft_read(int fd, void *buf, size_t n);
WEFT_API ssize_t weft_read_dl(int fd, void *buf, size_t n, int64_t deadline);
WEFT_API ssize_t weft_readv_dl(int fd, const struct iovec *iov, int iovcnt, int64_t deadline);
WEFT_API ssize_t weft_recvfrom_dl(int fd, void *buf, size_t n, int flags, struct sockaddr *from,
                                  socklen_t *fromlen, int64_t deadline);

/* n; fewer if it failed after some bytes (the next call says why); a negative errno if none went.
 */
WEFT_API ssize_t weft_write(int fd, const void *buf, size_t n);
WEFT_API ssize_t weft_write_dl(int fd, const void *buf, size_t n, int64_t deadline);
WEFT_API ssize_t weft_writev_dl(int fd, const struct iovec *iov, int iovcnt, int64_t deadline);
WEFT_API ssize_t weft_sendto_dl(int fd, const void *buf, size_t n, int flags,
                                const struct sockaddr *to, socklen_t tolen, int64_t deadline);

WEFT_API int weft_shutdown(int fd, int how);
/* Wakes all who wait on fd with -EBADF, then closes it. */
WEFT_API int weft_close(int fd);
/* Waits for POLLIN and/or POLLOUT; returns the ready events (POLLERR, POLLHUP added) or a negative
 * errno. */
WEFT_API int weft_fd_wait(int fd, short events);
WEFT_API int weft_fd_wait_dl(int fd, short events, int64_t deadline);

#ifdef __cplusplus
}
#endif
#endif
