/* The endpoint: an accept thread, and one thread for each connection, in which GNU libmicrohttpd
 * speaks HTTP and route.c answers.
 *
 * Each connection has a libmicrohttpd daemon of its own, without a listener and without threads,
 * driven by its thread. So every thread of the server is made here, and is quiet and deaf to
 * signals from its first instruction; a handler may block as long as a profile takes; and stop can
 * cut a connection without asking the library.
 *
 * Invariants
 *  1. All signals are blocked in the server's threads: the program's handlers and sigwait see
 *     theirs (H58).
 *  2. A CPU profile whose client is gone, or whose server ends, is given up at once (H60): the
 *     handler waits on the connection for POLLRDHUP, which libmicrohttpd would not tell, and on the
 *     stop event.
 *  3. A slot of `conns` is taken by the accept thread only, and freed by its connection's thread
 *     only, as its last step; when stop returns, all are free and no thread touches the server.
 *  4. On a loopback listener the Host header must be a name of this machine: a page in a browser
 *     can resolve its own name to 127.0.0.1, and would else read profiles.
 *  5. No time limit covers the making of a profile; one covers idle and stuck connections.
 *
 * Locks: `door` (serve and stop, one at a time) before `lock` (the slots); both before the symbols
 * lock. A child after fork finds all of it reset by pf_http_forked.
 *
 * Rejected: libmicrohttpd's own thread per connection: its polling thread and idle connection
 * threads cannot be marked before their first request, so the deadlock report would take them for
 * the program's. select: fails for descriptors over 1023, which a server full of sockets has.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <microhttpd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "present.h"

#define CONNS_MAX  128
#define BODY_MAX   (16u << 20) /* pprof asks for all addresses of a mapping in one POST */
#define STACK      (1u << 20)  /* lazily touched */
#define READ_S     60u         /* a connection that says nothing */
#define SEND_S     600u        /* a client that takes nothing of its answer */
#define RETRY_MS   100         /* accept without descriptors or memory */
#define SECOND_NS  INT64_C(1000000000)
#define POOL_BYTES ((size_t)64 << 10) /* of one connection; bounds the request line and headers */

typedef struct conn {
    bool busy;          /* under `lock` */
    bool closed, asked; /* its thread's own; asked: a request line came, and is not answered yet */
    /* What a child after fork must close; -1 before it is closed here, since the numbers may be
     * anybody's after that. */
    _Atomic(int) fd, epoll;
} conn;

static pthread_mutex_t door = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t ended = PTHREAD_COND_INITIALIZER;

static struct {
    bool serving;
    pf_listener listener;
    _Atomic(int) stop; /* eventfd, readable for ever once the server ends */
    pthread_t acceptor;
    char *hosts, *token; /* of the environment, when the server began */
    int nconns;          /* under `lock` */
    conn conns[CONNS_MAX];
} server;

/* ---- threads ---- */

static int start_thread(pthread_t *t, void *(*fn)(void *), void *arg, bool detached)
{
    pthread_attr_t attr;
    sigset_t all, old;
    int r;

    if (pthread_attr_init(&attr) != 0)
        return -ENOMEM;
    pthread_attr_setstacksize(&attr, STACK);
    if (detached)
        pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    r = pthread_create(t, &attr, fn, arg);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    pthread_attr_destroy(&attr);
    return -r;
}

/* ---- who may ask ---- */

/* "h", "h:80", "[v6]:80" -> the host, in to. */
static void host_of(const char *value, char *to, size_t n)
{
    size_t len = value[0] == '[' ? strcspn(value + 1, "]") : strcspn(value, ":");

    snprintf(to, n, "%.*s", (int)len, value + (value[0] == '['));
}

static bool in_list(const char *list, const char *name)
{
    size_t n = strlen(name);

    while (list && *list) {
        size_t len = strcspn(list, ", ");
        if (len == n && n && strncasecmp(list, name, n) == 0)
            return true;
        list += len + (list[len] != '\0');
    }
    return false;
}

static bool host_allowed(const char *value)
{
    char host[256];
    unsigned char bits[16];

    if (!value) /* HTTP/1.0; a browser always sends one */
        return true;
    host_of(value, host, sizeof host);
    return strcasecmp(host, "localhost") == 0 || inet_pton(AF_INET, host, bits) == 1 ||
           inet_pton(AF_INET6, host, bits) == 1 || in_list(server.hosts, host);
}

/* In a time that does not tell how much of it was right. */
static bool same_secret(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b);
    unsigned char diff = na != nb;

    for (size_t i = 0; i < na; i++)
        diff |= (unsigned char)(a[i] ^ b[nb ? i % nb : 0]);
    return diff == 0;
}

