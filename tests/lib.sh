# For test scripts: `. tests/lib.sh`, then check NAME COMMAND... for each test, and `finish` at the
# end, which prints Criterion's closing line so that tests/run sums programs and scripts alike. A
# script runs in the project's root, with $TMP as its own directory and $B as the build's.
# shellcheck shell=sh

set -u
cd "$(dirname "$0")" || exit 1
while [ ! -f Makefile ] && [ "$PWD" != / ]; do
    cd ..
done
B=${B:-build}
export B
TMP=$(mktemp -d "${TMPDIR:-/tmp}/weft-test.XXXXXX")
lib_passed=0
lib_failed=0
lib_finished=no
# Processes to end when the script ends: spawn adds to it.
lib_pids=
lib_cleanup() {
    lib_status=$?
    for lib_pid in $lib_pids; do
        kill "$lib_pid" 2>/dev/null
    done
    rm -rf "$TMP"
    [ $lib_finished = yes ] || echo "$0: ended early" >&2
    exit $lib_status
}
trap lib_cleanup EXIT
trap 'exit 1' INT TERM HUP

# check NAME COMMAND ARGS...: passes when the command (or function) succeeds.
check() {
    lib_name=$1
    shift
    if "$@" >"$TMP/check.out" 2>&1; then
        lib_passed=$((lib_passed + 1))
        printf '[PASS] %s\n' "$lib_name"
    else
        lib_failed=$((lib_failed + 1))
        printf '[FAIL] %s: %s\n' "$lib_name" "$*"
        tail -n 20 "$TMP/check.out" | sed 's/^/[----] /'
    fi
}

# spawn COMMAND ARGS...: in the background, ended with the script; its id in $spawned.
spawn() {
    "$@" &
    spawned=$!
    lib_pids="$lib_pids $spawned"
}

# eventually SECONDS COMMAND...: tries again every 50 ms until it succeeds; a bound on hanging, not
# a delay.
eventually() {
    lib_tries=$(($1 * 20))
    shift
    while [ $lib_tries -gt 0 ]; do
        if "$@" >/dev/null 2>&1; then
            return 0
        fi
        sleep 0.05
        lib_tries=$((lib_tries - 1))
    done
    "$@"
}

finish() {
    lib_finished=yes
    lib_tested=$((lib_passed + lib_failed))
    printf '[====] Synthesis: Tested: %d | Passing: %d | Failing: %d | Crashing: 0\n' \
        $lib_tested $lib_passed $lib_failed
    [ $lib_failed -eq 0 ]
    exit $?
}
