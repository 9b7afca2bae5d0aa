#!/bin/sh
# /debug/pprof of a running service, asked by the real curl and read by the real go tool pprof:
# every endpoint, every line of the error table, the text forms, and what clients do to a server.
# shellcheck source=tests/e2e/common.sh
. "$(dirname "$0")/common.sh"

snapshots="allocs block goroutine heap mutex threadcreate"

# ---- index, redirects, what is outside ----

index() {
    answers 200 "$profiles/" && header 'content-type: text/html; charset=utf-8' &&
        header 'x-content-type-options: nosniff' && no_header x-go-pprof || return 1
    sed -n "s/.*<a href='\([a-z]*\)?debug=1'>\([a-z]*\)<.*/\1 \2/p" "$TMP/body" >"$TMP/rows"
    for name in $snapshots profile; do
        grep -qx "$name $name" "$TMP/rows" || {
            echo "no row for $name:"
            cat "$TMP/body"
            return 1
        }
    done
    sort -c "$TMP/rows"
}
no_slash() {
    answers 301 "$profiles" && header "location: /debug/pprof/"
}
unclean_path() {
    answers 301 "${profiles%/debug/pprof}//debug/pprof/heap?debug=1" --path-as-is &&
        header 'location: /debug/pprof/heap\?debug=1' &&
        answers 301 "$profiles/../pprof/heap" --path-as-is && header 'location: /debug/pprof/heap'
}
outside() {
    answers 404 "${profiles%/debug/pprof}/elsewhere" && no_header x-go-pprof
}

# ---- snapshots ----

# snapshot NAME: headers, gzip, and a profile that pprof takes.
snapshot() {
    answers 200 "$profiles/$1" && header 'content-type: application/octet-stream' &&
        header "content-disposition: attachment; filename=\"$1\"" &&
        header 'x-content-type-options: nosniff' && no_header x-go-pprof &&
        no_header content-encoding && gzip -t <"$TMP/body" && pprof -raw "$TMP/body"
}
heap_types() {
    snapshot heap && has "$TMP/pprof.out" '^PeriodType: space bytes' '^Period: 524288' \
        '^alloc_objects/count alloc_space/bytes inuse_objects/count inuse_space/bytes' &&
        ! grep -q '^Duration' "$TMP/pprof.out"
}
allocs_types() {
    snapshot allocs && has "$TMP/pprof.out" \
        '^alloc_objects/count alloc_space/bytes\[dflt\] inuse_objects/count inuse_space/bytes'
}
count_types() {
    snapshot "$1" && has "$TMP/pprof.out" "^PeriodType: $1 count" '^Period: 1$' "^$1/count"
}
contention_types() {
    snapshot "$1" && has "$TMP/pprof.out" '^PeriodType: contentions count' '^Period: 1$' \
        '^contentions/count delay/nanoseconds'
}
lenient() {
    for query in 'debug=abc' 'debug=0' 'seconds=' 'gc=1' 'unknown=1'; do
        answers 200 "$profiles/heap?$query" && gzip -t <"$TMP/body" || return 1
    done
}
http10() {
    answers 200 "$profiles/goroutine" --http1.0 && gzip -t <"$TMP/body"
}
slow_reader() {
    answers 200 "$profiles/goroutine?debug=2" && size=$(wc -c <"$TMP/body") &&
        [ "$size" -gt 0 ] && answers 200 "$profiles/allocs" --limit-rate 20000 &&
        gzip -t <"$TMP/body"
}

# ---- text; what all coroutines do at one moment may not be there at the next: tried again ----

text() {
    answers 200 "$profiles/$1?debug=$2" && header 'content-type: text/plain; charset=utf-8' &&
        no_header content-disposition
}
heap_text() {
    text "$1" 1 && head -n 1 "$TMP/body" |
        grep -qE '^heap profile: [0-9]+: [0-9]+ \[[0-9]+: [0-9]+\] @ heap/1048576$' &&
        go tool pprof -raw "$TMP/body" </dev/null
}
block_text() {
    text block 1 && head -n 1 "$TMP/body" | grep -qx -e '--- contention:' &&
        has "$TMP/body" '^cycles/second=[0-9]+$' 'slow_wait_for_answer'
}
mutex_text() {
    text mutex 1 && head -n 1 "$TMP/body" | grep -qx -e '--- mutex:' &&
        has "$TMP/body" '^cycles/second=[0-9]+$' '^sampling period=1$'
}
goroutine_text() {
    text goroutine 1 && has "$TMP/body" '^goroutine profile: total [0-9]+$' \
        '^#	0x[0-9a-f]+	connection_main\+0x[0-9a-f]+	.*http\.c:[0-9]+$' \
        '^# labels: \{"route":"/slow"\}$' || return 1
    total=$(sed -n '1s/.* //p' "$TMP/body")
    sum=$(awk '$2 == "@" { n += $1 } END { print n }' "$TMP/body")
    [ "$total" = "$sum" ]
}
goroutine_long() {
    text goroutine 2 && has "$TMP/body" '^goroutine [0-9]+ \[IO wait[],]' \
        '^goroutine [0-9]+ \[chan receive[],]' '^goroutine [0-9]+ \[sleep[],]' \
        '^created by demo_http_serve' || return 1
    awk '/^goroutine / { if ($0 !~ /^goroutine [0-9]+ \[[^]]+\]:$/) { print; bad = 1 } }
        END { exit bad }' "$TMP/body"
}

