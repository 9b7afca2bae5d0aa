/* Requests and replies without a transport: the table of paths, parameters and errors, each body
 * and header as the contract has it. */
#include "tests/profiler/present/fake.h"

FAKE_FUNCTION(user_work)

static pf_reply r;

static int ask(const char *method, const char *target, const char *body)
{
    pf_request q = {
        .method = method, .target = target, .body = body, .nbody = body ? strlen(body) : 0};

    pf_reply_free(&r);
    int e = pf_route(&q, &r);
    if (e == 0) {
        cr_assert_not_null(strstr(r.headers, "X-Content-Type-Options: nosniff\r\n"));
        bool error = r.status >= 400;
        cr_assert_eq(strstr(r.headers, "X-Go-Pprof: 1\r\n") != NULL, error, "%s", target);
        if (error) {
            cr_assert_not_null(strstr(r.headers, "Content-Type: text/plain; charset=utf-8\r\n"));
            cr_assert_null(strstr(r.headers, "Content-Disposition"));
        }
    }
    return e;
}

static bool body_is(const char *text)
{
    return r.nbody == strlen(text) && memcmp(r.body, text, r.nbody) == 0;
}

static bool is_gzip(void)
{
    return r.nbody > 2 && memcmp(r.body, "\x1f\x8b", 2) == 0 &&
           strstr(r.headers, "Content-Type: application/octet-stream\r\n");
}

static void wants(const char *target, int status, const char *body)
{
    cr_assert_eq(ask("GET", target, NULL), 0, "%s", target);
    cr_assert_eq(r.status, status, "%s", target);
    cr_assert(body_is(body), "%s: %.*s", target, (int)r.nbody, (char *)r.body);
}

static int waits;
static int64_t waited_ns;
static int wait_result;

static int fake_wait(void *arg, int64_t ns)
{
    (void)arg;
    waits++;
    waited_ns = ns;
    return wait_result;
}

static int ask_profile(const char *target)
{
    pf_request q = {.method = "GET", .target = target, .wait = fake_wait};

    pf_reply_free(&r);
    return pf_route(&q, &r);
}

Test(route, errors_have_their_exact_bodies, .init = fake_setup)
{
    static const char invalid[] = "invalid value for \"seconds\" - must be a positive integer\n";
    static const char both[] = "seconds and debug params are incompatible\n";

    wants("/debug/pprof/nope", 404, "Unknown profile\n");
    wants("/debug/pprof/nope?seconds=abc", 404, "Unknown profile\n");
    wants("/debug/pprof/heap/", 404, "Unknown profile\n");
    wants("/debug/pprof/cmdline/", 404, "Unknown profile\n");
    wants("/debug/pprof/heap?seconds=abc", 400, invalid);
    wants("/debug/pprof/heap?seconds=-1", 400, invalid);
    wants("/debug/pprof/heap?seconds=0", 400, invalid);
    wants("/debug/pprof/heap?seconds=1.5", 400, invalid);
    wants("/debug/pprof/heap?seconds=99999999999999999999", 400, invalid);
    wants("/debug/pprof/heap?seconds=x&debug=1", 400, invalid);
    wants("/debug/pprof/heap?seconds=1&debug=1", 400, both);
    wants("/debug/pprof/goroutine?seconds=1&debug=2", 400, both);
    cr_assert_eq(ask("GET", "/debug/pprof/heap?seconds=1", NULL), 0);
    cr_assert_eq(r.status, 501);
    cr_assert_eq(((char *)memchr(r.body, '\n', r.nbody) - (char *)r.body) + 1, (long)r.nbody);
    fake_error = -EIO;
    wants("/debug/pprof/heap", 500, "failed to collect profile\n");
    cr_assert_eq(fake_live_raws, 0);
}

Test(route, snapshots, .init = fake_setup)
{
    static const char *const names[] = {"allocs", "block", "goroutine",
                                        "heap",   "mutex", "threadcreate"};
    char target[96], disposition[96];

    for (size_t i = 0; i < 6; i++) {
        snprintf(target, sizeof target, "/debug/pprof/%s", names[i]);
        snprintf(disposition, sizeof disposition,
                 "Content-Disposition: attachment; filename=\"%s\"\r\n", names[i]);
        cr_assert_eq(ask("GET", target, NULL), 0);
        cr_assert_eq(r.status, 200);
        cr_assert(is_gzip());
        cr_assert_not_null(strstr(r.headers, disposition));
        strcat(target, "?debug=1");
        cr_assert_eq(ask("GET", target, NULL), 0);
        cr_assert_not_null(strstr(r.headers, "Content-Type: text/plain; charset=utf-8\r\n"));
        cr_assert_null(strstr(r.headers, "Content-Disposition"));
    }
    static const char *const binary[] = {
        "debug=0", "debug=abc", "debug=-1", "debug=", "gc=1", "seconds=", "debug=1x", "debug=%20"};
    for (size_t i = 0; i < 8; i++) {
        snprintf(target, sizeof target, "/debug/pprof/heap?%s", binary[i]);
        cr_assert_eq(ask("GET", target, NULL), 0);
        cr_assert_eq(r.status, 200);
        cr_assert(is_gzip(), "%s", target);
    }
    cr_assert_eq(ask("GET", "/debug/pprof/heap?gc=1&de%62ug=99999999999999999999", NULL), 0);
    cr_assert(!is_gzip() && r.status == 200, "out of range is text");
    cr_assert_eq(ask("HEAD", "/debug/pprof/heap", NULL), 0);
    cr_assert_eq(r.status, 200);
    cr_assert_eq(fake_live_raws, 0, "every snapshot is given back");
}

