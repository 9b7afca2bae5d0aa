#!/bin/sh
# make demo's script, run from a copy of what was built: what it prints and leaves behind, every
# claim it makes checked with the real go tool pprof after the programs are gone, and what it and
# weft-demo say when something is wrong.
# shellcheck source=tests/e2e/common.sh
. "$(dirname "$0")/common.sh"

names="profile heap allocs block mutex goroutine"
copy=$TMP/copy
out=$copy/demo

# copy_build DIR: the programs and libraries, where they can be taken away.
copy_build() {
    mkdir -p "$1" &&
        cp -P "$B/weft" "$B/weft-demo" "$B/libweft.so" "$B/libweft.so.0" "$B/libweft-present.so" \
            "$1"
}

# nothing_runs DIR: no process runs a program of DIR.
nothing_runs() {
    for proc in /proc/[0-9]*; do
        case $(readlink "$proc/exe" 2>/dev/null) in
        "$1"/*)
            echo "$proc is still there"
            return 1
            ;;
        esac
    done
}

# ---- the demo and what it leaves ----

run_demo() {
    begin=$(date +%s)
    B=$copy tools/demo/run >"$TMP/said" 2>&1 || {
        cat "$TMP/said"
        return 1
    }
    took=$(($(date +%s) - begin))
    echo "took $took s"
    [ "$took" -lt 60 ]
}
files() {
    for name in $names; do
        gzip -t "$out/$name.pb.gz" && head -c 600 "$out/$name.svg" | grep -q '<svg' &&
            tail -c 20 "$out/$name.svg" | grep -q '</svg>' || return 1
    done
    [ "$(find "$out" -name '*.part' | wc -l)" -eq 0 ]
}
words() {
    for name in $names; do
        has "$TMP/said" "^==== $name ====\$" "$out/$name.pb.gz" "$out/$name.svg" || return 1
    done
    [ "$(grep -c '^Showing nodes' "$TMP/said")" -eq 12 ] &&
        [ "$(grep -c '^-- go tool pprof -top ' "$TMP/said")" -eq 6 ] &&
        has "$TMP/said" '[0-9]% in hash_line' '[0-9]% of it was taken by leak_remember' \
            '[0-9]% of it by churn_string' '[0-9]% of the time in slow_wait_for_answer' \
            '[0-9]% of the waiting ended at the unlock' '[0-9]% of them serve a connection'
}
# The figure of a function that weft top prints is the one that pprof prints.
same_figures() {
    for pair in profile:hash_line heap:leak_remember allocs:churn_string mutex:sum_add_locked; do
        file=$out/${pair%:*}.pb.gz
        pprof -top -cum -nodecount=100000 -nodefraction=0 "$file" || return 1
        wanted=$(awk -v f="${pair#*:}" '$6 == f { print $1, $2, $4, $5 }' "$TMP/pprof.out")
        "$B/weft" top --cum -n 100000 "$file" >"$TMP/weft.out" || return 1
        found=$(awk -v f="${pair#*:}" '$6 == f { print $1, $2, $4, $5 }' "$TMP/weft.out")
        if [ -z "$wanted" ] || [ "$wanted" != "$found" ]; then
            echo "${pair#*:}: pprof \"$wanted\", weft \"$found\""
            return 1
        fi
    done
}

# ---- its claims; the programs are gone by now ----

# top_row FILE ARGS...: name and share of the first row of pprof -top.
top_row() {
    pprof -top "$@" || return 1
    awk 'seen { sub(/%$/, "", $2); print $6, int($2); exit } $1 == "flat" { seen = 1 }' \
        "$TMP/pprof.out" >"$TMP/row"
    read -r row_name row_share <"$TMP/row"
}
# cum_share FUNCTION ARGS...: its cumulative share, in whole percent, in $cum.
cum_share() {
    cum_function=$1
    shift
    pprof -top -cum -nodecount=100000 -nodefraction=0 "$@" || return 1
    cum=$(awk -v f="$cum_function" '$6 == f { sub(/%$/, "", $5); print int($5) }' \
        "$TMP/pprof.out")
    [ -n "$cum" ] || {
        echo "$cum_function is not there:"
        cat "$TMP/pprof.out"
        return 1
    }
}
# at_line FILE FUNCTION TEXT: the function's own frame stands at the line of routes.c with TEXT.
at_line() {
    line=$(grep -nF "$3" tools/demo/routes.c | cut -d: -f1)
    pprof -top -lines -nodecount=100000 -nodefraction=0 "$1" &&
        has "$TMP/pprof.out" " $2 .*tools/demo/routes\.c:$line( |\$)"
}
cpu_names() {
    pprof -top -lines "$out/profile.pb.gz" && has "$TMP/pprof.out" '^File: weft-demo$' \
        '^Type: cpu$' ' hash_mix .*tools/demo/routes\.c:[0-9]+ \(inline\)$' &&
        cum_share hash_line "$out/profile.pb.gz" && [ "$cum" -ge 20 ]
}
# The chain, leaf first, as -traces prints it.
cpu_chain() {
    pprof -traces "$out/profile.pb.gz" || return 1
    tr -s ' \n' ' ' <"$TMP/pprof.out" >"$TMP/chains"
    chain='hash_line hash_page hash_chapter hash_book hash_library route_hash demo_route'
    has "$TMP/chains" "$chain .*connection_main"
}
cpu_label() {
    cum_share hash_line -tagfocus=route=/hash "$out/profile.pb.gz" && [ "$cum" -ge 10 ] &&
        ! grep -q sum_with_lock "$TMP/pprof.out" &&
        cum_share sum_with_lock -tagfocus=route=/sum "$out/profile.pb.gz" &&
        ! grep -q hash_line "$TMP/pprof.out"
}
# A worker that gets no SIGPROF shows as [no stack]; frames of libc without a frame pointer do too.
cpu_walked() {
    pprof -top -cum -nodecount=100000 -nodefraction=0 "$out/profile.pb.gz" || return 1
    lost=$(awk '/\[no stack\]$/ { print int($5) }' "$TMP/pprof.out")
    echo "[no stack]: ${lost:=0} %"
    [ "$lost" -lt 10 ]
}
heap_top() {
    top_row -sample_index=inuse_space "$out/heap.pb.gz" &&
        [ "$row_name" = leak_remember ] && [ "$row_share" -ge 80 ] &&
        has "$TMP/pprof.out" '^Type: inuse_space$'
}
allocs_top() {
    top_row "$out/allocs.pb.gz" && [ "$row_name" = churn_string ] && [ "$row_share" -ge 80 ] &&
        has "$TMP/pprof.out" '^Type: alloc_space$' &&
        at_line "$out/allocs.pb.gz" churn_string 'char *s = malloc(n);'
}
mutex_unlock() {
    cum_share sum_add_locked "$out/mutex.pb.gz" && [ "$cum" -ge 80 ] &&
        at_line "$out/mutex.pb.gz" sum_add_locked 'weft_mutex_unlock(&sum_lock);'
}
block_receive() {
    cum_share slow_wait_for_answer "$out/block.pb.gz" && [ "$cum" -ge 20 ] &&
        at_line "$out/block.pb.gz" slow_wait_for_answer 'weft_chan_recv(answers, &number);'
}
goroutines() {
    cum_share connection_main "$out/goroutine.pb.gz" && [ "$cum" -ge 5 ] &&
        pprof -tags "$out/goroutine.pb.gz" && has "$TMP/pprof.out" '^ *route: Total' '/slow$'
}
no_strangers() {
    for name in $names; do
        pprof -top -nodecount=100000 -nodefraction=0 "$out/$name.pb.gz" || return 1
        if grep -E '  (0x[0-9a-f]+|<unknown>|\[weft-demo\]|\[libweft.*\])$' "$TMP/pprof.out"; then
            return 1
        fi
    done
}

# ---- the service's routes ----

# sum MODE: the total and the median of 15 times in microseconds, into $total and $median.
sum() {
    : >"$TMP/sums"
    while [ "$(wc -l <"$TMP/sums")" -lt 15 ]; do
        answers 200 "$service/sum?$1" && cat "$TMP/body" >>"$TMP/sums" || return 1
    done
    total=$(sed 's/^sum=\([0-9]*\) .*/\1/' "$TMP/sums" | sort -u)
    median=$(sed 's/.*took_us=//' "$TMP/sums" | sort -n | sed -n 8p)
}
sum_cure() {
    sum workers=4 || return 1
    locked=$median
    locked_total=$total
    sum 'workers=4&mode=channel' || return 1
    echo "4 workers: lock $locked us, channel $median us"
    [ "$total" = "$locked_total" ] && [ "$locked" -gt "$median" ]
}
bad_requests() {
    for query in workers=0 workers=65 workers=x workers= mode=x; do
        answers 400 "$service/sum?$query" || return 1
    done
    answers 404 "$service/nope" && body_is '/nope: no such route; / lists them' &&
        answers 405 "$service/" -X DELETE && answers 413 "$service/" -X GET -d x &&
        answers 431 "$service/$(head -c 9000 /dev/zero | tr '\0' a)"
}
keep_alive() {
    curl -sS --noproxy '*' -o "$TMP/one" -o "$TMP/two" -w '%{num_connects} ' "$service/" \
        "$service/leak" >"$TMP/connects" && [ "$(cat "$TMP/connects")" = '1 0 ' ] &&
        has "$TMP/one" "href='/sum" && has "$TMP/two" '^kept [0-9]+ bytes'
}
ends_by_itself() {
    "$B/weft-demo" --listen 127.0.0.1:0 --pprof 127.0.0.1:0 --seconds 1 >"$TMP/demo.out"
}

