/* From a request to a reply, without a transport: http.c puts it on sockets, pf_handle into the
 * program's own server.
 *
 * Invariants
 *  1. Every reply has X-Content-Type-Options: nosniff; every error below /debug/pprof has
 *     X-Go-Pprof: 1 and one line of text, and no other reply has it. pprof shows the line of an
 *     error only then.
 *  2. A parameter is looked at in the order that Go looks: which of two errors a request gets is
 *     part of the contract.
 *  3. A CPU profile that was started is stopped on every way out.
 *
 * GET and HEAD only, as Go has it since 1.22, but for `symbol`, which pprof asks by POST.
 *
 * Locks: none; the sources and the symbol cache have theirs.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "present.h"

#define ROOT            "/debug/pprof"
#define CPU_HZ          100
#define DEFAULT_SECONDS 30
#define SECOND_NS       INT64_C(1000000000)
#define TEXT            "text/plain; charset=utf-8"
#define HTML            "text/html; charset=utf-8"

/* ---- replies ---- */

void pf_reply_free(pf_reply *r)
{
    free(r->headers);
    free(r->body);
    memset(r, 0, sizeof *r);
}

/* Takes the body over, also when it fails. more: further header lines, or "". */
static int reply_set(pf_reply *r, int status, const char *type, const char *more, void *body,
                     size_t n)
{
    *r = (pf_reply){.status = status, .body = body, .nbody = n};
    if (asprintf(&r->headers, "Content-Type: %s\r\nX-Content-Type-Options: nosniff\r\n%s", type,
                 more) < 0) {
        r->headers = NULL;
        pf_reply_free(r);
        return -ENOMEM;
    }
    return 0;
}

static int reply_line(pf_reply *r, int status, const char *more, const char *line)
{
    char *body = NULL;
    int n = asprintf(&body, "%s\n", line);

    return n < 0 ? -ENOMEM : reply_set(r, status, TEXT, more, body, (size_t)n);
}

int pf_reply_error(pf_reply *r, int status, const char *line)
{
    return reply_line(r, status, "X-Go-Pprof: 1\r\n", line);
}

static int reply_allow(pf_reply *r, const char *methods)
{
    char more[96];

    snprintf(more, sizeof more, "Allow: %s\r\nX-Go-Pprof: 1\r\n", methods);
    return reply_line(r, 405, more, "Method Not Allowed");
}

/* ---- targets ---- */

static int hex(int c)
{
    return c >= '0' && c <= '9' ? c - '0' : isxdigit(c) ? tolower(c) - 'a' + 10 : -1;
}

/* %XX, and + as a space in a query; what is malformed stays as it is. */
static char *decode(const char *s, size_t n, bool plus)
{
    char *out = malloc(n + 1), *to = out;

    for (size_t i = 0; out && i < n; i++) {
        if (s[i] == '%' && i + 2 < n && hex((unsigned char)s[i + 1]) >= 0 &&
            hex((unsigned char)s[i + 2]) >= 0) {
            *to++ = (char)(hex((unsigned char)s[i + 1]) << 4 | hex((unsigned char)s[i + 2]));
            i += 2;
        } else {
            *to++ = plus && s[i] == '+' ? ' ' : s[i];
        }
    }
    if (out)
        *to = '\0';
    return out;
}

char *pf_query(const char *query, const char *key)
{
    while (query && *query) {
        size_t n = strcspn(query, "&"), eq = strcspn(query, "=&");
        char *name = decode(query, eq < n ? eq : n, true);
        bool found = name && strcmp(name, key) == 0 && !memchr(query, ';', n);
        free(name);
        if (found)
            return eq < n ? decode(query + eq + 1, n - eq - 1, true) : strdup("");
        query += n + (query[n] == '&');
    }
    return NULL;
}

/* The shortest equal path, as Go's mux has it: no "//", "." or ".."; a last slash stays. */
static char *clean_path(const char *path)
{
    size_t n = strlen(path);
    char *out = malloc(n + 3), *to = out;

    if (!out)
        return NULL;
    *to++ = '/';
    for (const char *p = path; *p;) {
        size_t len = strcspn(p, "/");
        if (len == 2 && p[0] == '.' && p[1] == '.') {
            if (to > out + 1)
                for (to--; to[-1] != '/';)
                    to--;
        } else if (len && !(len == 1 && p[0] == '.')) {
            memcpy(to, p, len);
            to += len;
            *to++ = '/';
        }
        p += len;
        p += *p == '/';
    }
    if (to > out + 1 && n && path[n - 1] != '/')
        to--;
    *to = '\0';
    return out;
}

