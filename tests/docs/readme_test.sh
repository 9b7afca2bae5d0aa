#!/bin/sh
# The README's program compiles as it is shown, runs, and its profile is served with no code; the
# files and the make targets that the README and docs/ name are there.
. "$(dirname "$0")/../lib.sh"

CC=${CC:-gcc}
flags="-std=gnu11 -Wall -Wextra -Werror -O2 -fno-omit-frame-pointer -Iruntime -Iprofiler"
awk '/^```c$/ { on = 1; next } /^```$/ { on = 0 } on' README.md >"$TMP/program.c"

lines() {
    n=$(wc -l <"$TMP/program.c")
    echo "$n lines"
    [ "$n" -ge 15 ] && [ "$n" -le 30 ]
}
# shellcheck disable=SC2086 # a list of flags
shared() {
    $CC $flags "$TMP/program.c" -L"$B" -lweft -Wl,-rpath,"$PWD/$B" -pthread -o "$TMP/shared"
}
# shellcheck disable=SC2086 # a list of flags
static() {
    $CC $flags "$TMP/program.c" "$B/libweft.a" -pthread -o "$TMP/static"
}
prints_squares() {
    "$1" >"$TMP/out" || return 1
    printf '1\n4\n9\n16\n25\n' | diff - "$TMP/out"
}
links_lead_somewhere() {
    bad=0
    for f in README.md docs/*.md; do
        # shellcheck disable=SC2013 # words, not lines
        for to in $(grep -o '](\([^)]*\))' "$f" | sed 's/^](//; s/[)#].*//' | grep -v '^http'); do
            if [ ! -e "$(dirname "$f")/$to" ]; then
                echo "$f: no $to"
                bad=1
            fi
        done
    done
    [ "$bad" -eq 0 ]
}
targets_exist() {
    bad=0
    # shellcheck disable=SC2013 # words, not lines
    for t in $(grep -ho '\(`\|^    \)make [a-z][a-z0-9-]*' README.md docs/*.md |
        sed 's/.*make //' | sort -u); do
        if ! grep -qE "^([a-z -]* )?$t( [a-z -]*)?:" Makefile; then
            echo "no target $t"
            bad=1
        fi
    done
    [ "$bad" -eq 0 ]
}
# Sources cite hazards as H7 (profilers) and R22 (runtimes); each must be told in HAZARDS.md.
hazards_are_told() {
    bad=0
    for h in $(find runtime profiler proto tools tests -name '*.[chS]' -exec cat {} + |
        grep -o '\b[HR][1-9][0-9]*\b' | sort -u); do
        letter=p
        [ "${h%%[0-9]*}" = R ] && letter=r
        if ! grep -q "^- \*\*$letter${h#?}\*\* " docs/HAZARDS.md; then
            echo "docs/HAZARDS.md says nothing of $h"
            bad=1
        fi
    done
    [ "$bad" -eq 0 ]
}

check "the program is there" lines
check "compiles with the shared library" shared
check "runs" prints_squares "$TMP/shared"
check "compiles with the archive" static
check "runs, linked static" prints_squares "$TMP/static"
check "links in the documents lead somewhere" links_lead_somewhere
check "make targets in the documents exist" targets_exist
check "hazards that sources cite are told" hazards_are_told
finish