Test(route, methods, .init = fake_setup)
{
    static const char *const others[] = {"POST", "PUT", "DELETE", "get", "OPTIONS"};

    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(ask(others[i], "/debug/pprof/heap", NULL), 0);
        cr_assert_eq(r.status, 405);
        cr_assert_not_null(strstr(r.headers, "Allow: GET, HEAD\r\n"));
    }
    cr_assert_eq(ask("POST", "/debug/pprof/symbol", ""), 0);
    cr_assert_eq(r.status, 200);
    cr_assert_eq(ask("PUT", "/debug/pprof/symbol", ""), 0);
    cr_assert_eq(r.status, 405);
    cr_assert_not_null(strstr(r.headers, "Allow: GET, HEAD, POST\r\n"));
}

static void goes_to(const char *target, const char *location)
{
    char line[128];

    snprintf(line, sizeof line, "Location: %s\r\n", location);
    cr_assert_eq(ask("GET", target, NULL), 0, "%s", target);
    cr_assert_eq(r.status, 301, "%s", target);
    cr_assert_not_null(strstr(r.headers, line), "%s: %s", target, r.headers);
}

Test(route, redirects_and_paths, .init = fake_setup)
{
    goes_to("/debug/pprof", "/debug/pprof/");
    goes_to("/debug/pprof?a=b", "/debug/pprof/?a=b");
    goes_to("//debug/pprof/heap", "/debug/pprof/heap");
    goes_to("/debug/pprof/../pprof/heap?debug=1", "/debug/pprof/heap?debug=1");
    goes_to("/x/../debug/./pprof//heap/", "/debug/pprof/heap/");
    goes_to("/debug//pprof/a%0d%0aSet-Cookie:x", "/debug/pprof/a%0D%0ASet-Cookie:x");
    goes_to("/debug/pprof?a\r\nSet-Cookie: x", "/debug/pprof/?aSet-Cookie:x");
    cr_assert_null(strstr(r.headers, "\nSet-Cookie"));
    cr_assert_eq(ask("GET", "/debug/pprof/h%65ap", NULL), 0);
    cr_assert_eq(r.status, 200);
    cr_assert_eq(ask("GET", "/", NULL), -ENOENT);
    cr_assert_eq(ask("GET", "/debug/pprofx", NULL), -ENOENT);
    cr_assert_eq(ask("GET", "/debug/pprof/../../etc", NULL), -ENOENT);
    cr_assert_eq(ask("GET", "", NULL), -ENOENT);
    cr_assert_eq(ask("GET", "*", NULL), -ENOENT);
    cr_assert_eq(ask("GET", "/debug/pprof%00/heap", NULL), 0);
    cr_assert_eq(r.status, 301, "cut at the NUL");
}

Test(route, cpu_profile, .init = fake_setup)
{
    static const struct {
        const char *target;
        int64_t seconds;
    } t[] = {{"", 30},
             {"?seconds=2", 2},
             {"?seconds=abc", 30},
             {"?seconds=-1", 30},
             {"?seconds=0", 30},
             {"?seconds=1.5", 30},
             {"?seconds=", 30},
             {"?seconds=%32", 2},
             {"?debug=1&seconds=3&seconds=4", 3}};
    char target[96];

    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        snprintf(target, sizeof target, "/debug/pprof/profile%s", t[i].target);
        cr_assert_eq(ask_profile(target), 0);
        cr_assert_eq(waited_ns, t[i].seconds * INT64_C(1000000000), "%s", target);
        cr_assert_eq(r.status, 200);
        cr_assert(is_gzip());
        cr_assert_not_null(strstr(r.headers, "filename=\"profile\"\r\n"));
    }
    cr_assert_eq(ask_profile("/debug/pprof/profile?seconds=9223372036854775807"), 0);
    cr_assert_gt(waited_ns, 0, "no overflow");
    cr_assert_eq(fake_cpu_stops, 10);

    fake_cpu_running = 1;
    waits = 0;
    wants("/debug/pprof/profile?seconds=1", 500,
          "Could not enable CPU profiling: cpu profiling already in use\n");
    cr_assert_eq(waits, 0);
    fake_cpu_running = 0;

    wait_result = 1; /* the client is gone */
    cr_assert_eq(ask_profile("/debug/pprof/profile"), -ECANCELED);
    cr_assert_eq(fake_cpu_running, 0, "the profiler is free again");
    cr_assert_eq(fake_live_raws, 0);
}

