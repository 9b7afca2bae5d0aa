/* Opening the present half, with a small stand-in that is compiled here: where it is looked for,
 * what it is given, what the public calls do with its answers, WEFT_PPROF and fork. */
#include "tests/profiler/collect/collect_check.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[] = "/tmp/weft-load-XXXXXX";
static char library[PATH_MAX + 32]; /* beside this program, where it is looked for first */

/* Makes dir, and takes away what a test that failed has left beside the program. */
static void make_dir(void)
{
    ssize_t n = readlink("/proc/self/exe", library, PATH_MAX - 1);
    cr_assert_gt(n, 0);
    library[n] = 0;
    strcpy(strrchr(library, '/'), "/libweft-present.so");
    unlink(library);
    setenv("WEFT_LIBDIR", "/nonexistent", 1);
    cr_assert_not_null(mkdtemp(dir));
}

/* An installed Weft is found before WEFT_LIBDIR is looked at. */
static bool installed(void)
{
    return access("/usr/local/lib/libweft-present.so", F_OK) == 0;
}

/* Answers serve by the address, and writes how many samples it was given. */
static const char stand_in[] =
    "#include \"profiler/collect/collect.h\"\n"
    "#include <errno.h>\n#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n"
    "#include <unistd.h>\n"
    "static int serving; static const pf_collect_api *api;\n"
    "static int serve(const char *a) {\n"
    "  if (!strcmp(a, \"taken\")) return -EADDRINUSE;\n"
    "  if (serving) return -EALREADY;\n"
    "  serving = 1; dprintf(2, \"serving %s\\n\", a); return 4242; }\n"
    "static int stop(void) { if (!serving) return -ENOENT; serving = 0; return 0; }\n"
    "static int handle(const char *m, const char *t, const void *b, size_t n, weft_reply_fn r,\n"
    "  void *arg) { (void)b; (void)n; return strcmp(t, \"/x\") ? -ENOENT : r(arg, 200, m, 0, 0); "
    "}\n"
    "static int out(pf_raw *raw, int fd, int debug) {\n"
    "  dprintf(fd, \"%s %d %d\", raw->source->name, debug, api->version); return 0; }\n"
    "static void child(void) { if (serving) { ssize_t n = write(2, \"dropped\\n\", 8); (void)n; }\n"
    "  serving = 0; }\n"
    "static const pf_present_api mine = {PF_API_VERSION, serve, stop, handle, out, child};\n"
    "__attribute__((visibility(\"default\")))\n"
    "const pf_present_api *weft_present_open(const pf_collect_api *);\n"
    "const pf_present_api *weft_present_open(const pf_collect_api *a) { api = a; return &mine; }\n";

static void run(const char *command)
{
    cr_assert_eq(system(command), 0, "%s", command);
}

static void compile(const char *text, const char *to)
{
    char path[128], command[PATH_MAX + 512];
    snprintf(path, sizeof(path), "%s/stand_in.c", dir);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    /* The sanitizers of this test need not be in the stand-in. */
    snprintf(command, sizeof(command),
             "${CC:-cc} -std=gnu11 -D_GNU_SOURCE -I. -Iruntime -Iprofiler -fPIC -shared -o '%s' %s",
             to, path);
    run(command);
}

static void make_stand_in(void)
{
    make_dir();
    compile(stand_in, library);
}

static void remove_stand_in(void)
{
    char command[128];
    unlink(library);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    run(command);
}

Test(load, without_the_library_calls_say_so, .init = make_dir, .fini = remove_stand_in)
{
    if (!installed()) {
        cr_assert_eq(weft_pprof_serve("127.0.0.1:0"), -ELIBACC);
        cr_assert_eq(weft_pprof_write("heap", 1, 0), -ELIBACC);
        cr_assert_eq(weft_pprof_cpu_start(1, 0), -ELIBACC);
    }
    cr_assert_eq(weft_pprof_cpu_stop(), -ENOENT);
    cr_assert_eq(weft_pprof_stop(), -ENOENT);
    cr_assert_eq(weft_pprof_serve(NULL), -EINVAL);
    cr_assert_eq(weft_pprof_write("nothing", 1, 0), -ENOENT);
    cr_assert_eq(weft_pprof_write("profile", 1, 0), -ENOENT); /* it has a session, no snapshot */
    cr_assert_eq(weft_pprof_write(NULL, 1, 0), -EINVAL);
    cr_assert_eq(weft_pprof_cpu_start(1, 1001), -EINVAL);
    cr_assert_eq(weft_pprof_cpu_start(-1, 100), -EINVAL);
}

static int reply(void *arg, int status, const char *headers, const void *body, size_t n)
{
    (void)body, (void)n;
    *(int *)arg = status + (int)strlen(headers);
    return 0;
}