/* 301 to a decoded path; the query goes along, without what could end the header. */
static int reply_redirect(pf_reply *r, const char *path, const char *query)
{
    char *to = NULL, *more = NULL, *body = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&to, &len);
    int n = -1;

    if (!f)
        return -ENOMEM;
    for (const char *p = path; *p; p++)
        if (isalnum((unsigned char)*p) || strchr("/-_.~$&+:=@", *p))
            fputc(*p, f);
        else
            fprintf(f, "%%%02X", (unsigned char)*p);
    if (query)
        fputc('?', f);
    for (; query && *query; query++)
        if ((unsigned char)*query > ' ' && !strchr("<>\"'`\x7f", *query))
            fputc(*query, f);
    if (fclose(f) == 0 && asprintf(&more, "Location: %s\r\n", to) >= 0)
        n = asprintf(&body, "<a href=\"%s\">Moved Permanently</a>.\n", to);
    n = n < 0 ? -ENOMEM : reply_set(r, 301, HTML, more, body, (size_t)n);
    free(to);
    free(more);
    return n;
}

/* ---- parameters ---- */

/* A whole base-10 int64, as Go parses it. */
static bool parse_int(const char *s, int64_t *v)
{
    const char *first = s && (*s == '+' || *s == '-') ? s + 1 : s;
    char *end;

    if (!first || !isdigit((unsigned char)*first))
        return false;
    errno = 0;
    *v = strtoll(s, &end, 10);
    return *end == '\0' && errno == 0;
}

/* Not a number is 0; out of range is as large as it gets. */
static int parse_debug(const char *query)
{
    char *s = pf_query(query, "debug"), *end = NULL;
    long v = 0;

    if (s && s[0] && !isspace((unsigned char)s[0])) {
        v = strtol(s, &end, 10);
        if (*end)
            v = 0;
    }
    free(s);
    return v <= 0 ? 0 : v > 100 ? 100 : (int)v;
}

/* ---- profiles ---- */

static int reply_render(pf_reply *r, const pf_raw *raw, int debug)
{
    void *body = NULL;
    size_t n = 0;
    bool text;
    char more[256];
    int e = pf_render(raw, debug, &body, &n, &text);

    if (e < 0)
        return e;
    if (text)
        return reply_set(r, 200, TEXT, "", body, n);
    snprintf(more, sizeof more, "Content-Disposition: attachment; filename=\"%.128s\"\r\n",
             raw->source->snapshot ? raw->source->name : "profile");
    return reply_set(r, 200, "application/octet-stream", more, body, n);
}

static int wait_for(const pf_request *q, int64_t ns)
{
    struct timespec until;

    if (q->wait)
        return q->wait(q->arg, ns);
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ns / SECOND_NS;
    until.tv_nsec += ns % SECOND_NS;
    if (until.tv_nsec >= SECOND_NS) {
        until.tv_sec++;
        until.tv_nsec -= SECOND_NS;
    }
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
    return 0;
}

static int answer_cpu(const pf_request *q, const char *query, pf_reply *r)
{
    char *s = pf_query(query, "seconds"), line[160];
    int64_t seconds;
    pf_raw raw = {0};
    int e, gone;

    if (!parse_int(s, &seconds) || seconds <= 0)
        seconds = DEFAULT_SECONDS;
    free(s);
    if (seconds > INT32_MAX)
        seconds = INT32_MAX;
    e = pf_collect->cpu_start(CPU_HZ);
    if (e < 0) {
        snprintf(line, sizeof line, "Could not enable CPU profiling: %s",
                 e == -EBUSY ? "cpu profiling already in use" : strerror(-e));
        return pf_reply_error(r, 500, line);
    }
    gone = wait_for(q, seconds * SECOND_NS);
    e = pf_collect->cpu_stop(&raw);
    if (e < 0)
        return gone ? -ECANCELED : pf_reply_error(r, 500, "failed to collect profile");
    e = gone ? -ECANCELED : reply_render(r, &raw, 0);
    pf_collect->raw_free(&raw);
    return e;
}

static int answer_snapshot(const pf_source *source, const char *query, pf_reply *r)
{
    char *s = pf_query(query, "seconds"), line[160];
    bool delta = s && s[0];
    int64_t seconds = 0;
    bool valid = !delta || (parse_int(s, &seconds) && seconds > 0);
    int debug = parse_debug(query), e;
    pf_raw raw = {0};

    free(s);
    if (!valid)
        return pf_reply_error(r, 400, "invalid value for \"seconds\" - must be a positive integer");
    if (delta && debug)
        return pf_reply_error(r, 400, "seconds and debug params are incompatible");
    if (delta) {
        snprintf(line, sizeof line, "delta profiles (\"seconds\") are not implemented for \"%s\"",
                 source->name);
        return pf_reply_error(r, 501, line);
    }
    e = source->snapshot(&raw);
    if (e < 0)
        return e == -ENOMEM ? e : pf_reply_error(r, 500, "failed to collect profile");
    e = reply_render(r, &raw, debug);
    pf_collect->raw_free(&raw);
    return e;
}

/* ---- cmdline, symbol ---- */

static int answer_cmdline(pf_reply *r)
{
    FILE *f = fopen("/proc/self/cmdline", "re");
    char *body = NULL;
    size_t n = 0, got;
    FILE *out = open_memstream(&body, &n);
    char block[4096];

    while (f && out && (got = fread(block, 1, sizeof block, f)) > 0)
        fwrite(block, 1, got, out);
    if (f)
        fclose(f);
    if (!out || fclose(out) != 0) {
        free(body);
        return -ENOMEM;
    }
    if (n && body[n - 1] == '\0')
        n--;
    return reply_set(r, 200, TEXT, "", body, n);
}

