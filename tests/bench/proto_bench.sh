#!/bin/sh
# The weft command beside go tool pprof on the same big made-up profile: CPU seconds (user and
# system), by turns, medians, as ratios. There is no folded output in pprof, so collapse stands
# beside -raw, which is what collapsers of pprof profiles start from; flame beside -svg would need
# graphviz, so it stands beside -raw as well.
#
#   tests/bench/proto_bench.sh [ROUNDS [STACKS [FUNCTIONS]]]      B is the build directory
set -eu
cd "$(dirname "$0")/../.."
B=${B:-build}
rounds=${1:-3} stacks=${2:-200000} functions=${3:-20000}
weft=${WEFT:-$B/weft} make_profile=${MAKE_PROFILE:-$B/tests/bench/make_profile}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT INT TERM

"$make_profile" "$dir/big.pb.gz" "$stacks" "$functions"
go=$(go env GOTOOLDIR)/pprof
[ -x "$go" ] || go="go tool pprof"
echo "go        $(go version)"
echo "rounds    $rounds, alternating; medians of CPU seconds"
echo

# CPU seconds of a command, children included; the shell's own time is below 10 ms.
cpu() {
    { TIMEFORMAT='%U %S' bash -c 'time "$@" >/dev/null 2>&1' bash "$@"; } 2>&1 |
        sed 's/[a-z]*//g' | awk 'NF >= 1 { for (i = 1; i <= NF; i++) s += $i } END { print s }'
}

median() {
    sort -n "$1" | awk '{ v[NR] = $1 } END { print v[int((NR + 1) / 2)] }'
}

compare() { # name, pprof's flag, weft's words
    name=$1 flag=$2
    shift 2
    : >"$dir/weft" && : >"$dir/go"
    i=0
    while [ "$i" -lt "$rounds" ]; do
        cpu "$weft" "$@" "$dir/big.pb.gz" >>"$dir/weft"
        # shellcheck disable=SC2086 # the fallback is three words
        PPROF_TMPDIR=$dir cpu $go "$flag" "$dir/big.pb.gz" >>"$dir/go"
        i=$((i + 1))
    done
    w=$(median "$dir/weft") g=$(median "$dir/go")
    awk -v n="$name" -v f="$flag" -v w="$w" -v g="$g" \
        'BEGIN { printf "%-10s %6.2f s   pprof %-5s %6.2f s   1/%.0f\n", n, w, f, g, g / w }'
}

compare top -top top
compare collapse -raw collapse
compare flame -raw flame