static bool token_allowed(const char *authorization, const char *target)
{
    const char *query = strchr(target, '?');
    char *given = NULL;
    bool ok = false;

    if (!server.token)
        return true;
    if (authorization && strncasecmp(authorization, "Bearer ", 7) == 0)
        ok = same_secret(authorization + 7 + strspn(authorization + 7, " "), server.token);
    if (!ok && query && (given = pf_query(query + 1, "token")))
        ok = same_secret(given, server.token);
    free(given);
    return ok;
}

/* ---- one request ---- */

typedef struct request {
    char *target;
    char *body;
    size_t n, cap;
    bool seen, refused;
} request;

/* Called with the request line as it came, before libmicrohttpd decodes it. */
static void *take_target(void *arg, const char *uri, struct MHD_Connection *c)
{
    request *q = calloc(1, sizeof *q);

    (void)c;
    ((conn *)arg)->asked = true;
    if (q && strncmp(uri, "http://", 7) == 0) { /* the absolute form that a proxy gets */
        const char *path = strchr(uri + 7, '/');
        uri = path ? path : "/";
    }
    if (q && !(q->target = strdup(uri))) {
        free(q);
        q = NULL;
    }
    return q;
}

static void forget_request(void *arg, struct MHD_Connection *c, void **con_cls,
                           enum MHD_RequestTerminationCode code)
{
    request *q = *con_cls;

    (void)code;
    ((conn *)arg)->asked = false;
    *con_cls = NULL;
    if (q) {
        free(q->target);
        free(q->body);
        free(q);
    }
    MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, READ_S);
}

static bool take_body(request *q, const char *data, size_t n)
{
    if (q->n + n > BODY_MAX)
        return false;
    if (q->n + n > q->cap) {
        size_t cap = 2 * (q->n + n);
        char *b = realloc(q->body, cap);
        if (!b)
            return false;
        q->body = b;
        q->cap = cap;
    }
    memcpy(q->body + q->n, data, n);
    q->n += n;
    return true;
}

/* Queues the reply and takes its body over. */
static enum MHD_Result send_reply(struct MHD_Connection *c, pf_reply *r)
{
    struct MHD_Response *resp;
    enum MHD_Result ok = MHD_NO;
    char *save = NULL;

    resp = MHD_create_response_from_buffer(r->nbody, r->body, MHD_RESPMEM_MUST_FREE);
    if (resp) {
        r->body = NULL;
        for (char *line = strtok_r(r->headers, "\r\n", &save); line;
             line = strtok_r(NULL, "\r\n", &save)) {
            char *colon = strstr(line, ": ");
            if (colon) {
                *colon = '\0';
                MHD_add_response_header(resp, line, colon + 2);
            }
        }
        ok = MHD_queue_response(c, (unsigned)r->status, resp);
        MHD_destroy_response(resp);
    }
    pf_reply_free(r);
    return ok;
}

static enum MHD_Result send_error(struct MHD_Connection *c, int status, const char *line)
{
    pf_reply r;

    if (pf_reply_error(&r, status, line) < 0)
        return MHD_NO;
    if (status == 401) {
        char *more = NULL;
        if (asprintf(&more, "%sWWW-Authenticate: Bearer\r\n", r.headers) >= 0) {
            free(r.headers);
            r.headers = more;
        }
    }
    return send_reply(c, &r);
}

static enum MHD_Result send_not_found(struct MHD_Connection *c)
{
    static const char headers[] = "Content-Type: text/plain; charset=utf-8\r\n"
                                  "X-Content-Type-Options: nosniff\r\n";
    pf_reply r = {
        .status = 404, .headers = strdup(headers), .body = strdup("404 page not found\n")};

    r.nbody = r.body ? strlen(r.body) : 0;
    if (r.headers && r.body)
        return send_reply(c, &r);
    pf_reply_free(&r);
    return MHD_NO;
}

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * SECOND_NS + t.tv_nsec;
}

/* The wait of a profile. */
static int wait_or_gone(void *arg, int64_t ns)
{
    conn *self = arg;
    int64_t until = now_ns() + ns, left;

    while ((left = until - now_ns()) > 0) {
        struct pollfd p[2] = {{.fd = self->fd, .events = POLLRDHUP},
                              {.fd = server.stop, .events = POLLIN}};
        struct timespec t = {left / SECOND_NS, left % SECOND_NS};
        if (ppoll(p, 2, &t, NULL) > 0)
            return 1;
    }
    return 0;
}