Test(route, cmdline, .init = fake_setup)
{
    char raw[8192];
    FILE *f = fopen("/proc/self/cmdline", "r");
    size_t n = fread(raw, 1, sizeof raw, f);

    fclose(f);
    cr_assert_eq(ask("GET", "/debug/pprof/cmdline?debug=1", NULL), 0);
    cr_assert_eq(r.status, 200);
    cr_assert_eq(r.nbody, n - 1, "no trailing NUL");
    cr_assert_eq(memcmp(r.body, raw, n - 1), 0);
}

Test(route, symbol, .init = fake_setup)
{
    char target[256], expect[256];
    uintptr_t a = FAKE_PC(user_work);

    wants("/debug/pprof/symbol", 200, "num_symbols: 1\n");
    snprintf(expect, sizeof expect, "num_symbols: 1\n0x%lx user_work\n", a);
    snprintf(target, sizeof target, "/debug/pprof/symbol?0x%lx", a);
    wants(target, 200, expect);
    snprintf(target, sizeof target, "/debug/pprof/symbol?%lu", a);
    wants(target, 200, expect);
    snprintf(target, sizeof target, "/debug/pprof/symbol?0%lo+0+junk++0x1+%lux+-5+ 7", a, a);
    wants(target, 200, expect);
    snprintf(target, sizeof target, "/debug/pprof/symbol?0x%lx%%2b0x%lx", a, a);
    wants(target, 200, "num_symbols: 1\n");

    snprintf(expect, sizeof expect, "num_symbols: 1\n0x%lx user_work\n0x%lx user_work\n", a, a + 1);
    snprintf(target, sizeof target, "0x%lx+0x%lx+0xffffffffffffffffff", a, a + 1);
    cr_assert_eq(ask("POST", "/debug/pprof/symbol", target), 0);
    cr_assert(body_is(expect), "%s", (char *)r.body);
    char get[128];
    snprintf(get, sizeof get, "/debug/pprof/symbol?0x1");
    cr_assert_eq(ask("GET", get, target), 0);
    cr_assert(body_is("num_symbols: 1\n"), "GET looks at the query, also with a body");
    cr_assert_eq(fake_live_raws, 0);
}

/* ---- mounted in another server ---- */

static struct got {
    int calls, status, stop_at;
    char headers[1024];
    size_t bytes;
} got;

static int take(void *arg, int status, const char *headers, const void *body, size_t n)
{
    struct got *g = arg;

    if (g->calls++ == 0) {
        cr_assert(status && headers && n == 0);
        g->status = status;
        snprintf(g->headers, sizeof g->headers, "%s", headers);
    } else {
        cr_assert(status == 0 && headers == NULL && body && n);
        g->bytes += n;
    }
    return g->calls == g->stop_at;
}

Test(route, handle, .init = fake_setup)
{
    char length[64];

    cr_assert_eq(pf_handle("GET", "/debug/pprof/goroutine?debug=1", NULL, 0, take, &got), 0);
    cr_assert_eq(got.status, 200);
    cr_assert_eq(got.calls, 2);
    snprintf(length, sizeof length, "Content-Length: %zu\r\n", got.bytes);
    cr_assert_not_null(strstr(got.headers, length));
    struct got head = {0};
    cr_assert_eq(pf_handle("HEAD", "/debug/pprof/goroutine?debug=1", NULL, 0, take, &head), 0);
    cr_assert_eq(head.calls, 1);
    cr_assert_not_null(strstr(head.headers, length));
    struct got stops = {.stop_at = 1};
    cr_assert_eq(pf_handle("GET", "/debug/pprof/", NULL, 0, take, &stops), 0);
    cr_assert_eq(stops.calls, 1);
    struct got none = {0};
    cr_assert_eq(pf_handle("GET", "/elsewhere", NULL, 0, take, &none), -ENOENT);
    cr_assert_eq(none.calls, 0, "nothing was replied");
    cr_assert_eq(pf_handle(NULL, "/", NULL, 0, take, &none), -EINVAL);
}

Test(route, queries_are_decoded)
{
    static const struct {
        const char *query, *key, *value;
    } t[] = {{"a=b", "a", "b"},   {"x=1&a=b+c", "a", "b c"}, {"a=%41%zz%4", "a", "A%zz%4"},
             {"a", "a", ""},      {"b=1", "a", NULL},        {"a=1;b&a=2", "a", "2"},
             {"%61=q", "a", "q"}, {"", "a", NULL},           {"aa=1&a==", "a", "="}};

    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char *v = pf_query(t[i].query, t[i].key);
        cr_assert_eq(v == NULL, t[i].value == NULL, "%s", t[i].query);
        if (v)
            cr_assert_str_eq(v, t[i].value, "%s", t[i].query);
        free(v);
    }
    cr_assert_null(pf_query(NULL, "a"));
}
