/* Reads and writes of descriptors that are not sockets, without blocking a processor and without
 * O_NONBLOCK: pipes, terminals, eventfds and the like, files on disk.
 *
 * Invariants:
 *  1. Everything is first tried with RWF_NOWAIT, which is "do not wait" for one call.
 *  2. Where the kernel lacks that for a kind of file (ttys; pipes before 6.4), poll(2) says first
 *     that a read has something, or that a pipe takes PIPE_BUF bytes. Another process can still be
 *     faster, so that such a step is bracketed by weft_syscall_enter and costs a thread at worst. A
 *     tty's POLLOUT promises one byte and no more: it is written on the blocking pool.
 *  3. Disk files are always "ready" for poll. What is not in the page cache is done on the blocking
 *     pool, and there a deadline has no effect.
 *
 * Rejected: dup with its own O_NONBLOCK (the flag is the open file's, not the descriptor's);
 * reopening /proc/self/fd/N with it (needs /proc and permission, and a pty's master opens as
 * another pty).
 */
#include "net_file.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>

int rt_poll_now(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    ssize_t n;
    do
        n = rt_result(poll(&p, 1, 0));
    while (n == -EINTR);
    if (n <= 0)
        return n < 0 ? (int)n : -EAGAIN;
    return p.revents & POLLNVAL ? -EBADF : p.revents;
}

enum file_kind { FILE_SOCKET, FILE_DISK, FILE_PIPE, FILE_DEVICE };

static int file_kind(int fd)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -rt_errno_get();
    if (S_ISSOCK(st.st_mode))
        return FILE_SOCKET;
    if (S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) || S_ISDIR(st.st_mode))
        return FILE_DISK;
    return S_ISFIFO(st.st_mode) ? FILE_PIPE : FILE_DEVICE;
}

struct file_io {
    int fd, count, flags;
    bool out;
    const struct iovec *iov;
    ssize_t result;
};

static void file_io_step(void *arg)
{
    struct file_io *io = arg;
    do {
        io->result = rt_result(io->out ? pwritev2(io->fd, io->iov, io->count, -1, io->flags)
                                       : preadv2(io->fd, io->iov, io->count, -1, io->flags));
    } while (io->result == -EINTR);
}

static void file_io_bracketed(struct file_io *io)
{
    weft_syscall_enter();
    file_io_step(io);
    weft_syscall_exit();
}

static ssize_t file_io_pooled(struct file_io *io)
{
    io->flags = 0;
    if (weft_blocking(file_io_step, io) < 0)
        file_io_bracketed(io);
    return io->result;
}

static ssize_t disk_io(struct file_io *io)
{
    io->flags = RWF_NOWAIT;
    file_io_step(io);
    /* 0: kernels of the 5.9 time could say "end of file" for "would block". */
    if (io->result == -EAGAIN || io->result == -EOPNOTSUPP || io->result == 0)
        return file_io_pooled(io);
    return io->result;
}

static ssize_t stream_io(struct file_io *io, bool is_pipe)
{
    struct iovec part;
    io->flags = RWF_NOWAIT;
    file_io_step(io);
    if (io->result != -EOPNOTSUPP)
        return io->result;
    int ready = rt_poll_now(io->fd, io->out ? POLLOUT : POLLIN);
    if (ready < 0)
        return ready;
    if (io->out && io->count > 0) {
        part = io->iov[0];
        if (part.iov_len > PIPE_BUF)
            part.iov_len = PIPE_BUF;
        io->iov = &part;
        io->count = 1;
        if (!is_pipe)
            return file_io_pooled(io);
    }
    io->flags = 0;
    file_io_bracketed(io);
    return io->result;
}

ssize_t rt_file_try(int fd, bool out, const struct iovec *iov, int count)
{
    struct file_io io = {.fd = fd, .out = out, .iov = iov, .count = count};
    int kind = file_kind(fd);
    if (kind < 0)
        return kind;
    if (kind == FILE_SOCKET)
        return -EPROTOTYPE;
    return kind == FILE_DISK ? disk_io(&io) : stream_io(&io, kind == FILE_PIPE);
}
