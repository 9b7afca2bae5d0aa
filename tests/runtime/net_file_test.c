/* Descriptors that are no sockets and came from elsewhere: terminals, files, numbers that change.
 */
#define SUITE net_file
#include "tests/runtime/net_help.h"
#include <fcntl.h>
#include <poll.h>

/* False where there are no terminals at all: a chroot without /dev/pts. */
static bool open_pty(int *master, int *slave)
{
    char name[64];
    *master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (*master < 0 && access("/dev/pts/ptmx", F_OK) != 0)
        return false;
    cr_assert_geq(*master, 0);
    cr_assert_eq(grantpt(*master), 0);
    cr_assert_eq(unlockpt(*master), 0);
    cr_assert_eq(ptsname_r(*master, name, sizeof name), 0);
    *slave = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    cr_assert_geq(*slave, 0);
    return true;
}
static void type_line(void *arg)
{
    weft_sleep(5 * MS);
    cr_assert_eq(weft_write((int)(intptr_t)arg, "hello\n", 6), 6);
}
/* ttys know no RWF_NOWAIT: poll first. */
BOTH(terminals, 60)
{
    int master, slave;
    char buf[64];
    if (!open_pty(&master, &slave))
        return 0;
    cr_assert_eq(weft_read_dl(slave, buf, sizeof buf, weft_now() + 5 * MS), -ETIMEDOUT);
    spawn(type_line, (void *)(intptr_t)master);
    cr_assert_eq(weft_read(slave, buf, sizeof buf), 6);
    cr_assert_eq(memcmp(buf, "hello\n", 6), 0);
    cr_assert_eq(weft_read(master, buf, sizeof buf), 7, "its echo, with a carriage return");
    join(&spawned);
    struct writer w = {.fd = slave, .n = 200000}; /* more than a terminal holds */
    spawn(write_twice, &w);
    for (size_t got = 0; got < 2 * w.n;) {
        weft_sleep(got < 10000 ? 5 * MS : 0); /* it is full, and we can still run */
        static char sink[9999];
        ssize_t n = weft_read(master, sink, sizeof sink);
        cr_assert_gt(n, 0);
        got += (size_t)n;
    }
    join(&spawned);
    cr_assert_eq(w.first, w.n);
    cr_assert_eq(w.second, w.n);
    cr_assert(!(fcntl(slave, F_GETFL) & O_NONBLOCK));
    weft_close(master);
    weft_close(slave);
    return 0;
}

BOTH(disk_files, 60)
{
    char buf[64];
    char file[5] = "file";
    const char *path = scratch("file");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(weft_write(fd, "hello, ", 7), 7);
    cr_assert_eq(weft_writev_dl(fd, &(struct iovec){file, 4}, 1, WEFT_FOREVER), 4);
    cr_assert_eq(lseek(fd, 0, SEEK_SET), 0);
    cr_assert_eq(weft_read(fd, buf, 5), 5);
    cr_assert_eq(weft_read(fd, buf + 5, sizeof buf - 5), 6, "the position moves on");
    cr_assert_eq(memcmp(buf, "hello, file", 11), 0);
    cr_assert_eq(weft_read(fd, buf, sizeof buf), 0, "the end");
    cr_assert_eq(weft_fd_wait(fd, POLLIN), POLLIN, "a file is always ready");
    cr_assert_eq(weft_recvfrom_dl(fd, buf, 1, 0, NULL, NULL, WEFT_FOREVER), -ENOTSOCK);
    cr_assert_eq(weft_sendto_dl(fd, "x", 1, 0, NULL, 0, WEFT_FOREVER), -ENOTSOCK);
    cr_assert_eq(weft_close(fd), 0);
    unlink(path);
    int dir = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    cr_assert_eq(weft_read(dir, buf, 1), -EISDIR);
    weft_close(dir);
    int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
    cr_assert_eq(weft_read(zero, buf, sizeof buf), sizeof buf);
    cr_assert_eq(weft_write(zero, buf, sizeof buf), sizeof buf);
    weft_close(zero);
    return 0;
}

/* What we know of a number goes stale when somebody calls close(2): a file becomes a socket, and
 * back. */
BOTH(a_number_changes_kind, 60)
{
    char c;
    for (int i = 0; i < 20; i++) {
        int s[2], p[2];
        cr_assert_eq(pipe2(p, O_CLOEXEC), 0);
        cr_assert_eq(weft_write(p[1], "a", 1), 1);
        cr_assert_eq(weft_read(p[0], &c, 1), 1);
        close(p[0]);
        close(p[1]);
        blocking_pair(s);
        cr_assert_eq(s[1], p[1]);
        cr_assert_eq(weft_read_dl(s[0], &c, 1, weft_now() + MS), -ETIMEDOUT);
        cr_assert_eq(weft_write(s[1], "b", 1), 1);
        cr_assert_eq(weft_read(s[0], &c, 1), 1);
        close(s[0]);
        cr_assert_eq(weft_write(s[1], "c", 1), -EPIPE, "and no SIGPIPE");
        close(s[1]);
    }
    return 0;
}