# ---- the CPU profile ----

now_ms() {
    date +%s%3N
}
profile() {
    begin=$(now_ms)
    answers 200 "$profiles/profile?seconds=1" || return 1
    took=$(($(now_ms) - begin))
    if [ "$took" -lt 1000 ] || [ "$took" -ge 4000 ]; then
        echo "took $took ms"
        return 1
    fi
    header 'content-type: application/octet-stream' &&
        header 'content-disposition: attachment; filename="profile"' && no_header x-go-pprof &&
        pprof -raw "$TMP/body" && has "$TMP/pprof.out" '^PeriodType: cpu nanoseconds' \
        '^Period: 10000000' '^Duration: 1\.' '^samples/count cpu/nanoseconds' 'hash_line' ||
        return 1
    # value[1] = value[0] x period in each sample
    awk '/^Locations/ { exit } NF >= 3 && $1 ~ /^[0-9]+$/ && $2 ~ /^[0-9]+:$/ {
        n++; if ($1 * 10000000 != $2 + 0) bad = 1 } END { exit bad || !n }' "$TMP/pprof.out"
}
# While one runs: the second is told so, pprof prints it, snapshots go on.
profile_busy() {
    curl -sS --noproxy '*' -o "$TMP/first.gz" "$profiles/profile?seconds=4" &
    first=$!
    sleep 0.5
    busy='Could not enable CPU profiling: cpu profiling already in use'
    answers 500 "$profiles/profile?seconds=1" && error_shape && body_is "$busy" || return 1
    if go tool pprof -top -seconds 1 "$profiles/profile" >"$TMP/pprof.out" 2>&1; then
        return 1
    fi
    grep -q "$busy" "$TMP/pprof.out" || {
        cat "$TMP/pprof.out"
        return 1
    }
    many=
    for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        curl -sSf --noproxy '*' -o "$TMP/many.$i" "$profiles/goroutine" &
        many="$many $!"
    done
    for pid in $many; do
        wait "$pid" || return 1
    done
    wait "$first" && gzip -t <"$TMP/first.gz"
}
# Go takes 30 seconds for a number it does not like; the request must wait, not fail.
profile_default() {
    for query in '?seconds=abc' '?seconds=-1' '?seconds=0' ''; do
        begin=$(now_ms)
        curl -sS --noproxy '*' -m 1 -o /dev/null "$profiles/profile$query"
        [ $? -eq 28 ] && [ $(($(now_ms) - begin)) -ge 1000 ] || return 1
        # The profiler is free again.
        eventually 1 answers 200 "$profiles/profile?seconds=1" || return 1
    done
}

# ---- errors ----

error_shape() {
    header 'content-type: text/plain; charset=utf-8' && header 'x-go-pprof: 1' &&
        header 'x-content-type-options: nosniff' && no_header content-disposition &&
        [ "$(wc -l <"$TMP/body")" -eq 1 ]
}
# error CODE PATH LINE
error() {
    answers "$1" "$profiles/$2" && error_shape && body_is "$3"
}
delta_later() {
    for name in $snapshots; do
        answers 501 "$profiles/$name?seconds=1" && error_shape || return 1
    done
}
methods() {
    for method in POST PUT DELETE; do
        answers 405 "$profiles/heap" -X "$method" && error_shape && header 'allow: GET, HEAD' ||
            return 1
    done
    answers 405 "$profiles/symbol" -X PUT && header 'allow: .*POST.*'
}
head_only() {
    answers 200 "$profiles/heap" -I && header 'content-disposition: .*"heap"' &&
        no_header x-go-pprof
}
foreign_host() {
    request "$profiles/heap" -H 'Host: evil.example' && [ "$code" -ge 400 ] &&
        answers 200 "$profiles/heap" -H 'Host: localhost'
}

