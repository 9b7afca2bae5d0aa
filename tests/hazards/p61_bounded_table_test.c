/* H61: a program whose every stack is new cannot fill memory with buckets, and no count is lost. */
#include "tests/profiler/collect/collect_check.h"

static pf_table table = {.limit = 4 << 20};
static int64_t sum, lost;

static int add(const pf_bucket *b, void *arg)
{
    (void)arg;
    sum += pf_bucket_read(b, 0);
    if (b->npcs == 1 && b->pcs[0] == PF_LOST_MEMORY)
        lost += pf_bucket_read(b, 0);
    return 0;
}

Test(p61, a_million_stacks_in_four_megabytes, .timeout = 60)
{
    for (uintptr_t i = 0; i < 1000000; i++) {
        uintptr_t pcs[8] = {i, i * 3, i * 5, 7, 8, 9, 10, i * 7};
        pf_bucket_add(pf_bucket_get(&table, pcs, 8, true, NULL, 0), 0, 1);
    }
    cr_assert_leq(table.bytes, (size_t)4 << 20);
    pf_table_visit(&table, add, NULL);
    cr_assert_eq(sum, 1000000);
    cr_assert_gt(lost, 0);
    cr_assert_gt(table.nbuckets, 10000); /* what fits is kept apart */
    cr_assert_eq(lost, 1000000 - (int64_t)table.nbuckets);
    /* Stacks that are known keep their buckets when it is full. */
    uintptr_t first[8] = {0, 0, 0, 7, 8, 9, 10, 0};
    cr_assert_eq(pf_bucket_get(&table, first, 8, true, NULL, 0)->npcs, 8);
}
