/* The watcher: it takes Ps from system calls, polls and pokes for those that do not look around. */
#include "runtime/rt.h"
#include "runtime/weft_net.h"
#include "tests/runtime/together.h"
#include <unistd.h>

static _Atomic(int) woke, stop;
static void sleeps(void *arg)
{
    (void)arg;
    weft_sleep(MS);
    woke = 1;
}
static weft_chan *ping, *pong;
static void bounce(void *arg)
{
    int v = 0;
    weft_chan *in = arg ? ping : pong, *out = arg ? pong : ping;
    while (!stop && weft_chan_recv(in, &v) == 0 && weft_chan_send(out, &v) == 0)
        ;
}
BODY(timers_beside_a_busy_pair)
{
    int v = 0;
    ping = weft_chan_new(sizeof(int), 0);
    pong = weft_chan_new(sizeof(int), 0);
    weft_go(sleeps, NULL);
    weft_yield();
    weft_go(bounce, NULL);
    weft_go(bounce, &v);
    weft_chan_send(ping, &v);
    while (!woke)
        weft_yield();
    stop = 1;
    weft_chan_close(ping);
    weft_chan_close(pong);
    return 0;
}
/* Switches go from coroutine to coroutine without the scheduler: a poke brings it in. */
Test(sysmon, a_timer_fires_beside_a_busy_pair, .timeout = 60)
{
    RUN(1, timers_beside_a_busy_pair);
}

static int fds[2];
static void reads(void *arg)
{
    char c;
    (void)arg;
    woke = weft_read(fds[0], &c, 1) == 1 ? 1 : -1;
}
BODY(polls_beside_a_yielder)
{
    cr_assert_eq(pipe(fds), 0);
    weft_go(reads, NULL);
    settle();
    cr_assert_eq(write(fds[1], "x", 1), 1);
    while (!woke)
        weft_yield();
    cr_assert_eq(woke, 1);
    return 0;
}
Test(sysmon, descriptors_are_looked_at_beside_a_yielder, .timeout = 60)
{
    RUN(1, polls_beside_a_yielder);
}

BODY(wakes_again)
{
    weft_sleep(200 * MS); /* all Ps idle: it sleeps without a limit */
    weft_go(sleeps, NULL);
    weft_syscall_enter();
    while (!woke) /* needs a watcher that is awake to take the P */
        usleep(1000);
    weft_syscall_exit();
    return 0;
}
Test(sysmon, it_wakes_when_a_p_leaves_idleness, .timeout = 60)
{
    RUN(1, wakes_again);
}
