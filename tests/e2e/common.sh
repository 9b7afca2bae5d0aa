# For the end-to-end scripts: tests/lib.sh, the demo service on free ports, and requests by the real
# curl. Without curl or go a script fails; it does not skip.
# shellcheck shell=sh
# shellcheck source=tests/lib.sh
. "$(dirname "$0")/../lib.sh"

unset WEFT_PPROF WEFT_PPROF_TOKEN WEFT_PPROF_HOSTS WEFT_HEAP_RATE WEFT_BLOCK_RATE \
    WEFT_MUTEX_FRACTION WEFT_DEBUG WEFT_LIBDIR
export PPROF_TMPDIR="$TMP/pprof" GOTOOLCHAIN=local
# go builds pprof when it is first used, and needs a place to keep it.
[ -n "${HOME:-}${XDG_CACHE_HOME:-}${GOCACHE:-}" ] || export GOCACHE="$TMP/go-cache"

# The last line tells the sums in words; tests/run reads the one before.
finish_e2e() {
    lib_finished=yes
    (finish) || :
    echo "$lib_passed passed, $lib_failed failed"
    [ "$lib_failed" -eq 0 ]
    exit $?
}

for tool in curl go; do
    command -v $tool >/dev/null 2>&1 || {
        check "$tool is here" false
        finish_e2e
    }
done

# request URL [CURL ARGS...]: status in $code, headers in $TMP/head, body in $TMP/body.
request() {
    request_url=$1
    shift
    rm -f "$TMP/head" "$TMP/body"
    code=$(curl -sS --noproxy '*' -m 60 -D "$TMP/head" -o "$TMP/body" -w '%{http_code}' "$@" \
        "$request_url") || return 1
    [ -f "$TMP/body" ] || : >"$TMP/body"
}

# answers CODE URL [CURL ARGS...]: the status is CODE; what came is shown when it is not.
answers() {
    want_code=$1
    shift
    request "$@" || return 1
    [ "$code" = "$want_code" ] && return 0
    echo "status $code, not $want_code:"
    cat "$TMP/head"
    head -c 300 "$TMP/body" | tr -d '\0'
    return 1
}

# header PATTERN: the last answer has a header line that matches; no_header: has none.
header() {
    tr -d '\r' <"$TMP/head" | grep -qiE "^$1\$" || {
        echo "no header $1 in:"
        cat "$TMP/head"
        return 1
    }
}
no_header() {
    ! grep -qiE "^$1" "$TMP/head"
}

# body_is TEXT: the last answer's body is this one line.
body_is() {
    printf '%s\n' "$1" | cmp -s - "$TMP/body" || {
        echo "the body is not \"$1\" but:"
        head -c 300 "$TMP/body"
        return 1
    }
}

# has FILE REGEX...: each is found in the file.
has() {
    has_file=$1
    shift
    for has_pattern; do
        grep -qE -e "$has_pattern" "$has_file" || {
            echo "no \"$has_pattern\" in:"
            head -n 60 "$has_file" | cut -c 1-200
            return 1
        }
    done
}

# pprof ARGS...: the real go tool pprof; what it prints in $TMP/pprof.out, and any warning fails.
pprof() {
    go tool pprof "$@" >"$TMP/pprof.out" 2>"$TMP/pprof.err" </dev/null || {
        cat "$TMP/pprof.err"
        return 1
    }
    # Of the lines on stderr only the progress of a fetch is expected.
    if grep -vE '^(Fetching profile over HTTP from |Please wait|Saved profile in |$)' \
        "$TMP/pprof.err"; then
        return 1
    fi
}

# start_demo BINARY [ARGS...]: on ports that the kernel picks; $service and $profiles are the URLs.
start_demo() {
    demo_binary=$1
    shift
    : >"$TMP/demo.log"
    spawn "$demo_binary" --listen 127.0.0.1:0 --pprof 127.0.0.1:0 "$@" >"$TMP/demo.log" 2>&1
    eventually 20 grep -q '^weft-demo: profiles ' "$TMP/demo.log" || {
        cat "$TMP/demo.log"
        return 1
    }
    service=$(sed -n 's|^weft-demo: service  \(http://.*\)/$|\1|p' "$TMP/demo.log")
    profiles=$(sed -n 's|^weft-demo: profiles \(http://.*\)/$|\1|p' "$TMP/demo.log")
}

# start_load: on the running service, until the script ends; its id in $spawned.
start_load() {
    spawn "$B/weft-demo" load --to "${service#http://}" --seconds 600 >"$TMP/load.log" 2>&1
}
