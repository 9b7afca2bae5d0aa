/* Where profiles come from: a file, standard input, a server by TCP or by a unix socket.
 *
 * Invariants:
 * 1. Failure is one line that names the source; a server's own words (the first line of its answer)
 *    are in it.
 * 2. What the bytes are is read from the bytes, never from a name or a Content-Type: gzip and
 *    protobuf are profiles, other text is folded stacks. A raw profile always holds a NUL byte
 *    (its string table begins with an empty string), text never does.
 * 3. Waiting is bounded: one and a half times the seconds of profiling plus five, as go tool pprof
 *    has it.
 */
#include "tools/weft_tool.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define DEFAULT_PATH "/debug/pprof/profile"
#define MAX_BYTES    ((size_t)4 << 30)

typedef struct bytes {
    char *v;
    size_t n, cap;
    bool too_big;
} bytes;

static int bytes_room(bytes *b, size_t more)
{
    if (more > MAX_BYTES - b->n) {
        b->too_big = true;
        return -EFBIG;
    }
    if (b->n + more <= b->cap)
        return 0;
    size_t cap = b->cap * 2 > b->n + more ? b->cap * 2 : b->n + more;
    char *v = realloc(b->v, cap);
    if (!v)
        return -ENOMEM;
    b->v = v;
    b->cap = cap;
    return 0;
}

static int read_fd(int fd, bytes *b)
{
    for (;;) {
        int rc = bytes_room(b, 1 << 16);
        if (rc)
            return rc;
        ssize_t n = read(fd, b->v + b->n, b->cap - b->n);
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
        b->n += n > 0 ? (size_t)n : 0;
    }
}

/* "host:6060" is not a file, but people type it. */
static bool looks_like_host(const char *s)
{
    const char *colon = strrchr(s, ':');
    return colon && colon[1] && strspn(colon + 1, "0123456789") == strcspn(colon + 1, "/");
}

static int read_file(const char *path, bytes *b)
{
    bool standard = strcmp(path, "-") == 0;
    int fd = standard ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 ? -errno : read_fd(fd, b);
    if (fd > STDIN_FILENO)
        close(fd);
    if (rc == -ENOENT && looks_like_host(path))
        return tool_error(path, "no such file (for a server say http://%s)", path);
    if (rc)
        return tool_error(standard ? "standard input" : path, "%s", strerror(-rc));
    return TOOL_OK;
}

static size_t on_data(char *data, size_t size, size_t n, void *arg)
{
    bytes *b = arg;
    if (bytes_room(b, size * n))
        return 0;
    memcpy(b->v + b->n, data, size * n);
    b->n += size * n;
    return size * n;
}

/* The first line of an answer that is no profile. */
static void first_line(const bytes *b, char *line, size_t size)
{
    size_t n = 0;
    while (n < b->n && n + 1 < size && n < 200 && b->v[n] != '\n' && b->v[n] != '\r')
        n++;
    memcpy(line, b->v ? b->v : "", n);
    line[n] = '\0';
}

/* Splits http://host[/path] or unix:/sock[:/path] into what curl wants. */
static int split_source(const char *source, long seconds, char **socket_path, char **url)
{
    const char *path = "", *host = source;
    *socket_path = NULL;
    if (strncmp(source, "unix:", 5) == 0) {
        const char *colon = strstr(source + 5, ":/");
        size_t n = colon ? (size_t)(colon - source - 5) : strlen(source + 5);
        *socket_path = strndup(source + 5, n);
        if (!*socket_path)
            return -ENOMEM;
        path = colon ? colon + 1 : "";
        host = "http://localhost";
    }
    const char *authority = strstr(host, "://") + 3;
    size_t n = (size_t)(authority - host) + strcspn(authority, "/?#");
    const char *rest = *socket_path ? path : host + n;
    size_t path_n = strcspn(rest, "?#"), query_n = strcspn(rest + path_n, "#");
    bool bare = !path_n || (path_n == 1 && *rest == '/');
    char more[40] = "";
    if (seconds)
        snprintf(more, sizeof more, "%cseconds=%ld", query_n ? '&' : '?', seconds);
    int rc = asprintf(url, "%.*s%.*s%.*s%s", (int)n, host,
                      bare ? (int)strlen(DEFAULT_PATH) : (int)path_n, bare ? DEFAULT_PATH : rest,
                      (int)query_n, rest + path_n, more);
    return rc < 0 ? -ENOMEM : 0;
}

/* seconds=N of the URL itself, 0 when there is none. */
static long seconds_of(const char *url)
{
    const char *at = strstr(url, "seconds=");
    return at && (at[-1] == '?' || at[-1] == '&') ? strtol(at + 8, NULL, 10) : 0;
}