static enum MHD_Result run_request(conn *self, struct MHD_Connection *c, const char *method,
                                   const request *q)
{
    pf_request req = {.method = method,
                      .target = q->target,
                      .body = q->body,
                      .nbody = q->n,
                      .wait = wait_or_gone,
                      .arg = self};
    pf_reply r;
    int e;

    MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, 0u);
    e = pf_route(&req, &r);
    MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, SEND_S);
    if (e == 0)
        return send_reply(c, &r);
    if (e == -ECANCELED)
        return MHD_NO;
    return e == -ENOENT ? send_not_found(c) : send_error(c, 500, strerror(-e));
}

static const char *header(struct MHD_Connection *c, const char *name)
{
    return MHD_lookup_connection_value(c, MHD_HEADER_KIND, name);
}

/* libmicrohttpd calls this once with the headers, once for each piece of a body, and once at the
 * end. */
static enum MHD_Result answer(void *arg, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **con_cls)
{
    request *q = *con_cls;

    (void)url;
    (void)version;
    if (!q)
        return MHD_NO;
    if (!q->seen) {
        q->seen = true;
        if (server.listener.loopback && !host_allowed(header(c, "Host")))
            return send_error(c, 403,
                              "the Host header names another machine (WEFT_PPROF_HOSTS allows it)");
        if (!server.listener.is_unix && !token_allowed(header(c, "Authorization"), q->target))
            return send_error(c, 401, "a token is needed (Authorization: Bearer, or ?token=)");
        return MHD_YES;
    }
    if (*size) {
        if (!q->refused && !take_body(q, data, *size))
            q->refused = true;
        *size = 0;
        return MHD_YES;
    }
    if (q->refused)
        return send_error(c, 413, "request body too large");
    return run_request(arg, c, method, q);
}

/* ---- one connection ---- */

static void connection_event(void *arg, struct MHD_Connection *c, void **context,
                             enum MHD_ConnectionNotificationCode code)
{
    conn *self = arg;

    (void)c;
    (void)context;
    if (code == MHD_CONNECTION_NOTIFY_CLOSED) { /* the descriptor is closed after this */
        self->closed = true;
        self->fd = -1;
    }
}

/* A client that closes its half while the library has read part of a request is not noticed by the
 * library: that end came with the same edge of its epoll as the data. So the end is watched here
 * while no request is being answered; one more run reads what came before it. */
static void drive(conn *self, struct MHD_Daemon *d)
{
    struct pollfd p[3] = {{.fd = self->epoll, .events = POLLIN},
                          {.fd = server.stop, .events = POLLIN},
                          {.events = POLLRDHUP}};

    while (MHD_run(d) == MHD_YES && !self->closed) {
        MHD_UNSIGNED_LONG_LONG ms;
        int timeout = -1;
        if (p[2].revents && !self->asked)
            break;
        if (MHD_get_timeout(d, &ms) == MHD_YES)
            timeout = ms < 3600000 ? (int)ms : 3600000;
        p[2].fd = self->asked ? -1 : self->fd;
        p[2].revents = 0;
        poll(p, 3, timeout);
        if (p[1].revents)
            break;
    }
}

static void *connection_thread(void *arg)
{
    conn *self = arg;
    const union MHD_DaemonInfo *info;
    struct MHD_Daemon *d;
    int fd = self->fd;

    pf_collect->thread_quiet(true);
    pthread_setname_np(pthread_self(), "weft-pprof-conn");
    d = MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, NULL, NULL, answer, self,
                         MHD_OPTION_URI_LOG_CALLBACK, take_target, self,
                         MHD_OPTION_NOTIFY_COMPLETED, forget_request, self,
                         MHD_OPTION_NOTIFY_CONNECTION, connection_event, self,
                         MHD_OPTION_CONNECTION_MEMORY_LIMIT, POOL_BYTES,
                         MHD_OPTION_CONNECTION_TIMEOUT, READ_S, MHD_OPTION_END);
    info = d ? MHD_get_daemon_info(d, MHD_DAEMON_INFO_EPOLL_FD) : NULL;
    if (info) {
        struct sockaddr_in peer = {.sin_family = AF_INET}; /* nobody asks for it */
        self->epoll = info->epoll_fd;
        /* The daemon owns the descriptor from here on, also when it fails. */
        if (MHD_add_connection(d, fd, (struct sockaddr *)&peer, sizeof peer) == MHD_YES)
            drive(self, d);
    } else {
        self->fd = -1;
        close(fd);
    }
    self->epoll = -1;
    if (d)
        MHD_stop_daemon(d);
    pf_collect->thread_quiet(false);
    pthread_mutex_lock(&lock);
    self->fd = -1;
    self->busy = false;
    server.nconns--;
    pthread_cond_signal(&ended);
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void refuse(int fd)
{
    static const char full[] = "HTTP/1.1 503 Service Unavailable\r\n"
                               "Content-Type: text/plain; charset=utf-8\r\nX-Go-Pprof: 1\r\n"
                               "X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
                               "too many connections\n";

    send(fd, full, sizeof full - 1, MSG_NOSIGNAL | MSG_DONTWAIT);
    close(fd);
}

