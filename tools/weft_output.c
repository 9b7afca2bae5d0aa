/* Results appear whole or not at all.
 *
 * Invariants:
 * 1. A regular target is replaced by rename, after everything was written and closed without an
 *    error. A failed command leaves the old file, or none.
 * 2. A symbolic link is followed, so that it stays a link; a device, pipe or socket is written in
 *    place, since a rename would put a file where /dev/null was.
 * 3. A reader of stdout that went away is no error to talk about: exit 1 and silence.
 * 4. Ctrl-C in the middle takes the temporary file along.
 */
#include "tools/weft_tool.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char *volatile unfinished;

static void on_signal(int sig)
{
    char *path = unfinished;
    if (path)
        unlink(path);
    signal(sig, SIG_DFL);
    raise(sig);
}

static void clean_up_on_signals(void)
{
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP};
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (signal(signals[i], on_signal) == SIG_IGN)
            signal(signals[i], SIG_IGN);
}

static mode_t new_file_mode(void)
{
    mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

/* Where the bytes are to end up in the end: the link's target, or the path itself. */
static char *target_of(const char *path)
{
    char *real = realpath(path, NULL);
    return real ? real : strdup(path);
}

static int open_temp(tool_output *o, mode_t mode)
{
    size_t n = strlen(o->path);
    o->temp = malloc(n + 16);
    if (!o->temp)
        return -ENOMEM;
    memcpy(o->temp, o->path, n);
    strcpy(o->temp + n, ".weft-XXXXXX");
    clean_up_on_signals();
    int fd = mkostemp(o->temp, O_CLOEXEC);
    if (fd < 0) {
        int rc = -errno;
        free(o->temp);
        o->temp = NULL;
        return rc;
    }
    unfinished = o->temp;
    fchmod(fd, mode);
    o->file = fdopen(fd, "w");
    return o->file ? 0 : -ENOMEM;
}

static void forget(tool_output *o)
{
    unfinished = NULL;
    if (o->temp)
        unlink(o->temp);
    free(o->temp);
    free(o->path);
    *o = (tool_output){0};
}

int tool_output_open(tool_output *o, const char *path)
{
    *o = (tool_output){.file = stdout, .name = path ? path : "standard output"};
    if (!path || strcmp(path, "-") == 0)
        return TOOL_OK;
    struct stat st;
    bool there = stat(path, &st) == 0;
    int rc = 0;
    if (there && S_ISDIR(st.st_mode))
        return tool_error(path, "is a directory");
    if (there && !S_ISREG(st.st_mode)) {
        o->file = fopen(path, "we");
        rc = o->file ? 0 : -errno;
    } else {
        o->path = target_of(path);
        rc = o->path ? open_temp(o, there ? st.st_mode & 07777 : new_file_mode()) : -ENOMEM;
    }
    if (!rc)
        return TOOL_OK;
    forget(o);
    return tool_error(path, "cannot write: %s", strerror(-rc));
}

int tool_output_close(tool_output *o, int64_t rc)
{
    const char *name = o->name;
    errno = 0;
    if (fflush(o->file) && rc >= 0)
        rc = errno ? -errno : -EIO;
    if (ferror(o->file) && rc >= 0)
        rc = -EIO;
    if (o->file != stdout && fclose(o->file) && rc >= 0)
        rc = -errno;
    if (rc >= 0 && o->temp && rename(o->temp, o->path))
        rc = -errno;
    if (rc >= 0 && o->temp) {
        free(o->temp);
        o->temp = NULL;
    }
    forget(o);
    if (rc == -EPIPE)
        return TOOL_FAILED;
    if (rc == -EFBIG)
        return tool_error(name, "too many frames to draw in memory");
    return rc < 0 ? tool_error(name, "cannot write: %s", strerror((int)-rc)) : TOOL_OK;
}
