/* Labels of threads and coroutines: content, order, inheritance, references. */
#include "tests/profiler/collect/collect_check.h"
#include <errno.h>

static const weft_labels *now(void)
{
    weft_labels *set = weft_labels_swap(NULL);
    weft_labels_swap(set);
    return set;
}

static const char *value(const char *key)
{
    pf_sample s = {.labels = now()};
    return check_label(&s, key);
}

Test(label, set_replace_remove)
{
    cr_assert_null(now());
    cr_assert_eq(weft_label_set("b", "2"), 0);
    cr_assert_eq(weft_label_set("c", "3"), 0);
    cr_assert_eq(weft_label_set("a", "1"), 0);
    cr_assert_eq(now()->n, 3);
    cr_assert_str_eq(now()->label[0].key, "a");
    cr_assert_str_eq(now()->label[1].key, "b");
    cr_assert_str_eq(now()->label[2].key, "c");
    cr_assert_eq(weft_label_set("b", "two"), 0);
    cr_assert_eq(now()->n, 3);
    cr_assert_str_eq(value("a"), "1");
    cr_assert_str_eq(value("b"), "two");
    cr_assert_str_eq(value("c"), "3");
    cr_assert_eq(weft_label_set("b", NULL), 0);
    cr_assert_eq(weft_label_set("nothing", NULL), 0);
    cr_assert_eq(now()->n, 2);
    cr_assert_eq(weft_label_set("c", ""), 0); /* an empty value is a value */
    cr_assert_eq(now()->n, 2);
    cr_assert_eq(weft_label_set("a", NULL), 0);
    cr_assert_eq(weft_label_set("c", NULL), 0);
    cr_assert_null(now());
}

Test(label, bad_keys)
{
    cr_assert_eq(weft_label_set(NULL, "x"), -EINVAL);
    cr_assert_eq(weft_label_set("", "x"), -EINVAL);
    cr_assert_null(now());
}

/* The value may be a string of the set that is replaced. */
Test(label, a_value_from_the_old_set)
{
    weft_label_set("k", "some value");
    weft_label_set("k2", now()->label[0].value);
    weft_label_set("k", now()->label[0].value);
    cr_assert_str_eq(value("k"), "some value");
    cr_assert_str_eq(value("k2"), "some value");
}

Test(label, swap_moves_references)
{
    weft_label_set("k", "outer");
    weft_labels *outer = weft_labels_swap(NULL);
    cr_assert_eq(outer->refs, 1);
    weft_label_set("k", "inner");
    weft_labels *inner = weft_labels_swap(outer);
    cr_assert_str_eq(inner->label[0].value, "inner");
    cr_assert_eq(inner->refs, 1);
    weft_labels_free(inner);
    cr_assert_str_eq(value("k"), "outer");
    cr_assert_eq(now()->refs, 1);
}

static void child(void *chan)
{
    int right = !strcmp(value("route"), "/x") && now()->n == 1;
    weft_label_set("route", "/mine");
    right += !strcmp(value("route"), "/mine");
    weft_chan_send(chan, &right);
}

static int parent(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *chan = weft_chan_new(sizeof(int), 0);
    int total = 0, right;
    weft_label_set("route", "/x");
    weft_labels *mine = weft_labels_swap(NULL);
    weft_labels_swap(mine);
    for (int i = 0; i < 100; i++)
        weft_go(child, chan);
    weft_label_set("route", "/y"); /* after the birth: no business of the children's */
    for (int i = 0; i < 100; i++) {
        weft_chan_recv(chan, &right);
        total += right;
    }
    weft_chan_release(chan);
    return total;
}

Test(label, coroutines_inherit)
{
    weft_label_set("thread", "only"); /* a plain thread's labels are not the first coroutine's */
    cr_assert_eq(weft_run(parent, 0, NULL), 200);
    cr_assert_str_eq(value("thread"), "only");
    cr_assert_str_eq(value("route"), "");
}

static void leave(void *chan)
{
    weft_chan_send(chan, NULL);
}

static int count_references(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_chan *chan = weft_chan_new(0, 0);
    weft_label_set("k", "v");
    const weft_labels *set = now();
    for (int i = 0; i < 1000; i++)
        weft_go(leave, chan);
    cr_assert_eq(set->refs, 1001);
    for (int i = 0; i < 1000; i++)
        weft_chan_recv(chan, NULL);
    for (int i = 0; i < 1000 && set->refs > 1; i++)
        weft_sleep(1000000);
    return (int)set->refs;
}

Test(label, ended_coroutines_drop_their_reference)
{
    cr_assert_eq(weft_run(count_references, 0, NULL), 1);
}

Test(label, equal_content_is_equal)
{
    weft_label_set("a", "1");
    weft_labels *a = weft_labels_swap(NULL);
    weft_label_set("a", "1");
    weft_labels *b = weft_labels_swap(NULL);
    weft_label_set("a", "2");
    weft_labels *c = weft_labels_swap(NULL);
    cr_assert(pf_labels_equal(a, b) && pf_labels_hash(a) == pf_labels_hash(b));
    cr_assert(!pf_labels_equal(a, c) && !pf_labels_equal(a, NULL));
    cr_assert(pf_labels_equal(NULL, NULL));
    weft_labels_free(a);
    weft_labels_free(b);
    weft_labels_free(c);
}