static void start_connection(int fd)
{
    conn *c = NULL;
    pthread_t t;

    pthread_mutex_lock(&lock);
    for (size_t i = 0; !c && i < CONNS_MAX; i++)
        if (!server.conns[i].busy)
            c = &server.conns[i];
    if (c) {
        c->busy = true;
        c->closed = c->asked = false;
        c->fd = fd;
        server.nconns++;
    }
    pthread_mutex_unlock(&lock);
    if (c && start_thread(&t, connection_thread, c, true) == 0)
        return;
    if (c)
        c->fd = -1;
    refuse(fd);
    if (c) {
        pthread_mutex_lock(&lock);
        c->busy = false;
        server.nconns--;
        pthread_mutex_unlock(&lock);
    }
}

static void *accept_thread(void *arg)
{
    struct pollfd p[2] = {{.fd = server.stop, .events = POLLIN},
                          {.fd = server.listener.fd, .events = POLLIN}};

    (void)arg;
    pf_collect->thread_quiet(true);
    pthread_setname_np(pthread_self(), "weft-pprof");
    for (;;) {
        poll(p, 2, -1);
        if (p[0].revents)
            break;
        int fd = accept4(p[1].fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            start_connection(fd);
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            poll(p, 1, RETRY_MS);
    }
    pf_collect->thread_quiet(false);
    return NULL;
}

/* ---- serve, stop, fork ---- */

static void reset(void)
{
    memset(&server, 0, sizeof server);
    server.listener.fd = -1;
    server.stop = -1;
    for (size_t i = 0; i < CONNS_MAX; i++)
        server.conns[i].fd = server.conns[i].epoll = -1;
}

static void release(void)
{
    pf_listen_close(&server.listener);
    if (server.stop >= 0)
        close(server.stop);
    free(server.hosts);
    free(server.token);
    reset();
}

static char *environment(const char *name)
{
    const char *v = secure_getenv(name);

    return v && v[0] ? strdup(v) : NULL;
}

int pf_http_serve(const char *addr)
{
    int r;

    pthread_mutex_lock(&door);
    if (server.serving) {
        pthread_mutex_unlock(&door);
        return -EALREADY;
    }
    reset();
    r = pf_listen(&server.listener, addr);
    if (r == 0) {
        server.stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        r = server.stop < 0 ? -errno : 0;
        server.hosts = environment("WEFT_PPROF_HOSTS");
        server.token = environment("WEFT_PPROF_TOKEN");
    }
    if (r == 0)
        r = start_thread(&server.acceptor, accept_thread, NULL, false);
    if (r == 0) {
        server.serving = true;
        r = server.listener.port;
    } else {
        release();
    }
    pthread_mutex_unlock(&door);
    return r;
}

int pf_http_stop(void)
{
    uint64_t one = 1;

    pthread_mutex_lock(&door);
    if (!server.serving) {
        pthread_mutex_unlock(&door);
        return -ENOENT;
    }
    if (write(server.stop, &one, sizeof one) < 0) {
        pthread_mutex_unlock(&door);
        return -errno;
    }
    pthread_join(server.acceptor, NULL);
    pthread_mutex_lock(&lock);
    while (server.nconns)
        pthread_cond_wait(&ended, &lock);
    pthread_mutex_unlock(&lock);
    release();
    pthread_mutex_unlock(&door);
    return 0;
}

void pf_http_forked(void)
{
    if (server.serving) {
        for (size_t i = 0; i < CONNS_MAX; i++) {
            if (server.conns[i].fd >= 0)
                close(server.conns[i].fd);
            if (server.conns[i].epoll >= 0)
                close(server.conns[i].epoll);
        }
        close(server.listener.fd);
        close(server.stop);
    }
    door = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    lock = (pthread_mutex_t)PTHREAD_MUTEX_INITIALIZER;
    ended = (pthread_cond_t)PTHREAD_COND_INITIALIZER;
    reset();
}
