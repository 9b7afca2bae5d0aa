/* The one door: versions, quiet threads around calls on the program's own, writes to descriptors
 * that do not take everything, or nothing. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include "tests/profiler/present/fake.h"

const pf_present_api *weft_present_open(const pf_collect_api *api);
static const pf_present_api *p;

FAKE_FUNCTION(user_work)

static void setup(void)
{
    p = weft_present_open(&fake_api);
    cr_assert_not_null(p);
}

Test(open, versions)
{
    pf_collect_api other = fake_api;

    other.version++;
    cr_assert_null(weft_present_open(&other));
    cr_assert_null(weft_present_open(NULL));
    setup();
    cr_assert_eq(p->version, PF_API_VERSION);
    cr_assert(p->serve && p->stop && p->handle && p->write && p->after_fork_child);
}

static void fill(pf_raw *raw)
{
    uintptr_t pcs[] = {FAKE_PC(user_work), 0};

    for (uint32_t i = 0; i < 20000; i++) {
        pcs[1] = 0x100000 + 16 * i;
        fake_add(raw, pcs, 2)->values[0] = 1;
    }
}

static void *slow_reader(void *arg)
{
    char block[1000];
    size_t n = 0;
    ssize_t r;

    while ((r = read(*(int *)arg, block, sizeof block)) > 0)
        n += (size_t)r;
    return (void *)n;
}

Test(open, write_goes_on_until_all_is_written, .init = setup, .timeout = 60)
{
    int ends[2];
    pthread_t t;
    void *got;
    pf_raw raw;

    fake_begin(&raw, &fake_sources[GOROUTINE]);
    fill(&raw);
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    fcntl(ends[1], F_SETFL, O_NONBLOCK);
    pthread_create(&t, NULL, slow_reader, &ends[0]);
    cr_assert_eq(p->write(&raw, ends[1], 1), 0);
    close(ends[1]);
    pthread_join(t, &got);
    cr_assert_gt((size_t)got, 500000);
    cr_assert_eq(fake_quiet_threads, 0);
    cr_assert_eq(fake_live_raws, 1, "raw stays the caller's");
    fake_raw_free(&raw);
}

Test(open, write_to_a_closed_pipe_is_an_error_only, .init = setup)
{
    int ends[2];
    pf_raw raw;
    sigset_t pending;

    fake_begin(&raw, &fake_sources[HEAP]);
    cr_assert_eq(pipe(ends), 0);
    close(ends[0]);
    cr_assert_eq(p->write(&raw, ends[1], 0), -EPIPE);
    sigpending(&pending);
    cr_assert(!sigismember(&pending, SIGPIPE));
    cr_assert_eq(p->write(&raw, -1, 0), -EBADF);
    fake_raw_free(&raw);
}

static int calls;

static int reply(void *arg, int status, const char *headers, const void *body, size_t n)
{
    (void)arg;
    (void)headers;
    (void)body;
    (void)n;
    if (calls++ == 0)
        cr_assert_eq(status, 200);
    cr_assert(fake_is_quiet, "the caller's thread, meanwhile");
    return 0;
}

Test(open, handle_serve_and_stop, .init = setup, .timeout = 60)
{
    cr_assert_eq(p->handle("GET", "/debug/pprof/heap", NULL, 0, reply, NULL), 0);
    cr_assert_eq(calls, 2);
    cr_assert_eq(fake_quiet_threads, 0);
    cr_assert_gt(p->serve("127.0.0.1:0"), 0);
    cr_assert_eq(p->serve("127.0.0.1:0"), -EALREADY);
    cr_assert_eq(p->stop(), 0);
    cr_assert_eq(p->stop(), -ENOENT);
    cr_assert_eq(p->serve("nonsense"), -EINVAL);
    cr_assert_eq(fake_quiet_threads, 0);
}

Test(open, a_child_forgets, .init = setup, .timeout = 60)
{
    cr_assert_gt(p->serve("127.0.0.1:0"), 0);
    p->after_fork_child(); /* as a child would */
    cr_assert_eq(p->stop(), -ENOENT);
    cr_assert_eq(p->handle("GET", "/debug/pprof/heap", NULL, 0, reply, NULL), 0);
    _exit(0); /* the server's thread still runs here */
}
