/* Private to the readers and writers of names: what is text and what is not. */
#ifndef WEFT_PROTO_UTF8_H
#define WEFT_PROTO_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* Reads one code point at s (n > 0 bytes are there) and stores its length. Bytes that start no
 * valid sequence (stray, overlong, surrogate, beyond U+10FFFF, cut off) give UINT32_MAX and
 * length 1. */
static inline uint32_t pb_utf8_next(const char *s, size_t n, size_t *len)
{
    const unsigned char *u = (const unsigned char *)s;
    *len = 1;
    if (u[0] < 0x80)
        return u[0];
    size_t more = u[0] >= 0xc2 && u[0] < 0xe0   ? 1
                  : u[0] >= 0xe0 && u[0] < 0xf0 ? 2
                  : u[0] >= 0xf0 && u[0] < 0xf5 ? 3
                                                : 0;
    if (!more || n <= more)
        return UINT32_MAX;
    uint32_t c = u[0] & (0x3fu >> more);
    for (size_t i = 1; i <= more; i++) {
        if ((u[i] & 0xc0) != 0x80)
            return UINT32_MAX;
        c = c << 6 | (u[i] & 0x3f);
    }
    if ((more == 2 && c < 0x800) || (c >= 0xd800 && c < 0xe000) || (more == 3 && c < 0x10000) ||
        c > 0x10ffff)
        return UINT32_MAX;
    *len = more + 1;
    return c;
}

/* How many leading bytes are valid UTF-8. */
static inline size_t pb_utf8_valid(const char *s, size_t n)
{
    size_t i = 0, len;
    while (i < n && pb_utf8_next(s + i, n - i, &len) != UINT32_MAX)
        i += len;
    return i;
}

/* Copies with U+FFFD for each bad byte; out holds 3 n + 1 bytes and is NUL-terminated. Returns the
 * length. */
static inline size_t pb_utf8_repair(const char *s, size_t n, char *out)
{
    size_t at = 0, len;
    for (size_t i = 0; i < n; i += len) {
        if (pb_utf8_next(s + i, n - i, &len) == UINT32_MAX) {
            out[at++] = '\xef';
            out[at++] = '\xbf';
            out[at++] = '\xbd';
            continue;
        }
        for (size_t k = 0; k < len; k++)
            out[at++] = s[i + k];
    }
    out[at] = '\0';
    return at;
}

#endif
