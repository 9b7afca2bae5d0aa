/* A main for fuzz targets where there is no libFuzzer: with -DWEFT_FUZZ_MAIN,
 *     PROG [rounds 20000] [seed 1]
 * feeds mutations of the target's seeds, the same ones for the same arguments, and ends 0. A
 * crash or a sanitizer's report is the failure; the round is printed then, since it was written
 * ahead. With libFuzzer (clang -fsanitize=fuzzer) leave the macro out.
 */
#ifndef WEFT_TESTS_FUZZ_H
#define WEFT_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

#ifdef WEFT_FUZZ_MAIN
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The i-th seed; 0 bytes when there are no more. malloc'd. */
static uint8_t *fuzz_seed(unsigned i, size_t *n);

static uint64_t fuzz_state;
static char fuzz_where[64];

static uint32_t fuzz_random(uint32_t below)
{
    fuzz_state = fuzz_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((fuzz_state >> 33) % below);
}

static void fuzz_crashed(int sig)
{
    if (write(2, fuzz_where, strlen(fuzz_where)) < 0)
        _exit(3);
    signal(sig, SIG_DFL);
    raise(sig);
}

/* One small act of damage; n stays within [0, cap]. */
static size_t fuzz_damage(uint8_t *b, size_t n, size_t cap)
{
    static const uint8_t odd[] = {0,   1,    2,   0x7f, 0x80, 0xff, ';',
                                  ' ', '\n', '<', '0',  '9',  '.',  '#'};
    size_t at = n ? fuzz_random((uint32_t)n) : 0, len = 1 + fuzz_random(16);
    switch (fuzz_random(7)) {
    case 0:
        if (n)
            b[at] ^= (uint8_t)(1u << fuzz_random(8));
        break;
    case 1:
        if (n)
            b[at] = odd[fuzz_random(sizeof odd)];
        break;
    case 2:
        return at;
    case 3:
        len = len > n - at ? n - at : len;
        memmove(b + at, b + at + len, n - at - len);
        return n - len;
    case 4:
        if (n + len > cap)
            break;
        memmove(b + at + len, b + at, n - at);
        for (size_t i = 0; i < len; i++)
            b[at + i] = odd[fuzz_random(sizeof odd)];
        return n + len;
    case 5:
        len = len > n - at ? n - at : len;
        if (n && len)
            memmove(b + fuzz_random((uint32_t)(n - len + 1)), b + at, len);
        break;
    default:
        if (n)
            b[at] = (uint8_t)fuzz_random(256);
    }
    return n;
}

int main(int argc, char **argv)
{
    unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 10) : 20000;
    uint64_t seed = argc > 2 ? strtoul(argv[2], NULL, 10) : 1;
    unsigned seeds = 0;
    size_t n;
    for (uint8_t *s; (s = fuzz_seed(seeds, &n)), n; seeds++) {
        LLVMFuzzerTestOneInput(s, n);
        free(s);
    }
    signal(SIGSEGV, fuzz_crashed);
    signal(SIGABRT, fuzz_crashed);
    for (unsigned long i = 0; i < rounds; i++) {
        snprintf(fuzz_where, sizeof fuzz_where, "fuzz: round %lu, seed %llu\n", i,
                 (unsigned long long)seed);
        fuzz_state = seed * 1000003 + i;
        uint8_t *s = fuzz_seed(fuzz_random(seeds), &n), *b = malloc(n + 256);
        memcpy(b, s, n);
        free(s);
        for (uint32_t k = 1 + fuzz_random(5); k; k--)
            n = fuzz_damage(b, n, n + 32);
        /* Exactly n bytes, so that one byte too far is seen. */
        uint8_t *exact = malloc(n ? n : 1);
        memcpy(exact, b, n);
        free(b);
        LLVMFuzzerTestOneInput(exact, n);
        free(exact);
    }
    printf("%s: %lu rounds, seed %llu, nothing found\n", argv[0], rounds, (unsigned long long)seed);
    return 0;
}
#endif

#endif