static void set_options(CURL *c, const char *url, const char *socket_path, bytes *b, char *why)
{
    long seconds = seconds_of(url);
    long wait = (seconds > 0 && seconds < INT_MAX / 4 ? seconds * 3 / 2 : 60) + 5;
    curl_easy_setopt(c, CURLOPT_URL, url);
    if (socket_path)
        curl_easy_setopt(c, CURLOPT_UNIX_SOCKET_PATH, socket_path);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, 5L);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, 10L);
    curl_easy_setopt(c, CURLOPT_TIMEOUT, wait);
    curl_easy_setopt(c, CURLOPT_ACCEPT_ENCODING, "");
    curl_easy_setopt(c, CURLOPT_USERAGENT, "weft");
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, b);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
}

static int fetch(const char *name, const char *url, const char *socket_path, bytes *b)
{
    char why[CURL_ERROR_SIZE] = "";
    long status = 0;
    CURL *c = curl_easy_init();
    if (!c)
        return tool_error(name, "no memory");
    set_options(c, url, socket_path, b, why);
    CURLcode rc = curl_easy_perform(c);
    curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(c);
    if (b->too_big)
        return tool_error(name, "more than 4 GiB");
    if (rc)
        return tool_error(name, "%s", *why ? why : curl_easy_strerror(rc));
    if (status == 200)
        return TOOL_OK;
    char line[256];
    first_line(b, line, sizeof line);
    return tool_error(name, "the server answered %ld%s%s", status, *line ? ": " : "", line);
}

static int read_url(const char *source, long seconds, bytes *b)
{
    char *socket_path, *url = NULL;
    if (seconds && seconds_of(source))
        return tool_error(source, "has seconds= already, and --seconds says it again");
    if (split_source(source, seconds, &socket_path, &url)) {
        free(socket_path);
        return tool_error(source, "no memory");
    }
    char *name = NULL;
    if (socket_path &&
        asprintf(&name, "unix:%s:%s", socket_path, url + strlen("http://localhost")) < 0)
        name = NULL;
    int rc = fetch(name ? name : url, url, socket_path, b);
    free(name);
    free(socket_path);
    free(url);
    return rc;
}

static bool has_scheme(const char *s, const char *scheme)
{
    return strncasecmp(s, scheme, strlen(scheme)) == 0;
}

int tool_read(const char *source, long seconds, char **buf, size_t *n)
{
    bytes b = {0};
    int rc;
    const char *colon = strstr(source, "://");
    if (has_scheme(source, "http://") || has_scheme(source, "https://") ||
        has_scheme(source, "unix:"))
        rc = read_url(source, seconds, &b);
    else if (colon && strspn(source, "abcdefghijklmnopqrstuvwxyz") == (size_t)(colon - source))
        rc = tool_error(source, "only http://, https:// and unix: can be fetched");
    else if (seconds)
        rc = tool_error(source, "--seconds is for a server, and this is a file");
    else
        rc = read_file(source, &b);
    if (rc) {
        free(b.v);
        return rc;
    }
    *buf = b.v;
    *n = b.n;
    return TOOL_OK;
}

/* The text forms that servers give for debug=1; they would read as junk and a stray number. */
static bool is_text_profile(const char *s, size_t n)
{
    static const char *const heads[] = {
        "goroutine profile: ", "heap profile: ",         "--- contention",
        "--- mutex",           "threadcreate profile: ", "goroutine "};
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (n > strlen(heads[i]) && memcmp(s, heads[i], strlen(heads[i])) == 0)
            return i < 5 || memchr(s, '[', n < 64 ? n : 64);
    return false;
}

pb_profile *tool_load(const tool_args *a)
{
    char *buf, err[256] = "";
    size_t n, junk = 0;
    pb_profile *p = NULL;
    if (tool_read(a->profile, a->seconds, &buf, &n))
        return NULL;
    const char *name = strcmp(a->profile, "-") == 0 ? "standard input" : a->profile;
    if (!n)
        tool_error(name, "is empty");
    else if (memchr(buf, '\0', n) || (n > 1 && !memcmp(buf, "\x1f\x8b", 2)))
        pb_decode(buf, n, &p, err, sizeof err);
    else if (is_text_profile(buf, n))
        tool_error(name, "is a profile in text form; the binary form is needed (without debug=)");
    else
        pb_fold_parse(buf, n, &p, &junk, err, sizeof err);
    if (*err && !p)
        tool_error(name, "%s", err);
    else if (junk)
        fprintf(stderr, "weft: %s: skipped %zu line%s that are not folded stacks\n", name, junk,
                junk == 1 ? "" : "s");
    free(buf);
    return p;
}

int tool_column(const tool_args *a, const pb_profile *p)
{
    int column = pb_sample_index(p, a->sample_index);
    if (column >= 0)
        return column;
    if (!p->ntypes) {
        tool_error(a->profile, "the profile has no sample types");
        return -1;
    }
    char list[400] = "";
    for (size_t i = 0, at = 0; i < p->ntypes && at < sizeof list; i++)
        at += (size_t)snprintf(list + at, sizeof list - at, "%s%s", i ? " " : "",
                               pb_str(p, p->types[i].type));
    tool_error(a->profile, "no sample_index \"%s\"; it has: %s", a->sample_index, list);
    return -1;
}
