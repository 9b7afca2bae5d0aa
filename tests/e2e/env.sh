#!/bin/sh
# WEFT_PPROF: programs with no profiling code in them, linked with libweft.so and with libweft.a,
# with coroutines and without, before and after daemon(); and a profiler that is free again half a
# second after its client was killed.
# shellcheck source=tests/e2e/common.sh
. "$(dirname "$0")/common.sh"

CC=${CC:-gcc}
build=$PWD/$B
case $B in
/*) build=$B ;;
esac

cat >"$TMP/coro.c" <<'C'
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "weft.h"

__attribute__((noinline)) static void burn_here(void)
{
    for (volatile int i = 0; i < 1000000; i++) {
    }
}
static void burner(void *arg)
{
    (void)arg;
    for (;;) {
        burn_here();
        weft_yield();
    }
}
static int app(int argc, char **argv)
{
    (void)argc, (void)argv;
    weft_go(burner, NULL);
    weft_sleep(120 * INT64_C(1000000000));
    return 0;
}
int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[2], "daemon") == 0 && daemon(1, 1))
        return 1;
    FILE *f = fopen(argv[1], "w");
    fprintf(f, "%d\n", (int)getpid());
    fclose(f);
    return weft_run(app, argc, argv);
}
C
# No coroutine and no call of Weft that could make one.
cat >"$TMP/plain.c" <<'C'
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "weft.h"

int main(int argc, char **argv)
{
    if (argc > 2 && strcmp(argv[2], "daemon") == 0 && daemon(1, 1))
        return 1;
    FILE *f = fopen(argv[1], "w");
    fprintf(f, "%d %s\n", (int)getpid(), weft_version());
    fclose(f);
    sleep(120);
    return 0;
}
C

compile() {
    for name in coro plain; do
        $CC -g -O2 -fno-omit-frame-pointer -Iruntime "$TMP/$name.c" -L"$build" -lweft \
            -Wl,-rpath,"$build" -o "$TMP/$name-shared" &&
            $CC -g -O2 -fno-omit-frame-pointer -Iruntime "$TMP/$name.c" -L"$build" \
                -Wl,-Bstatic -lweft -Wl,-Bdynamic -pthread -o "$TMP/$name-static" || return 1
    done
    if ldd "$TMP/coro-static" | grep libweft; then
        return 1
    fi
}

# free_port: one that the kernel has just given to somebody else, in $port.
free_port() {
    start_demo "$B/weft-demo" || return 1
    port=${service##*:}
    kill "$spawned"
    wait "$spawned" 2>/dev/null
    :
}

# begin PROGRAM MODE ADDR: started with WEFT_PPROF=ADDR; its own id is in $pid.
begin() {
    rm -f "$TMP/pid"
    WEFT_PPROF=$3 WEFT_LIBDIR=$build "$TMP/$1" "$TMP/pid" "$2" >"$TMP/out" 2>&1 </dev/null &
    child=$!
    lib_pids="$lib_pids $child"
    eventually 10 test -s "$TMP/pid" || return 1
    read -r pid _ <"$TMP/pid"
    lib_pids="$lib_pids $pid"
    if [ "$2" = daemon ]; then
        wait "$child" && [ "$child" != "$pid" ]
    else
        [ "$child" = "$pid" ]
    fi
}
end() {
    kill "$pid"
    [ ! -s "$TMP/out" ] || {
        echo "it said:"
        cat "$TMP/out"
        return 1
    }
}

# coro LINK MODE: CPU, coroutines and heap of a program with coroutines.
coro() {
    free_port && begin "coro-$1" "$2" "127.0.0.1:$port" || return 1
    url=http://127.0.0.1:$port/debug/pprof
    eventually 10 answers 200 "$url/goroutine?debug=1" && has "$TMP/body" 'app\+0x' &&
        answers 200 "$url/cmdline" && tr '\0' ' ' <"$TMP/body" | grep -q "coro-$1 .* $2" &&
        answers 200 "$url/heap" && gzip -t <"$TMP/body" &&
        pprof -top -seconds 1 "$url/profile" &&
        has "$TMP/pprof.out" "^File: coro-$1\$" ' burn_here$' && end
}
# plain LINK MODE: a program without coroutines.
plain() {
    free_port && begin "plain-$1" "$2" "127.0.0.1:$port" || return 1
    url=http://127.0.0.1:$port/debug/pprof
    eventually 10 answers 200 "$url/heap?debug=1" && answers 200 "$url/cmdline" &&
        tr '\0' ' ' <"$TMP/body" | grep -q "plain-$1 .* $2" && end
}
unix_socket() {
    begin coro-shared stay "unix:$TMP/weft-%p.sock" &&
        eventually 10 answers 200 http://localhost/debug/pprof/heap \
            --unix-socket "$TMP/weft-$pid.sock" && gzip -t <"$TMP/body" && end
}
# A bad value is one line, and the program goes on.
bad_address() {
    begin coro-shared stay nonsense && eventually 5 grep -q nonsense "$TMP/out" || return 1
    sleep 0.2
    kill -0 "$pid" && [ "$(wc -l <"$TMP/out")" -eq 1 ] && has "$TMP/out" WEFT_PPROF && kill "$pid"
}
taken() {
    free_port && begin coro-shared stay "127.0.0.1:$port" || return 1
    first=$pid
    eventually 10 answers 200 "http://127.0.0.1:$port/debug/pprof/" &&
        begin coro-shared stay "127.0.0.1:$port" &&
        eventually 5 grep -q "127.0.0.1:$port" "$TMP/out" && kill -0 "$pid" &&
        [ "$(wc -l <"$TMP/out")" -eq 1 ] && kill "$pid" "$first"
}

# victim: a curl that has the profiler for 30 seconds; its id in $victim.
victim() {
    curl -sSv --noproxy '*' -o "$TMP/never" "$url/profile?seconds=30" 2>"$TMP/trace" &
    victim=$!
    lib_pids="$lib_pids $victim"
    eventually 10 grep -q '^> GET' "$TMP/trace" && sleep 0.3 &&
        answers 500 "$url/profile?seconds=1"
}
# killed SIGNAL PROGRAM: curl dies in the middle of 30 seconds; half a second later the profiler
# takes the next one.
killed() {
    free_port && begin "$2" stay "127.0.0.1:$port" || return 1
    url=http://127.0.0.1:$port/debug/pprof
    eventually 10 answers 200 "$url/" || return 1
    for round in 1 2 3; do
        echo "round $round"
        victim || return 1
        kill "-$1" "$victim"
        wait "$victim"
        sleep 0.5
        answers 200 "$url/profile?seconds=1" && gzip -t <"$TMP/body" || return 1
    done
    end
}

check "programs, shared and static" compile
for link in shared static; do
    check "$link" coro $link stay
    check "$link, after daemon()" coro $link daemon
    check "$link, no coroutines" plain $link stay
    check "$link, no coroutines, after daemon()" plain $link daemon
done
check "unix:/path/%p" unix_socket
check "WEFT_PPROF=nonsense" bad_address
check "a port that is taken" taken
check "curl killed by KILL" killed KILL coro-shared
check "curl killed by TERM" killed TERM coro-static
finish_e2e
