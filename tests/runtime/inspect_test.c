/* The pull iterator: sees every coroutine with its state, reason, stack and maker, and holds those
 * that it looks at while others switch as fast as they can. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include "runtime/weft_net.h"
#include <string.h>
#include <unistd.h>

static weft_chan *never;
static weft_mutex held;
static weft_wg nobody;
static int fds[2];
static _Atomic(int) stop;

static void recv_never(void *a)
{
    (void)a;
    weft_chan_recv(never, NULL);
}
static void send_never(void *a)
{
    weft_chan_send(a, NULL);
}
static void select_never(void *a)
{
    (void)a;
    weft_case cs[] = {WEFT_RECV(never, NULL), WEFT_RECV(never, NULL)};
    weft_select(cs, 2);
}
static void lock_held(void *a)
{
    (void)a;
    weft_mutex_lock(&held);
}
static void wait_group(void *a)
{
    (void)a;
    weft_wg_wait(&nobody);
}
static void sleep_long(void *a)
{
    (void)a;
    weft_sleep(3600 * 1000 * MS);
}
static void read_never(void *a)
{
    char ch;
    (void)a;
    weft_read(fds[0], &ch, 1);
}
static void until_stop(void *a)
{
    (void)a;
    while (!stop)
        usleep(1000);
}
static void block_call(void *a)
{
    (void)a;
    weft_blocking(until_stop, NULL);
}

static const struct {
    const char *name;
    void (*fn)(void *);
    weft_wait_reason reason;
} waits[] = {
    {"recv", recv_never, WEFT_WAIT_CHAN_RECV},  {"send", send_never, WEFT_WAIT_CHAN_SEND},
    {"select", select_never, WEFT_WAIT_SELECT}, {"mutex", lock_held, WEFT_WAIT_MUTEX},
    {"group", wait_group, WEFT_WAIT_WG},        {"sleep", sleep_long, WEFT_WAIT_SLEEP},
    {"read", read_never, WEFT_WAIT_IO},         {"blocking", block_call, WEFT_WAIT_BLOCKING},
};
enum { WAITS = sizeof waits / sizeof waits[0] };

static int seen[WAITS], others;
static int look(const weft_coro *c, void *arg)
{
    (void)arg;
    for (int i = 0; i < WAITS; i++)
        if (strcmp(c->name, waits[i].name) == 0) {
            seen[i]++;
            cr_assert_eq(c->state, WEFT_CORO_WAITING, "%s", c->name);
            cr_assert_eq(c->reason, waits[i].reason, "%s", c->name);
            cr_assert(c->sp > c->lo && c->sp < c->hi && c->fp >= c->sp && c->fp < c->hi);
            cr_assert_eq(c->fn, (uintptr_t)waits[i].fn);
            cr_assert_eq(c->creator_id, 1u);
            cr_assert_neq(c->creator_pc, 0u);
            cr_assert_neq(c->since_ns, 0);
            cr_assert_eq(c->tid != 0, waits[i].reason == WEFT_WAIT_BLOCKING);
            return 0;
        }
    others++;
    return 0;
}
static void iterate(void *arg)
{
    (void)arg;
    cr_assert_eq(weft_hook_coros(look, NULL), 0);
}
BODY(eight_waits)
{
    weft_opts opts = WEFT_OPTS_INIT;
    never = weft_chan_new(0, 0);
    weft_chan *full = weft_chan_new(0, 0);
    cr_assert_eq(pipe(fds), 0);
    weft_mutex_lock(&held);
    weft_wg_add(&nobody, 1);
    for (int i = 0; i < WAITS; i++) {
        opts.name = waits[i].name;
        weft_go_opts(&opts, waits[i].fn, full);
    }
    weft_sleep(100 * MS);
    weft_blocking(iterate, NULL);
    for (int i = 0; i < WAITS; i++)
        cr_assert_eq(seen[i], 1, "%s", waits[i].name);
    cr_assert_eq(others, 1, "this one, in its blocking call");
    cr_assert_eq(weft_hook_coro_count(), WAITS + 1u);
    stop = 1;
    return 0;
}
Test(inspect, eight_waits_show_eight_reasons, .timeout = 60)
{
    RUN(2, eight_waits);
}

#if !defined(__SANITIZE_THREAD__) /* it reads stacks that are then written: by design a race */
static _Atomic(long) switches, visits, running;
/* Writes its frame again and again: a look at a coroutine that runs would see it move. */
static void restless(void *arg)
{
    (void)arg;
    while (!stop) {
        volatile long pad[32];
        for (int i = 0; i < 32; i++)
            pad[i] = switches;
        switches++;
        (void)pad[31];
        weft_yield();
    }
}
static int hold(const weft_coro *c, void *arg)
{
    (void)arg;
    visits++;
    if (c->state != WEFT_CORO_RUNNABLE || !c->sp) {
        running += c->state == WEFT_CORO_RUNNING;
        return 0;
    }
    uintptr_t sp = c->sp, words[8], again[8];
    memcpy(words, (void *)sp, sizeof words);
    for (int i = 0; i < 200; i++)
        rt_pause();
    memcpy(again, (void *)sp, sizeof again);
    cr_assert_eq(memcmp(words, again, sizeof words), 0, "a held coroutine ran");
    return 0;
}
static void *looker(void *arg)
{
    (void)arg;
    for (int i = 0; i < SCALE(400); i++)
        weft_hook_coros(hold, NULL);
    stop = 1;
    return NULL;
}
BODY(holds)
{
    pthread_t t;
    for (int i = 0; i < 40; i++)
        weft_go(restless, NULL);
    pthread_create(&t, NULL, looker, NULL);
    while (!stop)
        weft_yield();
    pthread_join(t, NULL);
    cr_assert_gt(visits, SCALE(400) * 20);
    cr_assert_gt(switches, 100);
    return 0;
}
Test(inspect, a_coroutine_is_held_while_visited, .timeout = 60)
{
    RUN(2, holds);
}
#endif

static int stops(const weft_coro *c, void *arg)
{
    (void)c;
    return ++*(int *)arg == 2 ? 42 : 0;
}
BODY(early_stop)
{
    int n = 0;
    never = weft_chan_new(0, 0);
    for (int i = 0; i < 5; i++)
        weft_go(recv_never, NULL);
    settle();
    cr_assert_eq(weft_hook_coros(stops, &n), 42);
    cr_assert_eq(n, 2);
    settle(); /* all pins are gone: everybody still runs */
    return 0;
}
Test(inspect, a_nonzero_return_stops_and_unpins)
{
    RUN(1, early_stop);
}