# ---- what goes wrong ----

# refuses STATUS TEXT COMMAND...: that exit status, and one line on stderr that has TEXT.
refuses() {
    want_status=$1
    want_text=$2
    shift 2
    "$@" >"$TMP/stdout" 2>"$TMP/stderr" </dev/null
    got_status=$?
    echo "status $got_status:"
    cat "$TMP/stderr"
    [ "$got_status" -eq "$want_status" ] && [ "$(wc -l <"$TMP/stderr")" -eq 1 ] &&
        grep -qF -e "$want_text" "$TMP/stderr"
}
no_present() {
    copy_build "$TMP/broken" && rm "$TMP/broken/libweft-present.so" || return 1
    refuses 1 'libweft-present.so cannot be opened' env B="$TMP/broken" WEFT_LIBDIR="$TMP/none" \
        tools/demo/run && [ -z "$(find "$TMP/broken/demo" -name '*.pb.gz' -o -name '*.svg')" ]
}
interrupted() {
    copy_build "$TMP/stopped" || return 1
    B=$TMP/stopped tools/demo/run >"$TMP/stopped.out" 2>&1 &
    pid=$!
    eventually 20 grep -q 'fetching six profiles' "$TMP/stopped.out" || return 1
    kill "$pid"
    ! wait "$pid" && eventually 2 nothing_runs "$TMP/stopped"
}
serves() {
    copy_build "$TMP/served" || return 1
    B=$TMP/served tools/demo/run --serve >"$TMP/served.out" 2>&1 &
    pid=$!
    eventually 20 grep -q 'Ctrl-C ends it' "$TMP/served.out" &&
        url=$(sed -n 's/^demo: the service  *//p' "$TMP/served.out") && answers 200 "$url" &&
        url=$(sed -n 's/^demo: its profiles  *//p' "$TMP/served.out") && answers 200 "$url"
    served=$?
    kill "$pid"
    wait "$pid"
    [ "$served" -eq 0 ] && eventually 2 nothing_runs "$TMP/served"
}

