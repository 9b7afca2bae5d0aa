/* The server on real sockets, spoken to byte by byte: framing, methods, who may ask, clients that
 * go away, many at once, stop and fork. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include "tests/profiler/present/fake.h"

FAKE_FUNCTION(user_work)

static int port;
static bool one_frame_each; /* snapshots with 20 000 samples, for large answers */

static void fill(pf_raw *raw)
{
    uintptr_t pcs[] = {FAKE_PC(user_work), 0};
    uint32_t n = one_frame_each ? 20000 : 1;

    for (uint32_t i = 0; i < n; i++) {
        pcs[1] = 0x100000 + 16 * i;
        fake_add(raw, pcs, 2)->values[0] = 1;
    }
}

static void setup(void)
{
    fake_setup();
    fake_fill = fill;
    port = pf_http_serve("127.0.0.1:0");
    cr_assert_gt(port, 0);
}

static void finish(void)
{
    cr_assert_eq(pf_http_stop(), 0);
    cr_assert_eq(fake_quiet_threads, 0, "each thread said that it ends");
    cr_assert_eq(fake_live_raws, 0);
    cr_assert_eq(fake_cpu_running, 0);
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static int buffer_bytes; /* of the socket that dial makes; 0 as it comes */

static int dial(void)
{
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)port),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (buffer_bytes)
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &buffer_bytes, sizeof buffer_bytes);
    cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

static void say(int fd, const char *text)
{
    size_t n = strlen(text);

    cr_assert_eq(send(fd, text, n, MSG_NOSIGNAL), (ssize_t)n);
}

/* All there is until the server closes, NUL-terminated. */
static size_t hear(int fd, char *to, size_t cap)
{
    size_t n = 0;
    ssize_t r;

    while (n + 1 < cap && (r = recv(fd, to + n, cap - 1 - n, 0)) > 0)
        n += (size_t)r;
    to[n] = '\0';
    close(fd);
    return n;
}

static char answer[4 << 20];
static size_t answer_bytes;

static int status_of(const char *text)
{
    return strncmp(text, "HTTP/1.", 7) == 0 ? atoi(text + 9) : -1;
}

/* One request on a connection of its own. request is without the last empty line. */
static int ask(const char *request)
{
    int fd = dial();

    say(fd, request);
    say(fd, "Connection: close\r\n\r\n");
    answer_bytes = hear(fd, answer, sizeof answer);
    return status_of(answer);
}

static const char *body(void)
{
    const char *b = strstr(answer, "\r\n\r\n");

    cr_assert_not_null(b);
    return b + 4;
}

static size_t body_bytes(void)
{
    return answer_bytes - (size_t)(body() - answer);
}

static long content_length(void)
{
    const char *h = strcasestr(answer, "\r\nContent-Length: ");

    return h && h < body() ? atol(h + 18) : -1;
}

Test(http, answers, .init = setup, .fini = finish, .timeout = 60)
{
    cr_assert_eq(ask("GET /debug/pprof/goroutine?debug=1 HTTP/1.1\r\nHost: localhost\r\n"), 200);
    cr_assert_eq(strncmp(body(), "goroutine profile: total 1\n", 27), 0);
    cr_assert_eq(content_length(), (long)body_bytes());
    cr_assert_not_null(strcasestr(answer, "X-Content-Type-Options: nosniff\r\n"));
    cr_assert_null(strcasestr(answer, "Content-Encoding"));
    cr_assert_null(strcasestr(answer, "X-Go-Pprof"));
    cr_assert_eq(ask("GET /debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\n"), 200);
    cr_assert_eq(memcmp(body(), "\x1f\x8b", 2), 0);
    cr_assert_not_null(strcasestr(answer, "attachment; filename=\"heap\"\r\n"));
    cr_assert_eq(ask("GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n"), 200);
    cr_assert_not_null(strstr(body(), "<a href='heap?debug=1'>heap</a>"));
    cr_assert_eq(ask("GET /debug/pprof HTTP/1.1\r\nHost: localhost\r\n"), 301);
    cr_assert_not_null(strstr(answer, "Location: /debug/pprof/\r\n"));
    cr_assert_eq(ask("GET /debug/pprof/nope HTTP/1.1\r\nHost: localhost\r\n"), 404);
    cr_assert_str_eq(body(), "Unknown profile\n");
    cr_assert_not_null(strcasestr(answer, "X-Go-Pprof: 1\r\n"));
    cr_assert_eq(ask("GET / HTTP/1.1\r\nHost: localhost\r\n"), 404);
    cr_assert_str_eq(body(), "404 page not found\n");
    cr_assert_null(strcasestr(answer, "X-Go-Pprof"));
    cr_assert_eq(ask("DELETE /debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\n"), 405);
    cr_assert_eq(ask("HEAD /debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\n"), 200);
    cr_assert_eq(body_bytes(), 0);
    cr_assert_eq(ask("GET http://localhost/debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\n"), 200,
                 "the absolute form");
}

