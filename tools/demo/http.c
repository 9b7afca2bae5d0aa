/* The demo's HTTP/1.1 server: one coroutine per connection, keep-alive, GET and HEAD, no bodies in
 * requests. Small on purpose: what a profile of it shows should be the routes.
 *
 *  1. A connection's coroutine owns its descriptor and its buffer, and closes the one and frees the
 *     other on every way out.
 *  2. buf[0..have) is what has been read and not been answered; a second request that came with the
 *     first one stays there.
 *  3. After an answer that says "Connection: close" nothing more is read.
 *
 * Rejected: the buffers on the coroutine's stack. The 14 KiB would make each idle connection's
 * stack dirty for good; malloc gives them back.
 */
#include "tools/demo/demo.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "weft_net.h"

enum { HEAD_MAX = 8192 };
#define IDLE_NS  (60 * INT64_C(1000000000))
#define WRITE_NS (10 * INT64_C(1000000000))

typedef struct connection {
    int fd;
    demo_handler handler;
    size_t have;
    char buf[HEAD_MAX + 1];
    demo_reply reply;
} connection;

/* What the head of one request says. */
typedef struct head {
    char *method, *target;
    bool http11, close, body;
} head;

void demo_reply_add(demo_reply *r, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(r->body + r->n, sizeof r->body - r->n, fmt, ap);
    va_end(ap);
    if (n > 0)
        r->n += (size_t)n < sizeof r->body - r->n ? (size_t)n : sizeof r->body - r->n - 1;
}

bool demo_query(const demo_request *q, const char *name, char *buf, size_t n)
{
    size_t len = strlen(name);
    for (const char *at = q->query; *at; at += strcspn(at, "&"), at += *at == '&') {
        if (strncmp(at, name, len) != 0 || at[len] != '=')
            continue;
        size_t value = strcspn(at + len + 1, "&");
        snprintf(buf, n, "%.*s", (int)value, at + len + 1);
        return true;
    }
    return false;
}

static const char *status_text(int status)
{
    switch (status) {
    case 200:
        return "OK";
    case 400:
        return "Bad Request";
    case 404:
        return "Not Found";
    case 405:
        return "Method Not Allowed";
    case 413:
        return "Content Too Large";
    case 431:
        return "Request Header Fields Too Large";
    case 503:
        return "Service Unavailable";
    default:
        return "Internal Server Error";
    }
}

/* All of it or a negative errno. */
static int send_reply(connection *c, bool body, bool close)
{
    char top[256];
    demo_reply *r = &c->reply;
    int n = snprintf(
        top, sizeof top, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n%s\r\n",
        r->status, status_text(r->status), r->type, r->n, close ? "Connection: close\r\n" : "");
    struct iovec iov[2] = {{top, (size_t)n}, {r->body, body ? r->n : 0}};
    size_t want = iov[0].iov_len + iov[1].iov_len;
    ssize_t sent = weft_writev_dl(c->fd, iov, 2, weft_now() + WRITE_NS);
    if (sent < 0)
        return (int)sent;
    return (size_t)sent == want ? 0 : -EPIPE;
}

static void reset(demo_reply *r, int status)
{
    r->status = status;
    r->type = "text/plain; charset=utf-8";
    r->n = 0;
    r->body[0] = '\0';
}

/* Refuses and says why; the connection ends after it. */
static int refuse(connection *c, int status, const char *why)
{
    reset(&c->reply, status);
    demo_reply_add(&c->reply, "%s\n", why);
    return send_reply(c, true, true);
}

/* Length of the first head in buf with its blank line, 0 at the end of the stream, or a negative
 * errno; -EMSGSIZE when it is longer than the buffer. */