# ---- cmdline, symbol ----

cmdline() {
    answers 200 "$profiles/cmdline" && header 'content-type: text/plain; charset=utf-8' || return 1
    printf '%s\0--listen\000127.0.0.1:0\0--pprof\000127.0.0.1:0' "$B/weft-demo" |
        cmp - "$TMP/body"
}
symbol() {
    answers 200 "$profiles/symbol" && body_is 'num_symbols: 1' &&
        text goroutine 1 || return 1
    set -- "$(awk '$3 ~ /^demo_route\+/ { print $2; exit }' "$TMP/body")" \
        "$(awk '$3 ~ /^accept_all\+/ { print $2; exit }' "$TMP/body")"
    [ -n "$1" ] && [ -n "$2" ] || return 1
    printf 'num_symbols: 1\n%s demo_route\n%s accept_all\n' "$1" "$2" >"$TMP/want"
    answers 200 "$profiles/symbol" -H 'Content-Type: application/octet-stream' \
        --data-binary "$1+0x1+junk+$2" && cmp "$TMP/want" "$TMP/body" &&
        answers 200 "$profiles/symbol?$1+$2" && cmp "$TMP/want" "$TMP/body" || return 1
    printf 'num_symbols: 1\n%s demo_route\n' "$1" >"$TMP/want"
    answers 200 "$profiles/symbol?$(printf '%d' "$1")" && cmp "$TMP/want" "$TMP/body" &&
        answers 200 "$profiles/symbol?$1%2b$2" && body_is 'num_symbols: 1'
}

# ---- go tool pprof as people use it ----

pprof_cpu() {
    pprof -top -seconds 1 "${profiles%/debug/pprof}" &&
        has "$TMP/pprof.out" '^File: weft-demo$' '^Type: cpu$' ' hash_line$' ' hash_mix \(inline\)$'
}
pprof_snapshot() {
    pprof -top "$profiles/$1" && has "$TMP/pprof.out" "^Type: $2\$" "$3"
}

check "the service starts" start_demo "$B/weft-demo"
start_load
# Something of everything is there when each route has answered.
eventually 20 curl -sSf --noproxy '*' -o /dev/null "$service/slow"
sleep 2

check "index" index
check "no trailing slash: redirect" no_slash
check "unclean path: redirect" unclean_path
check "outside: an ordinary 404" outside
check "heap" heap_types
check "allocs" allocs_types
check "goroutine" count_types goroutine
check "threadcreate" count_types threadcreate
check "block" contention_types block
check "mutex" contention_types mutex
check "parameters that mean nothing" lenient
check "HTTP/1.0" http10
check "a slow reader" slow_reader
check "HEAD" head_only
check "heap?debug=1" heap_text heap
check "allocs?debug=1" heap_text allocs
check "block?debug=1" block_text
check "mutex?debug=1" mutex_text
check "goroutine?debug=1" eventually 10 goroutine_text
check "goroutine?debug=2" eventually 10 goroutine_long
check "threadcreate?debug=1" text threadcreate 1
check "profile?seconds=1" profile
check "a second profile" profile_busy
check "seconds that mean 30" profile_default
for name in nope heap/ cmdline/ profile/ trace; do
    check "404: $name" error 404 $name 'Unknown profile'
done
for seconds in abc -1 0 1.5; do
    check "400: seconds=$seconds" error 400 "heap?seconds=$seconds" \
        'invalid value for "seconds" - must be a positive integer'
done
check "400: seconds and debug" error 400 'heap?seconds=1&debug=1' \
    'seconds and debug params are incompatible'
check "400: seconds and debug=2" error 400 'goroutine?seconds=1&debug=2' \
    'seconds and debug params are incompatible'
check "501: seconds on a snapshot" delta_later
check "405: methods" methods
check "a foreign Host" foreign_host
check "cmdline" cmdline
check "symbol" eventually 10 symbol
check "go tool pprof http://HOST:PORT" pprof_cpu
check "go tool pprof .../heap" pprof_snapshot heap inuse_space ' leak_remember$'
check "go tool pprof .../allocs" pprof_snapshot allocs alloc_space ' churn_string$'
check "go tool pprof .../block" pprof_snapshot block delay ' slow_wait_for_answer$'
check "go tool pprof .../mutex" pprof_snapshot mutex delay ' sum_add_locked$'
check "go tool pprof .../goroutine" pprof_snapshot goroutine goroutine ' connection_main$'
finish_e2e
