/* The ring under thieves: every G is taken once, by whomever; runnext and fairness; the global
 * queue's shares. Works on hand-made Ps: no scheduler runs. */
#include "runtime/rt.h"
#include "tests/check.h"
#include <pthread.h>
#include <stdlib.h>

#if defined(__SANITIZE_THREAD__)
enum { ROUNDS = 20000 };
#else
enum { ROUNDS = 400000 };
#endif
enum { THIEVES = 3 };

static rt_p *new_p(void)
{
    rt_p *p = aligned_alloc(64, (sizeof *p + 63) / 64 * 64);
    memset(p, 0, sizeof *p);
    return p;
}

static rt_g *new_gs(int n)
{
    return calloc((size_t)n, sizeof(rt_g));
}

Test(runq, fifo_and_runnext_first)
{
    rt_p *p = new_p();
    rt_g *g = new_gs(4);
    for (int i = 0; i < 3; i++)
        rt_runq_put(p, &g[i], false);
    rt_runq_put(p, &g[3], true);
    cr_assert(rt_runq_get(p) == &g[3]);
    for (int i = 0; i < 3; i++)
        cr_assert(rt_runq_get(p) == &g[i]);
    cr_assert(rt_runq_empty(p));
    cr_assert_null(rt_runq_get(p));
}

Test(runq, a_new_runnext_kicks_the_old_to_the_tail)
{
    rt_p *p = new_p();
    rt_g *g = new_gs(3);
    rt_runq_put(p, &g[0], false);
    rt_runq_put(p, &g[1], true);
    cr_assert(rt_runq_excess(p));
    rt_runq_put(p, &g[2], true);
    cr_assert(rt_runq_get(p) == &g[2]);
    cr_assert(rt_runq_get(p) == &g[0]);
    cr_assert(rt_runq_get(p) == &g[1]);
}

/* R12: a pair that readies each other must not keep a third from running. */
Test(runq, runnext_does_not_starve_the_ring)
{
    rt_p *p = new_p();
    rt_g *g = new_gs(2);
    rt_runq_put(p, &g[0], false);
    for (int i = 0; i < 200; i++) {
        rt_runq_put(p, &g[1], true);
        if (rt_runq_get(p) == &g[0])
            return;
    }
    cr_fail("200 runnexts in a row");
}

Test(runq, a_full_ring_spills_half_to_the_global_queue)
{
    rt_p *p = new_p();
    store_relaxed(&rt_sched.nprocs, 1);
    rt_g *g = new_gs(RT_RING + 1);
    for (uint32_t i = 0; i <= RT_RING; i++)
        rt_runq_put(p, &g[i], false);
    cr_assert_eq(load_relaxed(&rt_sched.nrunq), RT_RING / 2 + 1);
    uint32_t n = 0;
    while (rt_runq_get(p))
        n++;
    rt_g *one;
    while ((one = rt_globq_get_locked(p, 0))) {
        n++;
        while (rt_runq_get(p))
            n++;
    }
    cr_assert_eq(n, RT_RING + 1);
}

struct theft {
    rt_p *victim;
    _Atomic(int) *taken, *stop;
    rt_g *first;
};

static void *thief(void *arg)
{
    struct theft *t = arg;
    rt_p *mine = new_p();
    while (!*t->stop) {
        rt_g *g = rt_runq_steal(mine, t->victim, true);
        if (!g)
            continue;
        do
            t->taken[g - t->first]++;
        while ((g = rt_runq_get(mine)));
    }
    return NULL;
}

/* R14: torn reads of head and tail, wrap-around, and runnext races. */
Test(runq, three_thieves_and_the_owner_take_each_once)
{
    rt_p *p = new_p();
    store_relaxed(&rt_sched.nprocs, 4);
    rt_g *g = new_gs(ROUNDS);
    _Atomic(int) *taken = calloc(ROUNDS, sizeof *taken), stop = 0;
    struct theft t = {p, taken, &stop, g};
    pthread_t threads[THIEVES];
    for (int i = 0; i < THIEVES; i++)
        pthread_create(&threads[i], NULL, thief, &t);
    for (int i = 0; i < ROUNDS; i++) {
        rt_runq_put(p, &g[i], i % 3 == 0);
        rt_g *one = i % 2 ? rt_runq_get(p) : NULL;
        if (one)
            taken[one - g]++;
        while (load_relaxed(&p->tail) - load_relaxed(&p->head) > 200 && (one = rt_runq_get(p)))
            taken[one - g]++;
    }
    for (rt_g *one; (one = rt_runq_get(p));)
        taken[one - g]++;
    while (!rt_runq_empty(p))
        ;
    stop = 1;
    for (int i = 0; i < THIEVES; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < ROUNDS; i++)
        cr_assert_eq(taken[i], 1, "item %d", i);
}

Test(runq, a_list_keeps_its_order)
{
    rt_g *g = new_gs(3);
    rt_glist list = {0};
    for (int i = 0; i < 3; i++)
        rt_glist_push(&list, &g[i]);
    cr_assert_eq(list.n, 3u);
    cr_assert(list.head == &g[0] && g[0].link == &g[1] && list.tail == &g[2] && !g[2].link);
}
