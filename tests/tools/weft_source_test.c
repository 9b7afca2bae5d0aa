/* Where profiles come from: files, standard input, a server on TCP and on a unix socket, and
 * everything that goes wrong there. The server is a child process that answers a given number of
 * requests.
 */
#include "tests/tools/run.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

static char *good_profile(size_t *n)
{
    pb_profile *p = make_profile();
    make_stack(p, "main;run", 3);
    void *buf;
    cr_assert_eq(pb_encode(p, 1, &buf, n), 0);
    pb_profile_free(p);
    return buf;
}

/* Answers one request: /404 is refused in words, /cut ends early, /hang never comes, all else is a
 * profile whose comment-like first line of the request is written to `log`. */
static void answer(int fd, const char *log)
{
    char request[2000] = "";
    size_t at = 0, n;
    while (!strstr(request, "\r\n\r\n") && at < sizeof request - 1) {
        ssize_t got = read(fd, request + at, sizeof request - 1 - at);
        if (got <= 0)
            break;
        at += (size_t)got;
    }
    char *body = good_profile(&n), head[200], *target = strchr(request, ' ') + 1;
    run_write(log, target, strcspn(target, " "));
    if (strncmp(target, "/404", 4) == 0)
        dprintf(
            fd,
            "HTTP/1.1 404 Not Found\r\nContent-Length: 28\r\n\r\nUnknown profile\nsecond line\n");
    else if (strncmp(target, "/moved", 6) == 0)
        dprintf(fd,
                "HTTP/1.1 301 Moved\r\nLocation: /debug/pprof/heap\r\nContent-Length: 0\r\n\r\n");
    else if (strncmp(target, "/cut", 4) == 0)
        dprintf(fd, "HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nabc");
    else {
        snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", n);
        if (write(fd, head, strlen(head)) < 0 || write(fd, body, n) < 0)
            _exit(1);
    }
    shutdown(fd, SHUT_WR);
    close(fd);
}

static int listen_tcp(int *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof a;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert(bind(fd, (struct sockaddr *)&a, len) == 0 && listen(fd, 8) == 0);
    cr_assert_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
    *port = ntohs(a.sin_port);
    return fd;
}

/* Serves `requests` on the listening socket, in a child that dies with us. */
static void serve(int listener, const char *log, int requests)
{
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid)
        return;
    alarm(60);
    while (requests--)
        answer(accept(listener, NULL, NULL), log);
    _exit(0);
}

static const char *url(int port, const char *path)
{
    static char text[200];
    snprintf(text, sizeof text, "http://127.0.0.1:%d%s", port, path);
    return text;
}

Test(weft_source, files_and_standard_input, .fini = run_clean)
{
    size_t n;
    char *buf = good_profile(&n), *file = run_path("p.pb.gz"), *text = run_path("p.folded");
    run_write(file, buf, n);
    run_write(text, "main;run 3\n", 11);
    cr_assert_str_eq(run_weft(NULL, "collapse", file, NULL).out, "main;run 3\n");
    cr_assert_str_eq(run_weft(file, "collapse", "-", NULL).out, "main;run 3\n");
    cr_assert_str_eq(run_weft(NULL, "collapse", text, NULL).out, "main;run 3\n");
    cr_assert_str_eq(run_weft(text, "collapse", "-", NULL).out, "main;run 3\n");
}

Test(weft_source, what_cannot_be_read_is_named, .fini = run_clean)
{
    size_t n;
    char *buf = good_profile(&n), *file = run_path("bad");
    run_expect_error(run_weft(NULL, "top", "/nowhere/x.pb.gz", NULL), 1,
                     "/nowhere/x.pb.gz: No such file or directory");
    run_expect_error(run_weft(NULL, "top", "127.0.0.1:6060", NULL), 1, "say http://127.0.0.1:6060");
    run_expect_error(run_weft(NULL, "top", "/tmp", NULL), 1, "/tmp: Is a directory");
    run_expect_error(run_weft(NULL, "top", "ftp://host/x", NULL), 1, "only http://");
    run_expect_error(run_weft(NULL, "top", "/dev/null", NULL), 1, "/dev/null: is empty");
    run_expect_error(run_weft(NULL, "top", "-", NULL), 1, "standard input: is empty");
    run_write(file, buf, n / 2);
    run_expect_error(run_weft(NULL, "top", file, NULL), 1, "bad: truncated: the gzip data ends");
    run_write(file, "<html>\n<body>\n", 14);
    run_expect_error(run_weft(NULL, "top", file, NULL), 1, "not folded stacks");
    run_write(file,
              "\x7f"
              "ELF\2\1\1\0\0\0",
              10);
    run_expect_error(run_weft(NULL, "top", file, NULL), 1, "malformed profile");
    run_write(file, "goroutine profile: total 3\n1 @ 0x1\n", 35);
    run_expect_error(run_weft(NULL, "top", file, NULL), 1, "text form");
    run_expect_error(run_weft(NULL, "top", "--seconds", "3", file, NULL), 1,
                     "--seconds is for a server");
}

