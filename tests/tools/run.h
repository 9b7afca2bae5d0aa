/* Runs the built command and keeps what it said. */
#ifndef WEFT_TESTS_TOOLS_RUN_H
#define WEFT_TESTS_TOOLS_RUN_H

#include "tests/proto/make.h"

#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef WEFT_BIN
#define WEFT_BIN "build/weft"
#endif

typedef struct run_result {
    int status; /* of exit; 128 + n for signal n */
    char *out, *err;
} run_result;

static char run_dir[] = "/tmp/weft-tool-XXXXXX";
static bool run_dir_made;

/* A path in a directory of this test's own. The process ends soon, so nothing is freed. */
__attribute__((unused)) static char *run_path(const char *name)
{
    char *path = NULL;
    if (!run_dir_made && !mkdtemp(run_dir))
        cr_fail("no temporary directory");
    run_dir_made = true;
    cr_assert_gt(asprintf(&path, "%s/%s", run_dir, name), 0);
    return path;
}

__attribute__((unused)) static void run_clean(void)
{
    char command[64];
    snprintf(command, sizeof command, "rm -rf %s", run_dir);
    if (run_dir_made && system(command))
        cr_fail("cannot clean up");
}

__attribute__((unused)) static char *run_read(const char *path)
{
    char *text = NULL;
    size_t n = 0;
    FILE *f = fopen(path, "r");
    if (!f)
        return NULL;
    ssize_t got = getdelim(&text, &n, '\0', f);
    fclose(f);
    return got < 0 ? strdup("") : text;
}

__attribute__((unused)) static void run_write(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "w");
    cr_assert(f && fwrite(data, 1, n, f) == n && fclose(f) == 0);
}

/* Writes the profile as gzip and gives its path. */
__attribute__((unused)) static char *run_profile(const pb_profile *p, const char *name)
{
    void *buf;
    size_t n;
    cr_assert_eq(pb_encode(p, 1, &buf, &n), 0);
    char *path = run_path(name);
    run_write(path, buf, n);
    free(buf);
    return path;
}

/* weft WORDS...; the list ends with NULL. in is the standard input (NULL: /dev/null). */
__attribute__((unused, sentinel)) static run_result run_weft(const char *in, ...)
{
    char *argv[32] = {(char *)WEFT_BIN}, *out = run_path("out"), *err = run_path("err");
    va_list ap;
    va_start(ap, in);
    for (int i = 1; i < 31 && (argv[i] = va_arg(ap, char *)); i++)
        ;
    va_end(ap);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        dup2(open(in ? in : "/dev/null", O_RDONLY), 0);
        dup2(open(out, O_WRONLY | O_CREAT | O_TRUNC, 0600), 1);
        dup2(open(err, O_WRONLY | O_CREAT | O_TRUNC, 0600), 2);
        execv(argv[0], argv);
        _exit(127);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    run_result r = {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), run_read(out),
                    run_read(err)};
    cr_assert_neq(r.status, 127, "%s cannot be run", WEFT_BIN);
    unlink(out);
    unlink(err);
    free(out);
    free(err);
    return r;
}

/* A refusal: this status, nothing on stdout, one line "weft: ..." that holds the text. */
__attribute__((unused)) static void run_expect_error(run_result r, int status, const char *text)
{
    cr_assert_eq(r.status, status, "%s", r.err);
    cr_assert_str_eq(r.out, "");
    cr_assert(strncmp(r.err, "weft: ", 6) == 0, "%s", r.err);
    cr_assert_not_null(strstr(r.err, text), "\"%s\" is not in: %s", text, r.err);
    cr_assert_eq(strchr(r.err, '\n') - r.err, (long)strlen(r.err) - 1, "one line: %s", r.err);
}

#endif