check "a copy of the programs" copy_build "$copy"
check "tools/demo/run" run_demo
check "nothing of it still runs" nothing_runs "$copy"
check "six profiles, six pictures" files
check "tables and words" words
check "weft top and pprof agree" same_figures
rm -f "$copy"/weft* "$copy"/lib*
check "profile: names, files, lines, inlined helper" cpu_names
check "profile: the chain of /hash" cpu_chain
check "profile: routes as labels" cpu_label
check "profile: nearly all of it has stacks" cpu_walked
check "heap: leak_remember on top" heap_top
check "allocs: churn_string on top" allocs_top
check "mutex: the unlocking function" mutex_unlock
check "block: the receive of /slow" block_receive
check "goroutine: connections, labels" goroutines
check "no frame without a name" no_strangers

check "the service starts" start_demo "$B/weft-demo"
check "/sum: the channel is the cure" sum_cure
check "requests that are refused" bad_requests
check "keep-alive" keep_alive
check "--seconds" ends_by_itself

busy=${service#http://}
check "unknown flag" refuses 2 '--liste: unknown flag' "$B/weft-demo" --liste 127.0.0.1:0
check "no value" refuses 2 '--listen: needs a value' "$B/weft-demo" --listen
check "bad number" refuses 2 '--seconds: "x"' "$B/weft-demo" --seconds x
check "bad address" refuses 1 '--listen nowhere: not an address' "$B/weft-demo" --listen nowhere
check "bad profile address" refuses 1 '--pprof 127.0.0.1:99999: not an address' "$B/weft-demo" \
    --listen 127.0.0.1:0 --pprof 127.0.0.1:99999
check "port in use" refuses 1 "--listen $busy: Address already in use" "$B/weft-demo" \
    --listen "$busy" --pprof 127.0.0.1:0
check "profile port in use" refuses 1 "--pprof $busy: Address already in use" "$B/weft-demo" \
    --listen 127.0.0.1:0 --pprof "$busy"
check "load: no --to" refuses 2 'load: --to' "$B/weft-demo" load
check "load: nobody there" refuses 1 'load: 127.0.0.1:1: Connection refused' "$B/weft-demo" load \
    --to 127.0.0.1:1
check "load: a route that fails" refuses 1 '/nope: status 404' "$B/weft-demo" load --to "$busy" \
    --seconds 1 --path /nope
check "run: unknown word" refuses 2 '--fast: unknown' tools/demo/run --fast
check "run: nothing is built" refuses 1 'is not built' env B="$TMP/nothing" tools/demo/run
check "run: no present half" no_present
check "run: interrupted" interrupted
check "run: --serve" serves
finish_e2e