Test(weft_source, junk_lines_are_told_and_skipped, .fini = run_clean)
{
    char *file = run_path("some.folded");
    run_write(file, "a;b 3\nnonsense\n# note\nworse -1\n", 31);
    run_result r = run_weft(NULL, "collapse", file, NULL);
    cr_assert_eq(r.status, 0);
    cr_assert_str_eq(r.out, "a;b 3\n");
    cr_assert_not_null(strstr(r.err, "some.folded: skipped 2 lines that are not folded stacks\n"));
}

static void expect_target(int port, const char *path, const char *seconds, const char *target,
                          const char *log)
{
    run_result r = seconds ? run_weft(NULL, "collapse", url(port, path), "--seconds", seconds, NULL)
                           : run_weft(NULL, "collapse", url(port, path), NULL);
    cr_assert_str_eq(r.err, "");
    cr_assert_str_eq(r.out, "main;run 3\n");
    cr_assert_str_eq(run_read(log), target);
}

Test(weft_source, a_server_is_asked_for_the_right_thing, .fini = run_clean, .timeout = 60)
{
    int port, fd = listen_tcp(&port);
    char *log = run_path("log");
    serve(fd, log, 9);
    expect_target(port, "", NULL, "/debug/pprof/profile", log);
    expect_target(port, "/", "1", "/debug/pprof/profile?seconds=1", log);
    expect_target(port, "/debug/pprof/heap", NULL, "/debug/pprof/heap", log);
    expect_target(port, "/x?gc=1", "2", "/x?gc=1&seconds=2", log);
    expect_target(port, "/x#part", NULL, "/x", log);
    expect_target(port, "?debug=0", NULL, "/debug/pprof/profile?debug=0", log);
    expect_target(port, "/moved", NULL, "/debug/pprof/heap", log);
}

Test(weft_source, a_unix_socket_is_a_server_too, .fini = run_clean, .timeout = 60)
{
    char *path = run_path("sock"), *log = run_path("log"), *source;
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    snprintf(a.sun_path, sizeof a.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert(bind(fd, (struct sockaddr *)&a, sizeof a) == 0 && listen(fd, 8) == 0);
    serve(fd, log, 3);
    cr_assert_gt(asprintf(&source, "unix:%s", path), 0);
    cr_assert_str_eq(run_weft(NULL, "collapse", source, NULL).out, "main;run 3\n");
    cr_assert_str_eq(run_read(log), "/debug/pprof/profile");
    cr_assert_gt(asprintf(&source, "unix:%s:/debug/pprof/block", path), 0);
    cr_assert_str_eq(run_weft(NULL, "collapse", source, NULL).out, "main;run 3\n");
    cr_assert_str_eq(run_read(log), "/debug/pprof/block");
    cr_assert_gt(asprintf(&source, "unix:%s:/404", path), 0);
    run_expect_error(run_weft(NULL, "collapse", source, NULL), 1, ":/404: the server answered 404");
}

Test(weft_source, refusals_of_a_server_are_passed_on, .fini = run_clean, .timeout = 60)
{
    int port, fd = listen_tcp(&port);
    char *log = run_path("log"), *out = run_path("x.svg"), text[300];
    run_expect_error(run_weft(NULL, "top", "--seconds=1", url(port, "/x?seconds=2"), NULL), 1,
                     "has seconds= already");
    serve(fd, log, 2);
    snprintf(text, sizeof text, "%s: the server answered 404: Unknown profile\n",
             url(port, "/404"));
    run_expect_error(run_weft(NULL, "flame", url(port, "/404"), "-o", out, NULL), 1, text);
    cr_assert_neq(access(out, F_OK), 0, "no file");
    run_expect_error(run_weft(NULL, "flame", url(port, "/cut"), "-o", out, NULL), 1, "/cut: ");
    cr_assert_neq(access(out, F_OK), 0, "no file");
    close(fd);
    int gone = listen_tcp(&port);
    close(gone);
    run_expect_error(run_weft(NULL, "top", url(port, "/"), NULL), 1, "127.0.0.1");
}