/* "0x1f+22+017": a number with Go's base prefixes; false for anything else. */
static bool parse_address(const char *s, size_t n, uintptr_t *at)
{
    char word[32], *end;

    if (n == 0 || n >= sizeof word || !isdigit((unsigned char)s[0]))
        return false;
    memcpy(word, s, n);
    word[n] = '\0';
    errno = 0;
    *at = strtoull(word, &end, 0);
    return *end == '\0' && errno == 0 && *at != 0;
}

static void print_symbol(FILE *f, const pf_raw *raw, uintptr_t at)
{
    const pf_module *m = pf_module_of(raw, at);
    const pf_place *p = m ? pf_symbol_find(m, at) : NULL;

    if (p && p->named)
        fprintf(f, "0x%" PRIxPTR " %s\n", at, p->frames[0].name);
}

/* Words are separated by '+' before any decoding: "%2b" is no separator. */
static int answer_symbol(const char *words, size_t n, pf_reply *r)
{
    char *body = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&body, &len);
    pf_raw raw = {0};
    int e = f ? pf_collect->modules(&raw) : -ENOMEM;

    if (f)
        fputs("num_symbols: 1\n", f);
    if (e == 0) {
        pf_symbols_begin();
        for (size_t i = 0, next; i < n; i = next + 1) {
            uintptr_t at;
            for (next = i; next < n && words[next] != '+';)
                next++;
            if (parse_address(words + i, next - i, &at))
                print_symbol(f, &raw, at);
        }
        pf_symbols_end();
        pf_collect->raw_free(&raw);
    }
    if (!f || fclose(f) != 0) {
        free(body);
        return -ENOMEM;
    }
    return reply_set(r, 200, TEXT, "", body, len);
}

static int answer_index(pf_reply *r)
{
    char *body;
    size_t n;
    int e = pf_page_index(&body, &n);

    return e < 0 ? e : reply_set(r, 200, HTML, "", body, n);
}

/* ---- the table ---- */

static int dispatch(const pf_request *q, const char *name, const char *query, pf_reply *r)
{
    bool get = strcmp(q->method, "GET") == 0 || strcmp(q->method, "HEAD") == 0;
    bool post = strcmp(q->method, "POST") == 0;

    if (strcmp(name, "symbol") == 0) {
        if (!get && !post)
            return reply_allow(r, "GET, HEAD, POST");
        if (post)
            return answer_symbol(q->body, q->body ? q->nbody : 0, r);
        return answer_symbol(query ? query : "", query ? strlen(query) : 0, r);
    }
    if (!get)
        return reply_allow(r, "GET, HEAD");
    if (name[0] == '\0')
        return answer_index(r);
    if (strcmp(name, "profile") == 0)
        return answer_cpu(q, query, r);
    if (strcmp(name, "cmdline") == 0)
        return answer_cmdline(r);
    for (const pf_source *const *s = pf_collect->sources; *s; s++)
        if ((*s)->snapshot && strcmp((*s)->name, name) == 0)
            return answer_snapshot(*s, query, r);
    return pf_reply_error(r, 404, "Unknown profile");
}

int pf_route(const pf_request *q, pf_reply *r)
{
    const char *query = strchr(q->target, '?');
    size_t n = query ? (size_t)(query - q->target) : strlen(q->target);
    char *path = decode(q->target, n, false), *clean = path ? clean_path(path) : NULL;
    int e = -ENOENT;

    memset(r, 0, sizeof *r);
    if (query)
        query++;
    if (!clean)
        e = -ENOMEM;
    else if (strcmp(clean, ROOT) == 0)
        e = reply_redirect(r, ROOT "/", query);
    else if (strncmp(clean, ROOT "/", sizeof ROOT) == 0)
        e = strcmp(clean, path) ? reply_redirect(r, clean, query)
                                : dispatch(q, path + sizeof ROOT, query, r);
    free(path);
    free(clean);
    return e;
}

/* ---- in somebody else's server ---- */

int pf_handle(const char *method, const char *target, const void *body, size_t n,
              weft_reply_fn reply, void *arg)
{
    pf_request q = {.method = method, .target = target, .body = body, .nbody = n};
    pf_reply r;
    char *headers = NULL;
    int e;

    if (!method || !target || !reply)
        return -EINVAL;
    e = pf_route(&q, &r);
    if (e < 0)
        return e;
    if (asprintf(&headers, "%sContent-Length: %zu\r\n", r.headers, r.nbody) < 0) {
        pf_reply_free(&r);
        return -ENOMEM;
    }
    if (reply(arg, r.status, headers, NULL, 0) == 0 && strcmp(method, "HEAD") != 0)
        for (size_t at = 0, piece; at < r.nbody; at += piece) {
            piece = r.nbody - at < 65536 ? r.nbody - at : 65536;
            if (reply(arg, 0, NULL, (char *)r.body + at, piece) != 0)
                break;
        }
    free(headers);
    pf_reply_free(&r);
    return 0;
}
