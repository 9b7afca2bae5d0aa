#!/bin/sh
# A copy of the tree, built and installed elsewhere: programs that are linked with it, shared and
# static, are served by WEFT_PPROF alone, with nothing in the environment that says where Weft is.
. "$(dirname "$0")/../lib.sh"

unset WEFT_LIBDIR
prefix=$TMP/prefix
mkdir "$TMP/tree"
git -c safe.directory='*' ls-files -co --exclude-standard | tar -cf - -T - |
    tar -xf - -C "$TMP/tree"

cat >"$TMP/waits.c" <<'C'
#include <stdio.h>
#include <weft.h>
#include <weft_net.h>
#include <weft_pprof.h>
static int first(int argc, char **argv)
{
    weft_chan *c = weft_chan_new(1, 0);
    (void)argc, (void)argv;
    puts(weft_version());
    fflush(stdout);
    return weft_chan_recv_dl(c, NULL, weft_now() + 60000000000);
}
int main(int argc, char **argv)
{
    return weft_run(first, argc, argv);
}
C

# Of the tools, make is told no jobserver: this is a build of its own.
builds() {
    (cd "$TMP/tree" && env -u MAKEFLAGS -u MAKELEVEL make -j2 CFLAGS=-O1 PREFIX="$prefix" install)
}
# shellcheck disable=SC2046 # a list of flags
links_shared() {
    export PKG_CONFIG_PATH="$prefix/lib/pkgconfig"
    ${CC:-gcc} "$TMP/waits.c" $(pkg-config --cflags --libs weft) -Wl,-rpath,"$prefix/lib" \
        -o "$TMP/waits-shared"
}
links_static() {
    ${CC:-gcc} "$TMP/waits.c" -I"$prefix/include" "$prefix/lib/libweft.a" -pthread \
        -o "$TMP/waits-static"
}
get() {
    curl -sS --fail --unix-socket "$1" "http://localhost/debug/pprof/$2"
}
serves() {
    (cd / && WEFT_PPROF="unix:$TMP/$1.sock" exec "$TMP/$1") >"$TMP/$1.out" 2>&1 &
    lib_pids="$lib_pids $!"
    eventually 10 get "$TMP/$1.sock" 'goroutine?debug=2' || return 1
    get "$TMP/$1.sock" 'goroutine?debug=2' | tee "$TMP/goroutines" | grep -q 'chan receive' ||
        { cat "$TMP/goroutines"; return 1; }
    get "$TMP/$1.sock" heap >"$TMP/heap.pb.gz" && "$prefix/bin/weft" top "$TMP/heap.pb.gz"
}
uninstalls() {
    (cd "$TMP/tree" && env -u MAKEFLAGS -u MAKELEVEL make PREFIX="$prefix" uninstall) &&
        [ -z "$(find "$prefix" ! -type d)" ]
}

check "a copy of the tree builds and installs" builds
check "pkg-config finds it" links_shared
check "the archive links" links_static
check "the shared program serves" serves waits-shared
check "the static program serves" serves waits-static
check "uninstall leaves no file" uninstalls
finish
