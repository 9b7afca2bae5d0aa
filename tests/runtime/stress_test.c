/* Everything at once: rounds of producers, selecting consumers, a mutex, deadlines, sleeps and
 * short lives, over channels of three sizes, until the time is over (WEFT_STRESS_S seconds; 2 by
 * default, 60 for each of the three tests in make check-long).
 *
 *  1. Each value that is sent is received exactly once: their count and their sum are kept under a
 *     mutex by the consumers and compared with what the producers sent.
 *  2. Whoever gives up at a deadline has neither sent nor received.
 *  3. A round ends with every coroutine gone: the count of live ones is what it was.
 *
 * The seed is printed with a failure; WEFT_STRESS_SEED=N repeats it (the same choices, not the same
 * interleaving).
 */
#include "tests/check.h"
#include "runtime/weft.h"
#include "runtime/weft_hook.h"
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { CHANNELS = 3, PRODUCERS = 12, CONSUMERS = 6, ITEMS = 60, SLEEPERS = 8, SHORT_LIVES = 40 };

static uint64_t seed;
static weft_chan *channels[CHANNELS], *quit;
static weft_wg producers, others;
static weft_mutex ledger;
static int64_t sent_count, sent_sum, got_count, got_sum; /* got_*: under ledger */
static atomic_int_fast64_t value, sum_sent, count_sent;

/* xorshift; each coroutine has a state of its own. */
static uint32_t roll(uint64_t *state, uint32_t n)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)((*state >> 32) % n);
}

static uint64_t own_seed(void)
{
    return seed * 2654435761u + weft_self() * 40503u + 1;
}

/* One value out, by one of the ways there are; tries again after a deadline or a full channel. */
static void send_one(uint64_t *state, int64_t v)
{
    for (;;) {
        weft_chan *c = channels[roll(state, CHANNELS)], *d = channels[roll(state, CHANNELS)];
        int result;
        switch (roll(state, 4)) {
        case 0:
            result = weft_chan_send(c, &v);
            break;
        case 1:
            result = weft_chan_send_dl(c, &v, weft_now() + roll(state, 200000));
            break;
        case 2:
            result = weft_chan_try_send(c, &v);
            break;
        default: {
            weft_case cs[] = {WEFT_SEND(c, &v), WEFT_SEND(d, &v)};
            result = weft_select_dl(cs, 2, weft_now() + roll(state, 500000));
            break;
        }
        }
        if (result >= 0)
            return;
        cr_assert(result == -ETIMEDOUT || result == -EAGAIN, "send: %d, seed %llu", result,
                  (unsigned long long)seed);
        weft_yield();
    }
}

static void producer(void *arg)
{
    uint64_t state = own_seed();
    (void)arg;
    for (int i = 0; i < ITEMS; i++) {
        int64_t v = atomic_fetch_add_explicit(&value, 1, memory_order_relaxed);
        send_one(&state, v);
        atomic_fetch_add_explicit(&sum_sent, v, memory_order_relaxed);
        atomic_fetch_add_explicit(&count_sent, 1, memory_order_relaxed);
        if (roll(&state, 16) == 0)
            weft_sleep(roll(&state, 100000));
    }
    weft_wg_done(&producers);
}

static void note(int64_t v, uint64_t *state)
{
    if (roll(state, 4) == 0) {
        while (weft_mutex_lock_dl(&ledger, weft_now() + roll(state, 100000)) != 0)
            weft_yield();
    } else {
        weft_mutex_lock(&ledger);
    }
    got_count++;
    got_sum += v;
    if (roll(state, 32) == 0)
        weft_yield();
    cr_assert_eq(weft_mutex_unlock(&ledger), 0);
}