static int calls(int argc, char **argv)
{
    (void)argc, (void)argv;
    int got = 0, ends[2];
    char text[64] = "";
    cr_assert_eq(weft_pprof_serve("here"), 4242);
    cr_assert_eq(weft_pprof_serve("here"), -EALREADY);
    cr_assert_eq(weft_pprof_stop(), 0);
    cr_assert_eq(weft_pprof_stop(), -ENOENT);
    cr_assert_eq(weft_pprof_handle("GET", "/x", NULL, 0, reply, &got), 0);
    cr_assert_eq(got, 203);
    cr_assert_eq(weft_pprof_handle("GET", "/y", NULL, 0, reply, &got), -ENOENT);
    cr_assert_eq(weft_pprof_handle("GET", "/x", NULL, 0, NULL, &got), -EINVAL);
    cr_assert_eq(pipe(ends), 0);
    cr_assert_eq(weft_pprof_write("goroutine", ends[1], 2), 0);
    cr_assert_eq(read(ends[0], text, sizeof(text)), 13);
    cr_assert_str_eq(text, "goroutine 2 1");
    cr_assert_eq(weft_pprof_cpu_start(ends[1], 250), 0);
    cr_assert_eq(weft_pprof_cpu_start(ends[1], 250), -EBUSY);
    cr_assert_eq(weft_pprof_cpu_stop(), 0);
    memset(text, 0, sizeof(text));
    cr_assert_eq(read(ends[0], text, sizeof(text)), 11);
    cr_assert_str_eq(text, "profile 0 1");
    cr_assert_eq(weft_pprof_cpu_stop(), -ENOENT);
    cr_assert_eq(pf_tls.quiet, 0);
    return 5;
}

Test(load, calls_from_threads, .init = make_stand_in, .fini = remove_stand_in, .timeout = 60)
{
    cr_assert_eq(calls(0, NULL), 5);
}

Test(load, calls_from_coroutines, .init = make_stand_in, .fini = remove_stand_in, .timeout = 60)
{
    cr_assert_eq(weft_run(calls, 0, NULL), 5);
}

/* weft_pprof_cpu_stop ends only what weft_pprof_cpu_start began. */
Test(load, sessions_of_others_stay, .init = make_stand_in, .fini = remove_stand_in)
{
    pf_raw raw;
    cr_assert_eq(pf_api.cpu_start(100), 0);
    cr_assert_eq(weft_pprof_cpu_start(1, 100), -EBUSY);
    cr_assert_eq(weft_pprof_cpu_stop(), -ENOENT);
    cr_assert_eq(pf_api.cpu_stop(&raw), 0);
    pf_api.raw_free(&raw);
}

Test(load, the_directory_of_the_environment, .init = make_dir, .fini = remove_stand_in)
{
    char other[128];
    snprintf(other, sizeof(other), "%s/libweft-present.so", dir);
    compile(stand_in, other);
    setenv("WEFT_LIBDIR", dir, 1);
    if (!installed())
        cr_assert_eq(weft_pprof_serve("here"), 4242);
}

Test(load, a_library_of_another_version_is_refused, .init = make_dir, .fini = remove_stand_in)
{
    compile("const void *weft_present_open(const void *a);\n"
            "const void *weft_present_open(const void *a) { (void)a; return 0; }\n",
            library);
    if (!installed())
        cr_assert_eq(weft_pprof_serve("here"), -ELIBACC);
}

static char captured[4096];

/* What fn says on stderr, from here and from its children. */
static void capture(void (*fn)(void))
{
    char name[128];
    snprintf(name, sizeof(name), "%s/stderr", dir);
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC | O_APPEND, 0600), before = dup(2);
    dup2(fd, 2);
    fn();
    dup2(before, 2);
    ssize_t n = pread(fd, captured, sizeof(captured) - 1, 0);
    captured[n > 0 ? n : 0] = 0;
    close(fd);
}

static void fork_one(void)
{
    cr_assert_eq(pf_serve_env("somewhere"), 4242);
    pid_t pid = fork();
    if (!pid) {
        usleep(500000); /* the child's helper serves meanwhile; bounded, and not raced against */
        _exit(weft_pprof_serve("other") == -EALREADY ? 0 : 1);
    }
    int status;
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
}

Test(load, a_child_of_a_served_program_serves_itself, .init = make_stand_in,
     .fini = remove_stand_in, .timeout = 60)
{
    capture(fork_one);
    cr_assert_str_eq(captured, "serving somewhere\ndropped\nserving somewhere\n");
}

static void fail_to_serve(void)
{
    cr_assert_eq(pf_serve_env("taken"), -EADDRINUSE);
}

Test(load, a_failure_is_one_line, .init = make_stand_in, .fini = remove_stand_in)
{
    capture(fail_to_serve);
    cr_assert_str_eq(captured, "weft: WEFT_PPROF=taken: Address already in use\n");
}

static void fork_unserved(void)
{
    cr_assert_eq(weft_pprof_serve("by the program"), 4242);
    pid_t pid = fork();
    if (!pid) {
        usleep(100000);
        _exit(0);
    }
    waitpid(pid, NULL, 0);
}

/* Served by a call, not by the environment: the child only drops the listener. */
Test(load, a_child_of_a_program_that_serves_by_call, .init = make_stand_in, .fini = remove_stand_in)
{
    capture(fork_unserved);
    cr_assert_str_eq(captured, "serving by the program\ndropped\n");
}
