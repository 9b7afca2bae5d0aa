/* The arena, the index and the string table under the profile model.
 *
 * Invariants:
 * 1. What the arena hands out never moves and is freed only with the arena, so tables may keep
 *    pointers into it while they grow.
 * 2. An index is at most two thirds full, so a search always meets an empty slot.
 * 3. Nothing that is printed depends on the order of an index: its seed differs from run to run, so
 *    that a made-up profile cannot aim at one chain.
 *
 * No locks: a profile belongs to one thread at a time.
 *
 * Rejected: chained buckets (a cache miss per entry), and one malloc per sample and string: with
 * malloc and free, protobuf-c alone takes twice the CPU time to unpack 200 000 stacks.
 */
#include "proto/intern.h"

#include <errno.h>
#include <stdlib.h>

#define CHUNK_BYTES ((size_t)256 << 10)

struct pb_chunk {
    struct pb_chunk *next;
    char data[] __attribute__((aligned(16)));
};

static void *chunk_new(pb_arena *a, size_t bytes)
{
    struct pb_chunk *c = malloc(sizeof *c + bytes);
    if (!c)
        return NULL;
    c->next = a->chunks;
    a->chunks = c;
    return c->data;
}

void *pb_arena_alloc(pb_arena *a, size_t n)
{
    if (n > SIZE_MAX / 2)
        return NULL;
    n = n ? (n + 7) & ~(size_t)7 : 8;
    if ((size_t)(a->end - a->next) < n) {
        if (n >= CHUNK_BYTES / 4) {
            a->bytes += n;
            return chunk_new(a, n);
        }
        char *data = chunk_new(a, CHUNK_BYTES);
        if (!data)
            return NULL;
        a->next = data;
        a->end = data + CHUNK_BYTES;
    }
    void *p = a->next;
    a->next += n;
    a->bytes += n;
    return p;
}

void pb_arena_free(pb_arena *a)
{
    struct pb_chunk *c = a->chunks;
    while (c) {
        struct pb_chunk *next = c->next;
        free(c);
        c = next;
    }
    *a = (pb_arena){0};
}

/* Multiply and fold: 64 bits of entropy per multiplication, and no table. */
static inline uint64_t mix(uint64_t a, uint64_t b)
{
    unsigned __int128 m = (unsigned __int128)(a ^ 0x9e3779b97f4a7c15u) * (b ^ 0xd1b54a32d192ed03u);
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

uint64_t pb_hash(const void *data, size_t n, uint64_t seed)
{
    const unsigned char *p = data;
    uint64_t h = seed ^ n, a = 0, b = 0;
    for (; n > 16; n -= 16, p += 16) {
        memcpy(&a, p, 8);
        memcpy(&b, p + 8, 8);
        h = mix(a ^ h, b);
    }
    a = b = 0;
    if (n > 8) {
        memcpy(&a, p, 8);
        memcpy(&b, p + 8, n - 8);
    } else if (n) {
        memcpy(&a, p, n);
    }
    return mix(mix(a ^ h, b ^ seed), h);
}

int pb_index_room(pb_index *ix)
{
    if (ix->slots && (ix->used + 1) * 3 < (ix->mask + 1) * 2)
        return 0;
    size_t size = ix->slots ? (ix->mask + 1) * 2 : 64;
    uint64_t *slots = calloc(size, sizeof *slots);
    if (!slots)
        return -ENOMEM;
    for (size_t i = 0; ix->slots && i <= ix->mask; i++) {
        if (!ix->slots[i])
            continue;
        size_t at = (size_t)(ix->slots[i] >> 32) & (size - 1);
        while (slots[at])
            at = (at + 1) & (size - 1);
        slots[at] = ix->slots[i];
    }
    /* Addresses are random under ASLR, which is all the secret this needs. */
    if (!ix->seed)
        ix->seed = mix((uintptr_t)slots, (uintptr_t)ix) | 1;
    free(ix->slots);
    ix->slots = slots;
    ix->mask = size - 1;
    return 0;
}

void pb_index_put(pb_index *ix, uint64_t hash, uint32_t value)
{
    size_t at = (size_t)(hash >> 32) & ix->mask;
    while (ix->slots[at])
        at = (at + 1) & ix->mask;
    ix->slots[at] = (hash >> 32) << 32 | (value + (uint64_t)1);
    ix->used++;
}

void pb_index_free(pb_index *ix)
{
    free(ix->slots);
    *ix = (pb_index){0};
}

int pb_grow(void *array, size_t n, size_t *cap, size_t size)
{
    if (n < *cap)
        return 0;
    size_t want = *cap ? *cap + *cap / 2 + 8 : 16;
    void *old, *bigger;
    memcpy(&old, array, sizeof old);
    if (n >= PB_MAX_ENTRIES)
        return -ENOMEM;
    want = want > n ? want : n + 1;
    if (want > SIZE_MAX / 2 / size)
        return -ENOMEM;
    bigger = realloc(old, want * size);
    if (!bigger)
        return -ENOMEM;
    memcpy(array, &bigger, sizeof bigger);
    *cap = want;
    return 0;
}

int64_t pb_strtab_add(pb_strtab *t, pb_arena *arena, const char *s, size_t n)
{
    n = n ? strnlen(s, n) : 0;
    if (n >= UINT32_MAX || pb_index_room(&t->index) ||
        pb_grow(&t->text, t->n, &t->cap, sizeof *t->text))
        return -1;
    uint64_t h = pb_hash(s, n, t->index.seed);
    uint32_t v;
    for (size_t i = pb_index_first(&t->index, h); pb_index_next(&t->index, h, &i, &v);)
        if (pb_text_len(t->text[v]) == n && (!n || memcmp(t->text[v], s, n) == 0))
            return v;
    char *room = pb_arena_alloc(arena, sizeof(uint32_t) + n + 1);
    if (!room)
        return -1;
    uint32_t len = (uint32_t)n;
    memcpy(room, &len, sizeof len);
    char *text = room + sizeof len;
    if (n)
        memcpy(text, s, n);
    text[n] = '\0';
    pb_index_put(&t->index, h, (uint32_t)t->n);
    t->text[t->n] = text;
    return (int64_t)t->n++;
}

void pb_strtab_free(pb_strtab *t)
{
    free(t->text);
    pb_index_free(&t->index);
    *t = (pb_strtab){0};
}