static void consumer(void *arg)
{
    uint64_t state = own_seed();
    (void)arg;
    for (;;) {
        int64_t v[CHANNELS] = {-1, -1, -1};
        weft_case cs[] = {WEFT_RECV(channels[0], &v[0]), WEFT_RECV(channels[1], &v[1]),
                          WEFT_RECV(channels[2], &v[2]), WEFT_RECV(quit, NULL)};
        int i = roll(&state, 2) ? weft_select(cs, 4)
                                : weft_select_dl(cs, 4, weft_now() + roll(&state, 300000));
        if (i == 3)
            break;
        if (i >= 0) {
            cr_assert_eq(cs[i].result, 0, "seed %llu", (unsigned long long)seed);
            note(v[i], &state);
        } else {
            cr_assert_eq(i, -ETIMEDOUT, "seed %llu", (unsigned long long)seed);
        }
    }
    weft_wg_done(&others);
}

static void sleeper(void *arg)
{
    uint64_t state = own_seed();
    (void)arg;
    for (int i = 0; i < 5; i++) {
        int64_t ns = roll(&state, 1000000), before = weft_now();
        weft_sleep(ns);
        cr_assert_geq(weft_now() - before, ns, "woken early, seed %llu", (unsigned long long)seed);
    }
    weft_wg_done(&others);
}

static void short_life(void *arg)
{
    (void)arg;
    if (weft_self() % 3 == 0)
        weft_yield();
    weft_wg_done(&others);
}

static void one_round(void)
{
    quit = weft_chan_new(0, 0);
    for (int i = 0; i < CHANNELS; i++)
        channels[i] = weft_chan_new(sizeof(int64_t), (size_t[]){0, 1, 16}[i]);
    weft_wg_add(&producers, PRODUCERS);
    weft_wg_add(&others, CONSUMERS + SLEEPERS + SHORT_LIVES);
    for (int i = 0; i < CONSUMERS; i++)
        cr_assert_eq(weft_go(consumer, NULL), 0);
    for (int i = 0; i < SHORT_LIVES; i++) {
        if (i < SLEEPERS)
            cr_assert_eq(weft_go(sleeper, NULL), 0);
        if (i < PRODUCERS)
            cr_assert_eq(weft_go(producer, NULL), 0);
        cr_assert_eq(weft_go(short_life, NULL), 0);
    }
    weft_wg_wait(&producers);

    /* What lies in the buffers still has takers: all are taken before they are told to go. */
    for (int i = 0; i < CHANNELS; i++)
        while (weft_chan_len(channels[i]) > 0)
            weft_yield();
    weft_chan_close(quit);
    weft_wg_wait(&others);
    for (int i = 0; i < CHANNELS; i++)
        weft_chan_release(channels[i]);
    weft_chan_release(quit);
}

static int body(int argc, char **argv)
{
    (void)argc, (void)argv;
    const char *seconds = getenv("WEFT_STRESS_S");
    int64_t end = weft_now() + (seconds ? atoi(seconds) : 2) * INT64_C(1000000000);
    int rounds = 0;
    do {
        one_round();
        rounds++;
        sent_count = atomic_load(&count_sent);
        sent_sum = atomic_load(&sum_sent);
        cr_assert_eq(sent_count, (int64_t)rounds * PRODUCERS * ITEMS);
        cr_assert_eq(got_count, sent_count, "seed %llu", (unsigned long long)seed);
        cr_assert_eq(got_sum, sent_sum, "seed %llu", (unsigned long long)seed);
        for (int tries = 0; weft_hook_coro_count() > 1 && tries < 1000; tries++)
            weft_sleep(1000000);
        cr_assert_eq(weft_hook_coro_count(), 1, "round %d", rounds);
    } while (weft_now() < end);
    return 0;
}

static void stress(int procs)
{
    const char *given = getenv("WEFT_STRESS_SEED");
    seed = given ? strtoull(given, NULL, 0) : (uint64_t)weft_now();
    weft_procs(procs);
    cr_assert_eq(weft_run(body, 0, NULL), 0);
}

Test(stress, one_processor, .timeout = 100)
{
    stress(1);
}

Test(stress, two_processors, .timeout = 100)
{
    stress(2);
}

Test(stress, more_processors_than_there_are, .timeout = 100)
{
    stress(7);
}