static ssize_t read_head(connection *c)
{
    size_t seen = 0;
    for (;;) {
        c->buf[c->have] = '\0';
        const char *end = strstr(c->buf + (seen > 3 ? seen - 3 : 0), "\r\n\r\n");
        if (end)
            return end + 4 - c->buf;
        if (c->have == HEAD_MAX)
            return -EMSGSIZE;
        if (strlen(c->buf) != c->have)
            return -EBADMSG;
        seen = c->have;
        ssize_t n = weft_read_dl(c->fd, c->buf + c->have, HEAD_MAX - c->have, weft_now() + IDLE_NS);
        if (n <= 0)
            return n;
        c->have += (size_t)n;
    }
}

static bool parse_field(head *h, char *line)
{
    char *colon = strchr(line, ':');
    if (!colon || colon == line)
        return false;
    *colon = '\0';
    const char *value = colon + 1 + strspn(colon + 1, " \t");
    if (strcasecmp(line, "connection") == 0) {
        h->close |= strncasecmp(value, "close", 5) == 0;
    } else if (strcasecmp(line, "content-length") == 0) {
        h->body |= strcmp(value, "0") != 0;
    } else if (strcasecmp(line, "transfer-encoding") == 0) {
        h->body = true;
    }
    return true;
}

/* text ends with a blank line, which becomes its end. */
static bool parse_head(head *h, char *text)
{
    char *save, *version;
    *h = (head){0};
    char *line = strtok_r(text, "\r\n", &save);
    if (!line || !(h->target = strchr(line, ' ')) || !(version = strchr(h->target + 1, ' ')))
        return false;
    h->method = line;
    *h->target++ = '\0';
    *version++ = '\0';
    h->http11 = strcmp(version, "HTTP/1.1") == 0;
    if (h->target[0] != '/' || (!h->http11 && strcmp(version, "HTTP/1.0") != 0))
        return false;
    while ((line = strtok_r(NULL, "\r\n", &save)))
        if (!parse_field(h, line))
            return false;
    return true;
}

static void handle(connection *c, head *h)
{
    char *mark = strchr(h->target, '?');
    if (mark)
        *mark++ = '\0';
    demo_request q = {.path = h->target, .query = mark ? mark : h->target + strlen(h->target)};
    reset(&c->reply, 200);
    c->handler(&q, &c->reply);
}

/* True while the connection may carry another request. */
static bool answer_one(connection *c)
{
    head h;
    ssize_t n = read_head(c);
    if (n == -EMSGSIZE)
        refuse(c, 431, "the request's head is longer than 8192 bytes");
    if (n == -EBADMSG)
        refuse(c, 400, "this is not HTTP");
    if (n <= 0)
        return false;
    c->buf[n - 2] = '\0';
    int bad = !parse_head(&h, c->buf) ? 400 : h.body ? 413 : 0;
    if (bad) {
        refuse(c, bad, bad == 413 ? "requests have no body here" : "this is not HTTP/1.1");
        return false;
    }
    bool head_only = strcmp(h.method, "HEAD") == 0;
    if (!head_only && strcmp(h.method, "GET") != 0) {
        refuse(c, 405, "only GET and HEAD are answered");
        return false;
    }
    bool close = h.close || !h.http11;
    handle(c, &h);
    if (send_reply(c, !head_only, close) || close)
        return false;
    c->have -= (size_t)n;
    memmove(c->buf, c->buf + n, c->have);
    return true;
}

static void connection_main(void *arg)
{
    connection *c = arg;
    while (answer_one(c)) {
    }
    weft_close(c->fd);
    free(c);
}

int demo_http_serve(int fd, demo_handler handler)
{
    for (;;) {
        int got = weft_accept(fd);
        if (got == -EMFILE || got == -ENFILE || got == -ENOMEM || got == -ENOBUFS) {
            weft_sleep(10 * INT64_C(1000000)); /* until a connection ends */
            continue;
        }
        if (got == -ECONNABORTED)
            continue;
        if (got < 0)
            return got;
        connection *c = malloc(sizeof *c);
        if (c) {
            c->fd = got;
            c->handler = handler;
            c->have = 0;
        }
        if (!c || weft_go_opts(&(weft_opts){.name = "connection"}, connection_main, c)) {
            free(c);
            weft_close(got);
        }
    }
}
