#!/bin/sh
# A program built with a sanitizer and linked with the plain libweft, shared and static: our malloc
# yields, so the program starts, and AddressSanitizer still finds its bugs. Also: the static library
# in a fully static program, and a program that never calls Weft with the library preloaded.
# shellcheck disable=SC2016 # programs for awk and sh, in single quotes
. "$(dirname "$0")/../../lib.sh"

cat >"$TMP/program.c" <<'C'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "weft.h"

static int first(int argc, char **argv)
{
    volatile int index = 100, gone = 1;
    char *p = malloc(100), *q = calloc(3, 5), *r = aligned_alloc(64, 128);
    if (!p || !q || !r || !(q = realloc(q, 4000)))
        return 3;
    memset(p, 1, 100);
    free(r);
    if (argc > 1 && !strcmp(argv[1], "overflow"))
        p[index] = 1;
    free(p);
    if (argc > 1 && !strcmp(argv[1], "uaf"))
        return q[0] + p[gone];
    free(q);
    puts("fine");
    return 0;
}
int main(int argc, char **argv)
{
    return weft_run(first, argc, argv);
}
C

shared="-L$B -lweft -Wl,-rpath,$(cd "$B" && pwd)"
static="$B/libweft.a -pthread"

# program NAME COMPILER LIBRARY FLAGS...
program() {
    name=$1 cc=$2 lib=$3
    shift 3
    # shellcheck disable=SC2086 # a list of flags
    $cc -g -Iruntime "$@" "$TMP/program.c" $lib -o "$TMP/$name"
}
fine() {
    "$TMP/$1" >"$TMP/out" 2>&1 && grep -q '^fine$' "$TMP/out"
}
reported() { # NAME MODE WHAT
    "$TMP/$1" "$2" >"$TMP/out" 2>&1
    grep -q "AddressSanitizer: $3" "$TMP/out" && grep -q 'program.c:' "$TMP/out"
}
asan() { # NAME COMPILER LIBRARY
    check "$1: links" program "$1" "$2" "$3" -fsanitize=address
    check "$1: runs" fine "$1"
    check "$1: overflow is found" reported "$1" overflow heap-buffer-overflow
    check "$1: use after free is found" reported "$1" uaf heap-use-after-free
}

asan gcc_shared gcc "$shared"
asan gcc_static gcc "$static"
if command -v clang-14 >/dev/null 2>&1; then
    asan clang_shared clang-14 "$shared"
    asan clang_static clang-14 "$static"
fi
check "leak sanitizer, static: links" program leak gcc "$static" -fsanitize=leak
check "leak sanitizer, static: runs" fine leak
check "undefined sanitizer, static: links" program undef gcc "$static" -fsanitize=undefined
check "undefined sanitizer, static: runs" fine undef
check "fully static: links" program whole gcc "$static" -static
check "fully static: runs" fine whole

# Loaded late, when other libraries have used up static thread-local space (H55).
cat >"$TMP/late.c" <<'C'
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
static __thread char hog[4096];
int main(int argc, char **argv)
{
    void *h = dlopen(argv[argc - 1], RTLD_NOW | RTLD_LOCAL);
    const char *(*version)(void) = h ? (const char *(*)(void))dlsym(h, "weft_version") : NULL;
    hog[argc] = 1;
    free(malloc(100));
    if (!version || !version())
        return printf("%s\n", dlerror());
    dlclose(h);
    free(malloc(100));
    return hog[argc] - 1;
}
C
late() {
    gcc "$TMP/late.c" -o "$TMP/late" && "$TMP/late" "$B/libweft.so"
}
check "loaded late by dlopen" late

preloaded() {
    want=$("$@") && got=$(LD_PRELOAD="$B/libweft.so" "$@") && [ "$want" = "$got" ]
}
check "preloaded: ls" preloaded ls /usr/include
check "preloaded: sort" preloaded sort -R --random-source=/bin/sh Makefile
check "preloaded: awk" preloaded awk '{ n[$1]++ } END { print length(n) }' Makefile
check "preloaded: sh with children" preloaded sh -c 'for i in 1 2 3; do expr $i + 1; done | cat'
finish