Test(http, version_1_0_and_rubbish, .init = setup, .fini = finish, .timeout = 60)
{
    int fd = dial();

    say(fd, "GET /debug/pprof/goroutine HTTP/1.0\r\n\r\n");
    answer_bytes = hear(fd, answer, sizeof answer);
    cr_assert_eq(status_of(answer), 200, "no Host, closed at the end: %s", answer);
    cr_assert_eq(memcmp(body(), "\x1f\x8b", 2), 0);
    static const char *const junk[] = {"", "\r\n\r\n", "GET\r\n\r\n", "\x16\x03\x01\x02\x01",
                                       "GET /debug/pprof/heap HTTP/9.9\r\n\r\n"};
    int64_t start = now_ms();
    for (size_t i = 0; i < 5; i++) {
        fd = dial();
        say(fd, junk[i]);
        shutdown(fd, SHUT_WR);
        hear(fd, answer, sizeof answer);
        cr_assert_neq(status_of(answer), 200);
    }
    cr_assert_lt(now_ms() - start, 10000, "none has to wait for the idle limit");
    fd = dial(); /* but one that closes its half behind a whole request gets its answer */
    say(fd, "GET /debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    shutdown(fd, SHUT_WR);
    answer_bytes = hear(fd, answer, sizeof answer);
    cr_assert_eq(status_of(answer), 200);
    cr_assert_eq(content_length(), (long)body_bytes());
    cr_assert_eq(ask("GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n"), 200, "still alive");
}

Test(http, symbol_is_not_decoded, .init = setup, .fini = finish, .timeout = 60)
{
    char text[512], expect[256];
    uintptr_t a = FAKE_PC(user_work);

    snprintf(expect, sizeof expect, "num_symbols: 1\n0x%lx user_work\n", a);
    snprintf(text, sizeof text, "GET /debug/pprof/symbol?0x%lx+0x1 HTTP/1.1\r\nHost: localhost\r\n",
             a);
    cr_assert_eq(ask(text), 200);
    cr_assert_str_eq(body(), expect);
    snprintf(text, sizeof text,
             "GET /debug/pprof/symbol?0x%lx%%2b0x%lx HTTP/1.1\r\nHost: localhost\r\n", a, a);
    cr_assert_eq(ask(text), 200);
    cr_assert_str_eq(body(), "num_symbols: 1\n", "%%2b is no separator");

    int fd = dial();
    snprintf(text, sizeof text,
             "POST /debug/pprof/symbol HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
             "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n",
             snprintf(NULL, 0, "0x%lx", a));
    say(fd, text);
    snprintf(text, sizeof text, "0x%lx", a);
    say(fd, text);
    answer_bytes = hear(fd, answer, sizeof answer);
    cr_assert_eq(status_of(answer), 200);
    cr_assert_str_eq(body(), expect);
}

Test(http, keeps_connections_and_large_answers, .init = setup, .fini = finish, .timeout = 60)
{
    int fd = dial();
    char small[2048];
    size_t n = 0;
    ssize_t r;

    one_frame_each = true;
    for (int i = 0; i < 3; i++)
        say(fd, "HEAD /debug/pprof/goroutine?debug=1 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    for (int seen = 0; seen < 3;) {
        r = recv(fd, small + n, sizeof small - 1 - n, 0);
        cr_assert_gt(r, 0);
        n += (size_t)r;
        small[n] = '\0';
        seen = 0;
        for (char *p = small; (p = strstr(p, "\r\n\r\n")); p++)
            seen++;
    }
    close(fd);
    cr_assert_eq(ask("GET /debug/pprof/goroutine?debug=1 HTTP/1.1\r\nHost: localhost\r\n"), 200);
    cr_assert_gt(body_bytes(), 500000);
    cr_assert_eq(content_length(), (long)body_bytes(), "all of it arrives");
}

Test(http, host_header_on_loopback, .timeout = 60)
{
    static const struct {
        const char *host;
        int status;
    } t[] = {{"localhost", 200},
             {"LOCALHOST:99", 200},
             {"127.0.0.1:6060", 200},
             {"[::1]:6060", 200},
             {"10.1.2.3", 200},
             {"evil.example", 403},
             {"localhost.evil.com", 403},
             {"127.0.0.1.nip.io", 403},
             {"my.host", 200},
             {"other:80", 200},
             {"", 403}};
    char text[256];

    setenv("WEFT_PPROF_HOSTS", "my.host,other", 1);
    setup();
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        snprintf(text, sizeof text, "GET /debug/pprof/cmdline HTTP/1.1\r\nHost: %s\r\n", t[i].host);
        cr_assert_eq(ask(text), t[i].status, "%s", t[i].host);
        if (t[i].status == 403) {
            cr_assert_not_null(strchr(body(), '\n'));
            cr_assert_eq(strchr(body(), '\n')[1], '\0', "one line");
        }
    }
    finish();
    port = pf_http_serve("0.0.0.0:0");
    cr_assert_eq(ask("GET /debug/pprof/cmdline HTTP/1.1\r\nHost: evil.example\r\n"), 200,
                 "only loopback listeners look");
    finish();
}

