/* Records: reuse, unique ids, the count of live ones, a plain thread's record. */
#include "runtime/rt.h"
#include "tests/runtime/together.h"
#include <string.h>

static void nothing(void *arg)
{
    (void)arg;
}

Test(g, records_are_reused_and_never_move)
{
    rt_g *g = rt_g_new(NULL, nothing, NULL);
    uint64_t id = load_relaxed(&g->id);
    cr_assert_neq(id, 0u);
    cr_assert_eq(rt_g_live(), 1u);
    rt_g_free(NULL, g);
    cr_assert_eq(load_relaxed(&g->id), 0u);
    cr_assert_eq(rt_g_live(), 0u);
    rt_g *again = rt_g_new(NULL, nothing, NULL);
    cr_assert(again == g, "last in, first out");
    cr_assert_gt(load_relaxed(&again->id), id, "an id is never used twice");
    cr_assert_geq(rt_g_count(), 1u);
    cr_assert(rt_g_at(0) != NULL);
}

Test(g, a_long_name_is_cut)
{
    weft_opts opts = WEFT_OPTS_INIT;
    rt_g *g;
    opts.name = "0123456789012345678901234567890123456789";
    cr_assert_eq(rt_spawn(&opts, nothing, NULL, 1, &g), 0);
    cr_assert_str_eq(g->name, "0123456789012345678901234567890");
    cr_assert_eq(g->creator_pc, 1u);
    cr_assert_eq(g->creator_id, 0u);
}

static _Atomic(uint64_t) ids[64];
static _Atomic(int) nids;
static void note_id(void *arg)
{
    (void)arg;
    ids[nids++ % 64] = weft_self();
}
BODY(many_ids)
{
    weft_wg left = WEFT_WG_INIT;
    for (int round = 0; round < 50; round++) {
        nids = 0;
        start(&left, 64, note_id, NULL);
        join(&left);
        for (int i = 0; i < 64; i++)
            for (int k = 0; k < i; k++)
                cr_assert_neq(ids[i], ids[k]);
    }
    while (rt_g_live() > 1) /* the last ones are between their end and their exit */
        weft_yield();
    cr_assert_lt(rt_g_count(), 3000u, "3200 spawns reuse records");
    return 0;
}
Test(g, ids_are_unique_over_ps_and_records_come_back, .timeout = 60)
{
    RUN(4, many_ids);
}

static void *own_record(void *arg)
{
    rt_g *g = rt_self();
    cr_assert(g && g == rt_self() && load_relaxed(&g->kind) == RT_KIND_THREAD);
    *(rt_g **)arg = g;
    return NULL;
}
Test(g, a_plain_thread_has_one_record_that_is_reused)
{
    rt_g *first, *second;
    pthread_t t;
    pthread_create(&t, NULL, own_record, &first);
    pthread_join(t, NULL);
    pthread_create(&t, NULL, own_record, &second);
    pthread_join(t, NULL);
    cr_assert(first == second);
    cr_assert_eq(rt_g_live(), 0u, "a thread is no coroutine");
}
