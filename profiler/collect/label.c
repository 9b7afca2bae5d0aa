/* Label sets: immutable and counted, sorted by key, one allocation each with the strings behind the
 * array.
 *
 * A coroutine's set hangs in its record (weft_hook_label_slot), a plain thread's in the thread's
 * block; both hold one reference. Changing a label makes a new set and drops the old, so a set can
 * be shared by children, buckets and samples without a lock, and the SIGPROF handler may take a
 * reference on the set of whatever it interrupted.
 *
 * Invariants:
 *  1. The slot is changed by its owner only, new before old is dropped: a handler on that thread
 *     finds a set that is alive, either one.
 *  2. Nothing but the count changes in a set that somebody else can see.
 *  3. No reference is dropped in the handler: the last drop frees.
 *
 * Rejected: interning equal sets. It makes comparing buckets one pointer compare, but puts a lock
 * into each request's label_set; the buckets compare content instead.
 */
#include "profiler/collect/pf.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void pf_labels_unref(weft_labels *set)
{
    /* acq_rel: partners are the drops of the other holders, whose reads come before the free */
    if (set && atomic_fetch_sub_explicit(&set->refs, 1, memory_order_acq_rel) == 1)
        free(set);
}

bool pf_labels_equal(const weft_labels *a, const weft_labels *b)
{
    if (a == b)
        return true;
    if (!a || !b || a->n != b->n)
        return false;
    for (uint32_t i = 0; i < a->n; i++)
        if (strcmp(a->label[i].key, b->label[i].key) ||
            strcmp(a->label[i].value, b->label[i].value))
            return false;
    return true;
}

static uint64_t hash_text(uint64_t h, const char *s)
{
    do
        h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
    while (*s++);
    return h;
}

uint64_t pf_labels_hash(const weft_labels *set)
{
    uint64_t h = 0xcbf29ce484222325ull;
    if (!set)
        return 0;
    for (uint32_t i = 0; i < set->n; i++)
        h = hash_text(hash_text(h, set->label[i].key), set->label[i].value);
    return h;
}

void *pf_label_inherit(void *set)
{
    return pf_labels_ref(set);
}

void pf_label_drop(void *set)
{
    pf_labels_unref(set);
}

/* Puts a set into the caller's slot and returns the one before. */
static weft_labels *slot_swap(weft_labels *set)
{
    void **slot = weft_hook_label_slot();
    if (slot) {
        weft_labels *old = *slot;
        *(void *volatile *)slot = set;
        return old;
    }
    pf_thread_here();
    /* release: the handler on this very thread reads the set behind the pointer */
    return atomic_exchange_explicit(&pf_tls.labels, set, memory_order_acq_rel);
}

static weft_labels *slot_get(void)
{
    void **slot = weft_hook_label_slot();
    return slot ? *slot : atomic_load_explicit(&pf_tls.labels, memory_order_relaxed);
}

/* old with key set to value (NULL: without key). NULL with *err when there is no memory; NULL and 0
 * when the result is empty. */
static weft_labels *set_with(const weft_labels *old, const char *key, const char *value, int *err)
{
    uint32_t n = old ? old->n : 0, count = 0, at = 0;
    size_t text = value ? strlen(key) + strlen(value) + 2 : 0;
    for (uint32_t i = 0; i < n; i++) {
        int order = strcmp(old->label[i].key, key);
        at += order < 0;
        count += order != 0;
        if (order)
            text += strlen(old->label[i].key) + strlen(old->label[i].value) + 2;
    }
    count += value != NULL;
    *err = 0;
    if (!count)
        return NULL;
    weft_labels *set = malloc(sizeof(*set) + count * sizeof(pf_label) + text);
    if (!set) {
        *err = -ENOMEM;
        return NULL;
    }
    atomic_init(&set->refs, 1);
    set->n = count;
    char *to = (char *)&set->label[count];
    for (uint32_t i = 0, from = 0; i < count; i++) {
        bool mine = value && i == at;
        while (!mine && !strcmp(old->label[from].key, key))
            from++;
        pf_label put = mine ? (pf_label){key, value} : old->label[from++];
        set->label[i].key = to;
        to = stpcpy(to, put.key) + 1;
        set->label[i].value = to;
        to = stpcpy(to, put.value) + 1;
    }
    return set;
}

int weft_label_set(const char *key, const char *value)
{
    if (!key || !*key)
        return -EINVAL;
    int err;
    weft_labels *set = set_with(slot_get(), key, value, &err);
    if (err)
        return err;
    pf_labels_unref(slot_swap(set));
    return 0;
}

weft_labels *weft_labels_swap(weft_labels *set)
{
    return slot_swap(set);
}

void weft_labels_free(weft_labels *set)
{
    pf_labels_unref(set);
}
