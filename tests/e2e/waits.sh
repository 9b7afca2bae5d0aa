#!/bin/sh
# Eight coroutines in eight different waits, as goroutine?debug=2 and debug=1 tell them; and the
# deadlock report of a program whose profiles are being served (the server's own threads must not
# hide it).
# shellcheck source=tests/e2e/common.sh
. "$(dirname "$0")/common.sh"

CC=${CC:-gcc}
build=$PWD/$B
case $B in
/*) build=$B ;;
esac

cat >"$TMP/waits.c" <<'C'
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "weft_net.h"

static weft_chan *never;
static weft_mutex held = WEFT_MUTEX_INIT;
static weft_wg group = WEFT_WG_INIT;
static int fds[2];

static void waits_send(void *arg)
{
    weft_chan_send(never, arg);
}
static void waits_receive(void *arg)
{
    weft_chan_recv(arg, NULL);
}
static void waits_select(void *arg)
{
    weft_case cases[] = {WEFT_RECV(arg, NULL), WEFT_RECV(arg, NULL)};
    weft_select(cases, 2);
}
static void waits_mutex(void *arg)
{
    (void)arg;
    weft_mutex_lock(&held);
}
static void waits_group(void *arg)
{
    (void)arg;
    weft_wg_wait(&group);
}
static void waits_sleep(void *arg)
{
    (void)arg;
    weft_sleep(INT64_C(3600000000000));
}
static void waits_io(void *arg)
{
    char c;
    weft_read(fds[0], &c, arg != NULL);
}
static void pause_here(void *arg)
{
    (void)arg;
    pause();
}
static void waits_blocking(void *arg)
{
    weft_blocking(pause_here, arg);
}

static int app(int argc, char **argv)
{
    weft_chan *quiet = weft_chan_new(0, 0);
    never = weft_chan_new(0, 0);
    if (argc > 1 && strcmp(argv[1], "deadlock") == 0)
        return weft_chan_recv(never, NULL);
    if (pipe(fds))
        return 1;
    weft_mutex_lock(&held);
    weft_wg_add(&group, 1);
    weft_go(waits_send, NULL);
    weft_go(waits_receive, quiet);
    weft_go(waits_select, quiet);
    weft_go(waits_mutex, NULL);
    weft_go(waits_group, NULL);
    weft_go(waits_sleep, NULL);
    weft_go(waits_io, fds);
    weft_go(waits_blocking, NULL);
    weft_sleep(INT64_C(3600000000000));
    return 0;
}
int main(int argc, char **argv)
{
    return weft_run(app, argc, argv);
}
C

compile() {
    $CC -g -O2 -fno-omit-frame-pointer -fno-optimize-sibling-calls -Iruntime "$TMP/waits.c" \
        -L"$build" -lweft -Wl,-rpath,"$build" -o "$TMP/waits"
}

begin() {
    WEFT_PPROF="unix:$TMP/sock" spawn "$TMP/waits" >"$TMP/out" 2>&1
    eventually 10 test -S "$TMP/sock"
}
fetch() {
    answers 200 "http://localhost/debug/pprof/goroutine?debug=$1" --unix-socket "$TMP/sock"
}
settled() {
    fetch 2 && [ "$(grep -c '^goroutine [0-9]* \[' "$TMP/body")" -eq 9 ] &&
        ! grep -qE '\[(runnable|running)' "$TMP/body"
}

# shows FUNCTION STATE: the record that has the function has this state in its brackets.
shows() {
    awk -v want="$1" -v state="$2" '
        /^goroutine / { split($0, part, /[][]/); now = part[2]; sub(/,.*/, "", now) }
        index($0, want "(") == 1 { found++; if (now != state) { print want ": " now; bad = 1 } }
        END { exit bad || found != 1 }' "$TMP/long"
}

# One line, the exit status, and the stack of the one that waits, within a few seconds.
deadlock_is_told() {
    status=0
    WEFT_PPROF="unix:$TMP/dead" timeout 20 "$TMP/waits" deadlock >"$TMP/dead.out" 2>&1 || status=$?
    [ "$status" -eq 2 ] || {
        echo "status $status:"
        cat "$TMP/dead.out"
        return 1
    }
    has "$TMP/dead.out" '^fatal error: all coroutines are asleep - deadlock!$' \
        '^coroutine 1 \[chan receive\]' 'app\+0x'
}

# debug=1 counts the same coroutines.
same_total() {
    fetch 1 && has "$TMP/body" '^goroutine profile: total 9$'
}

check "compile" compile
check "start" begin
check "all are parked" eventually 10 settled
cp "$TMP/body" "$TMP/long" 2>/dev/null || :
check "chan send" shows waits_send "chan send"
check "chan receive" shows waits_receive "chan receive"
check "select" shows waits_select select
check "mutex" shows waits_mutex sync.Mutex.Lock
check "wait group" shows waits_group sync.WaitGroup.Wait
check "sleep" shows waits_sleep sleep
check "IO" shows waits_io "IO wait"
check "blocking call" shows waits_blocking "blocking call"
check "created by" grep -q '^created by app in goroutine 1$' "$TMP/long"
check "debug=1 has the same total" same_total
check "a deadlock beside a server is told" deadlock_is_told
finish_e2e