Test(http, token, .timeout = 60)
{
    static const char get[] = "GET /debug/pprof/cmdline%s HTTP/1.1\r\nHost: localhost\r\n%s";
    static const struct {
        const char *query, *header;
        int status;
    } t[] = {{"", "", 401},
             {"", "Authorization: Bearer s3cret\r\n", 200},
             {"", "Authorization: bearer   s3cret\r\n", 200},
             {"", "Authorization: Bearer s3cre\r\n", 401},
             {"", "Authorization: Bearer s3crets3cret\r\n", 401},
             {"", "Authorization: Bearer \r\n", 401},
             {"", "Authorization: Basic s3cret\r\n", 401},
             {"?token=s3cret", "", 200},
             {"?token=%733cret&debug=1", "", 200},
             {"?token=", "", 401}};
    char text[256];

    setenv("WEFT_PPROF_TOKEN", "s3cret", 1);
    fake_setup();
    port = pf_http_serve("0.0.0.0:0");
    cr_assert_gt(port, 0);
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        snprintf(text, sizeof text, get, t[i].query, t[i].header);
        cr_assert_eq(ask(text), t[i].status, "%s %s", t[i].query, t[i].header);
    }
    cr_assert_eq(ask("GET /debug/pprof/ HTTP/1.1\r\nHost: h\r\n"), 401);
    cr_assert_not_null(strcasestr(answer, "WWW-Authenticate: Bearer\r\n"));
    finish();
}

static void await_cpu(int running)
{
    int64_t end = now_ms() + 20000;

    while (fake_cpu_running != running && now_ms() < end)
        usleep(2000);
    cr_assert_eq(fake_cpu_running, running);
}

