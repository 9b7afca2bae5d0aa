/* The table of stacks: identity, growth, its limit, many threads at once. */
#include "tests/profiler/collect/collect_check.h"
#include <pthread.h>
#include <stdlib.h>
#include <sys/wait.h>

static pf_table table;

static pf_bucket *get(uintptr_t a, uintptr_t b)
{
    uintptr_t pcs[2] = {a, b};
    return pf_bucket_get(&table, pcs, 2, false, NULL, 0);
}

static int count(const pf_bucket *b, void *sums)
{
    int64_t *s = sums;
    s[0]++;
    s[1] += pf_bucket_read(b, 0);
    s[2] += pf_bucket_read(b, 7);
    if (b->npcs == 1 && b->pcs[0] == PF_LOST_MEMORY)
        s[3] = pf_bucket_read(b, 0);
    return 0;
}

Test(bucket, the_key_is_stack_kind_labels_and_size)
{
    uintptr_t pcs[3] = {0x1000, 0x2000, 0x3000};
    weft_label_set("k", "v");
    weft_labels *set = weft_labels_swap(NULL);
    weft_label_set("k", "v");
    weft_labels *twin = weft_labels_swap(NULL);
    cr_assert_neq(set, twin);
    pf_bucket *b = pf_bucket_get(&table, pcs, 3, true, NULL, 0);
    cr_assert_eq(pf_bucket_get(&table, pcs, 3, true, NULL, 0), b);
    cr_assert_neq(pf_bucket_get(&table, pcs, 2, true, NULL, 0), b);
    cr_assert_neq(pf_bucket_get(&table, pcs, 3, false, NULL, 0), b);
    cr_assert_neq(pf_bucket_get(&table, pcs, 3, true, NULL, 8), b);
    pf_bucket *labelled = pf_bucket_get(&table, pcs, 3, true, set, 0);
    cr_assert_neq(labelled, b);
    cr_assert_eq(pf_bucket_get(&table, pcs, 3, true, twin, 0), labelled);
    cr_assert_eq(labelled->pcs[2], 0x3000);
    cr_assert_eq(set->refs, 2); /* ours and the bucket's */
    pf_table_clear(&table);
    cr_assert_eq(set->refs, 1);
    weft_labels_free(set);
    weft_labels_free(twin);
}

Test(bucket, many_stacks_are_all_there)
{
    enum { N = 100000 };
    pf_bucket **first = calloc(N, sizeof(*first));
    for (uintptr_t i = 0; i < N; i++)
        pf_bucket_add(first[i] = get(i * 16, i), 0, 1);
    for (uintptr_t i = 0; i < N; i++) {
        cr_assert_eq(get(i * 16, i), first[i]); /* none moved when the arrays grew */
        pf_bucket_add(first[i], 7, (int64_t)i);
    }
    int64_t sums[4] = {0};
    cr_assert_eq(pf_table_visit(&table, count, sums), 0);
    cr_assert_eq(sums[0], N);
    cr_assert_eq(sums[1], N);
    cr_assert_eq(sums[2], (int64_t)N * (N - 1) / 2);
    pf_table_clear(&table);
    memset(sums, 0, sizeof(sums));
    pf_table_visit(&table, count, sums);
    cr_assert_eq(sums[0], 0);
    cr_assert_eq(table.bytes, 0);
    free(first);
}

static void *add_many(void *arg)
{
    uintptr_t seed = (uintptr_t)arg;
    for (uintptr_t i = 0; i < 50000; i++)
        pf_bucket_add(get(0x1000 + (i + seed) % 5000 * 8, 1), 0, 1);
    return NULL;
}

Test(bucket, threads_add_up)
{
    pthread_t t[4];
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, add_many, (void *)(i * 777));
    for (int i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    int64_t sums[4] = {0};
    pf_table_visit(&table, count, sums);
    cr_assert_eq(sums[0], 5000);
    cr_assert_eq(sums[1], 200000);
}

Test(bucket, a_fork_copies_a_whole_table)
{
    pthread_t t;
    pthread_create(&t, NULL, add_many, NULL);
    for (int i = 0; i < 50; i++) {
        pf_table_fork(&table, PF_FORK_PREPARE);
        pid_t pid = fork();
        pf_table_fork(&table, pid ? PF_FORK_PARENT : PF_FORK_CHILD);
        if (!pid) {
            for (uintptr_t k = 0; k < 6000; k++)
                get(k, k);
            int64_t sums[4] = {0};
            pf_table_visit(&table, count, sums);
            _exit(sums[0] == (int64_t)table.nbuckets ? 0 : 1);
        }
        int status;
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0);
    }
    pthread_join(t, NULL);
}
