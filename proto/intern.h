/* Private to proto/: the arena that holds what never moves, the open-addressing index behind every
 * "equal content gives the same id", and a table of distinct strings made of both.
 */
#ifndef WEFT_PROTO_INTERN_H
#define WEFT_PROTO_INTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Ids are kept in 32 bits; tables stop well before. */
#define PB_MAX_ENTRIES ((size_t)1 << 31)

typedef struct pb_arena {
    struct pb_chunk *chunks;
    char *next, *end;
    size_t bytes; /* handed out so far */
} pb_arena;

/* n bytes, aligned for any field of the model; NULL without memory. Freed all at once. */
void *pb_arena_alloc(pb_arena *, size_t n);
void pb_arena_free(pb_arena *);

/* A slot is the upper half of the hash and the value plus one; 0 is empty. The place of a slot
 * comes from that half too, so growing never hashes content again. */
typedef struct pb_index {
    uint64_t *slots;
    size_t mask, used;
    uint64_t seed;
} pb_index;

/* Room for one more entry, and a seed: call before a search that may end in a put. */
int pb_index_room(pb_index *);
void pb_index_put(pb_index *, uint64_t hash, uint32_t value);
void pb_index_free(pb_index *);
uint64_t pb_hash(const void *data, size_t n, uint64_t seed);

/* Walks the entries that may have this hash:
 *     for (size_t i = pb_index_first(ix, h); pb_index_next(ix, h, &i, &v);) if (same(v)) ... */
static inline size_t pb_index_first(const pb_index *ix, uint64_t hash)
{
    return (size_t)(hash >> 32) & ix->mask;
}

static inline bool pb_index_next(const pb_index *ix, uint64_t hash, size_t *i, uint32_t *value)
{
    if (!ix->slots)
        return false;
    for (;; *i = (*i + 1) & ix->mask) {
        uint64_t slot = ix->slots[*i];
        if (!slot)
            return false;
        if (slot >> 32 == hash >> 32) {
            *value = (uint32_t)slot - 1;
            *i = (*i + 1) & ix->mask;
            return true;
        }
    }
}

/* Distinct strings, numbered from 0. Each lies NUL-terminated in the arena behind its length. */
typedef struct pb_strtab {
    char **text;
    size_t n, cap;
    pb_index index;
} pb_strtab;

/* The number of this string, made when new; s is cut at its first NUL. -1 without memory. */
int64_t pb_strtab_add(pb_strtab *, pb_arena *, const char *s, size_t n);
void pb_strtab_free(pb_strtab *);

static inline uint32_t pb_text_len(const char *text)
{
    uint32_t n;
    memcpy(&n, text - sizeof n, sizeof n);
    return n;
}

/* Makes *array hold at least n + 1 elements of `size` bytes; 0 or -ENOMEM. */
int pb_grow(void *array, size_t n, size_t *cap, size_t size);

/* a + b and a * b that stop at the ends of the range: hostile values must not overflow. */
static inline int64_t pb_add_sat(int64_t a, int64_t b)
{
    int64_t sum;
    return __builtin_add_overflow(a, b, &sum) ? (a < 0 ? INT64_MIN : INT64_MAX) : sum;
}

static inline int64_t pb_mul_sat(int64_t a, int64_t b)
{
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product))
        return (a < 0) == (b < 0) ? INT64_MAX : INT64_MIN;
    return product;
}

#endif