Test(http, a_profile_whose_client_goes_is_given_up, .init = setup, .fini = finish, .timeout = 60)
{
    static const char get[] =
        "GET /debug/pprof/profile?seconds=30 HTTP/1.1\r\nHost: localhost\r\n\r\n";

    for (int how = 0; how < 3; how++) {
        int fd = dial();
        say(fd, get);
        await_cpu(1);
        cr_assert_eq(ask("GET /debug/pprof/profile?seconds=1 HTTP/1.1\r\nHost: localhost\r\n"),
                     500);
        cr_assert_str_eq(body(), "Could not enable CPU profiling: cpu profiling already in use\n");
        int64_t start = now_ms();
        if (how == 0)
            shutdown(fd, SHUT_WR);
        if (how == 1) { /* a reset */
            struct linger now = {1, 0};
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
        }
        if (how)
            close(fd);
        await_cpu(0);
        cr_assert_lt(now_ms() - start, 500);
        if (!how)
            close(fd);
    }
    cr_assert_eq(fake_cpu_stops, 3);
    cr_assert_eq(ask("GET /debug/pprof/profile?seconds=1 HTTP/1.1\r\nHost: localhost\r\n"), 200,
                 "the next one is taken at once");
}

static void *snapshot_client(void *arg)
{
    int fd = dial();
    char *text = malloc(1 << 20);

    say(fd, "GET /debug/pprof/goroutine HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    hear(fd, text, 1 << 20);
    *(int *)arg = status_of(text);
    free(text);
    return NULL;
}

Test(http, twenty_snapshots_during_a_profile, .init = setup, .fini = finish, .timeout = 60)
{
    pthread_t t[20];
    int status[20] = {0}, profile = dial();

    say(profile, "GET /debug/pprof/profile?seconds=2 HTTP/1.1\r\nHost: localhost\r\n"
                 "Connection: close\r\n\r\n");
    await_cpu(1);
    for (int i = 0; i < 20; i++)
        cr_assert_eq(pthread_create(&t[i], NULL, snapshot_client, &status[i]), 0);
    for (int i = 0; i < 20; i++) {
        pthread_join(t[i], NULL);
        cr_assert_eq(status[i], 200);
    }
    answer_bytes = hear(profile, answer, sizeof answer);
    cr_assert_eq(status_of(answer), 200);
}

Test(http, a_slow_reader_gets_all, .init = setup, .fini = finish, .timeout = 60)
{
    size_t n = 0;
    ssize_t r;

    one_frame_each = true;
    buffer_bytes = 4096;
    int fd = dial();
    say(fd, "GET /debug/pprof/goroutine?debug=1 HTTP/1.1\r\nHost: localhost\r\n"
            "Connection: close\r\n\r\n");
    while ((r = recv(fd, answer + n, n < 20000 ? 1000 : sizeof answer - 1 - n, 0)) > 0) {
        n += (size_t)r;
        if (n < 20000)
            usleep(10000);
    }
    close(fd);
    answer[n] = '\0';
    answer_bytes = n;
    cr_assert_eq(content_length(), (long)body_bytes());
}

Test(http, high_descriptors_work, .timeout = 60)
{
    int low[1100], n = 0;

    while (n < 1100 && (low[n] = fcntl(2, F_DUPFD_CLOEXEC, 0)) >= 0)
        n++;
    if (n < 1100)
        return; /* a limit of descriptors */
    setup();
    cr_assert_eq(ask("GET /debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\n"), 200);
    finish();
}

Test(http, more_connections_than_slots, .init = setup, .fini = finish, .timeout = 60)
{
    int fds[140];

    for (int i = 0; i < 140; i++)
        fds[i] = dial();
    answer_bytes = hear(fds[139], answer, sizeof answer);
    cr_assert_eq(status_of(answer), 503);
    cr_assert_str_eq(body(), "too many connections\n");
    for (int i = 0; i < 139; i++)
        close(fds[i]);
    int64_t end = now_ms() + 20000;
    while (ask("GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n") != 200)
        cr_assert_lt(now_ms(), end);
}

Test(http, stop_cuts_what_runs, .init = setup, .timeout = 60)
{
    int profile = dial(), idle = dial(), half = dial();
    char rest[4096];

    say(profile, "GET /debug/pprof/profile?seconds=30 HTTP/1.1\r\nHost: localhost\r\n\r\n");
    say(half, "GET /debug/ppr");
    await_cpu(1);
    int64_t start = now_ms();
    cr_assert_eq(pf_http_stop(), 0);
    cr_assert_lt(now_ms() - start, 3000);
    cr_assert_eq(fake_cpu_running, 0);
    cr_assert_eq(fake_quiet_threads, 0);
    cr_assert_eq(hear(profile, rest, sizeof rest), 0);
    cr_assert_eq(hear(idle, rest, sizeof rest), 0);
    hear(half, rest, sizeof rest);
    cr_assert_eq(pf_http_stop(), -ENOENT);
    cr_assert_gt((port = pf_http_serve("127.0.0.1:0")), 0, "and again");
    cr_assert_eq(pf_http_serve("127.0.0.1:0"), -EALREADY);
    cr_assert_eq(ask("GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n"), 200);
    finish();
}

Test(http, errors_of_serve, .init = setup, .timeout = 60)
{
    char addr[64];
    int taken = port;

    finish();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in sa = {.sin_family = AF_INET,
                             .sin_port = htons((uint16_t)taken),
                             .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int on = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    cr_assert_eq(bind(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    cr_assert_eq(listen(fd, 1), 0);
    snprintf(addr, sizeof addr, "127.0.0.1:%d", taken);
    cr_assert_eq(pf_http_serve(addr), -EADDRINUSE);
    cr_assert_eq(pf_http_serve("nonsense"), -EINVAL);
    cr_assert_eq(pf_http_stop(), -ENOENT);
    close(fd);
    cr_assert_eq(pf_http_serve(addr), taken);
    finish();
}

Test(http, over_a_unix_socket, .timeout = 60)
{
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    struct stat st;

    fake_setup();
    snprintf(sa.sun_path, sizeof sa.sun_path, "/tmp/weft-http-%d", (int)getpid());
    cr_assert_eq(pf_http_serve("unix:/tmp/weft-http-%p"), 0);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    say(fd, "GET /debug/pprof/heap HTTP/1.1\r\nHost: anything\r\nConnection: close\r\n\r\n");
    hear(fd, answer, sizeof answer);
    cr_assert_eq(status_of(answer), 200);
    finish();
    cr_assert_neq(lstat(sa.sun_path, &st), 0);
}

static atomic_int handled;

static void on_signal(int sig)
{
    (void)sig;
    handled++;
}

Test(http, threads_take_no_signals, .timeout = 60)
{
    sigset_t usr1;
    struct sigaction sa = {.sa_handler = on_signal};

    setup();
    int idle = dial();
    cr_assert_eq(ask("GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n"), 200);
    sigaction(SIGUSR1, &sa, NULL);
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &usr1, NULL);
    kill(getpid(), SIGUSR1); /* to the process: any thread that does not block it would take it */
    sigset_t pending;
    sigpending(&pending);
    cr_assert(sigismember(&pending, SIGUSR1));
    cr_assert_eq(handled, 0);
    close(idle);
    finish();
}

#ifndef __SANITIZE_THREAD__ /* its runtime ends a child that starts threads */
Test(http, a_child_serves_anew, .init = setup, .timeout = 60)
{
    int idle = dial(), parent = port, status;

    cr_assert_eq(ask("GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n"), 200);
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (pid == 0) {
        char addr[64];
        pf_http_forked();
        pf_symbols_forget();
        fake_quiet_threads = 0;
        fake_live_raws = 0;
        snprintf(addr, sizeof addr, "127.0.0.1:%d", parent);
        cr_assert_eq(pf_http_serve(addr), -EADDRINUSE, "the parent has it");
        port = pf_http_serve("127.0.0.1:0");
        cr_assert_gt(port, 0);
        cr_assert_eq(ask("GET /debug/pprof/heap HTTP/1.1\r\nHost: localhost\r\n"), 200);
        finish();
        _exit(0);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert_eq(status, 0);
    cr_assert_eq(ask("GET /debug/pprof/ HTTP/1.1\r\nHost: localhost\r\n"), 200);
    close(idle);
    finish();
    /* No child holds the port: it can be had again. */
    char addr[64];
    snprintf(addr, sizeof addr, "127.0.0.1:%d", parent);
    cr_assert_eq(pf_http_serve(addr), parent);
    finish();
}
#endif
