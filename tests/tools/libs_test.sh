#!/bin/sh
# What the libraries need and what they export, and what install puts where.
. "$(dirname "$0")/../lib.sh"

# The functions that the public headers declare, and the names that the collector takes over.
declared() {
    cat runtime/weft*.h profiler/weft_pprof.h | sed 's|/\*.*\*/||' | tr '\n' ' ' |
        sed 's|[;{}]|\n|g' | sed -n 's/^.*WEFT_API/WEFT_API/p' | sed 's/__attribute__.*//' |
        grep -o 'weft_[a-z0-9_]* *(' | tr -d ' (' | sort -u
}

{ declared && grep -v '^weft_' profiler/collect/exports.list; } | sort -u >"$TMP/want"

exports_of_so() {
    nm -D --defined-only "$1" | awk '{ print $3 }' | sed 's/@.*//' | sort -u >"$TMP/have"
    diff "$2" "$TMP/have"
}
# In the archive hidden names are local; what is left global is what a static link sees.
exports_of_a() {
    nm -g --defined-only "$1" | awk 'NF == 3 { print $3 }' | sort -u >"$TMP/have"
    diff "$2" "$TMP/have"
}
needs() {
    readelf -d "$1" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort >"$TMP/needed"
    cat "$TMP/needed"
    printf '%s\n' "$2" | diff - "$TMP/needed"
}
listed() {
    grep '^weft_' profiler/collect/exports.list | sort -u >"$TMP/listed"
    declared | diff - "$TMP/listed"
}
has_flag() {
    readelf -d "$1" | grep -q "$2"
}
no_profiler_inside() {
    ! nm "$B/libweft-core.a" | grep -E ' [TDBUtdb] (pf_|weft_pprof|pb_)'
}
no_executable_stack() {
    readelf -lW "$1" | grep GNU_STACK | grep -qv RWE
}

check "the list names what the headers declare" listed
check "libweft.so needs libc only" needs "$B/libweft.so" libc.so.6
check "libweft.so exports the headers' names and the list" exports_of_so "$B/libweft.so" "$TMP/want"
check "libweft.a exports the same" exports_of_a "$B/libweft.a" "$TMP/want"
echo weft_present_open >"$TMP/present"
check "libweft-present.so exports one name" exports_of_so "$B/libweft-present.so" "$TMP/present"
check "libweft.so binds at start" has_flag "$B/libweft.so" 'BIND_NOW\|Flags:.*NOW'
check "libweft.so is never unloaded" has_flag "$B/libweft.so" NODELETE
check "libweft.so asks for no executable stack" no_executable_stack "$B/libweft.so"
check "libweft-core.a holds nothing of the profiler" no_profiler_inside

# ---- install and uninstall, with the real script and a directory of our own ----

export PREFIX=/opt/weft LIBDIR=/opt/weft/lib DESTDIR="$TMP/dest" VERSION=9.8.7
files() {
    (cd "$TMP/dest" && find . ! -type d | sort) >"$TMP/files"
    cat "$TMP/files"
    diff "$TMP/files" - <<'LIST'
./opt/weft/bin/weft
./opt/weft/include/weft.h
./opt/weft/include/weft_hook.h
./opt/weft/include/weft_net.h
./opt/weft/include/weft_pprof.h
./opt/weft/lib/libweft-present.so
./opt/weft/lib/libweft.a
./opt/weft/lib/libweft.so
./opt/weft/lib/libweft.so.0
./opt/weft/lib/libweft.so.9.8.7
./opt/weft/lib/pkgconfig/weft.pc
LIST
}
cat >"$TMP/hello.c" <<'C'
#include <weft.h>
#include <weft_net.h>
#include <weft_pprof.h>
static int first(int argc, char **argv)
{
    return argc > 1 && argv[1][0] == 'x' ? 7 : 1;
}
int main(int argc, char **argv)
{
    return weft_run(first, argc, argv);
}
C
# pkg-config gives paths below PREFIX; the sysroot variable puts DESTDIR before them.
with_pkg_config() {
    export PKG_CONFIG_PATH="$TMP/dest$LIBDIR/pkgconfig" PKG_CONFIG_SYSROOT_DIR="$TMP/dest"
    [ "$(pkg-config --modversion weft)" = 9.8.7 ] || return 1
    # shellcheck disable=SC2046 # a list of flags
    ${CC:-gcc} "$TMP/hello.c" $(pkg-config --cflags --libs weft) -o "$TMP/hello" || return 1
    LD_LIBRARY_PATH="$TMP/dest$LIBDIR" "$TMP/hello" x
    [ $? -eq 7 ]
}
with_archive() {
    ${CC:-gcc} "$TMP/hello.c" -I"$TMP/dest$PREFIX/include" "$TMP/dest$LIBDIR/libweft.a" -pthread \
        -o "$TMP/hello" || return 1
    "$TMP/hello" x
    [ $? -eq 7 ]
}
nothing_left() {
    [ -z "$(find "$TMP/dest" ! -type d)" ]
}

check "install" tools/install install
check "install puts these files" files
check "a program against the installed library" with_pkg_config
check "a program with the installed archive" with_archive
check "uninstall" tools/install uninstall
check "uninstall leaves nothing" nothing_left
finish
