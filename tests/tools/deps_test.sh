#!/bin/sh
# tools/deps: what it says and how it ends, with a dpkg-query and an apt-get of our own.
. "$(dirname "$0")/../lib.sh"

# fake NAME: a program in $TMP/fake, its text from standard input. Links to real programs are in a
# directory of their own: writing a fake must never write through one.
mkdir -p "$TMP/fake" "$TMP/real"
fake() {
    { echo '#!/bin/sh' && cat; } >"$TMP/fake/$1"
    chmod +x "$TMP/fake/$1"
}
# with_fakes COMMAND...: only our programs and the shell's usual ones are found.
with_fakes() {
    for lib_tool in sh sed mktemp rm tail env cat grep id; do
        [ -e "$TMP/real/$lib_tool" ] || ln -s "$(command -v "$lib_tool")" "$TMP/real/$lib_tool"
    done
    PATH="$TMP/fake:$TMP/real" "$@"
}
ends() {
    want=$1
    shift
    "$@" >"$TMP/out" 2>&1
    was=$?
    cat "$TMP/out"
    [ "$was" -eq "$want" ]
}
says() {
    grep -q -e "$1" "$TMP/out"
}
quiet() {
    [ ! -s "$TMP/out" ]
}
asked() {
    grep -q -e "$1" "$TMP/asked"
}

check "no group is an error" ends 2 tools/deps
check "an unknown group is an error" ends 2 tools/deps build nonsense
check "nothing missing here after make check: status 0" ends 0 tools/deps build test
check "and not a word" quiet

check "no apt-get: status 1" ends 1 with_fakes tools/deps build
check "no apt-get: the list" says "libmicrohttpd-dev.*curl"

# A machine that has everything but two packages.
# shellcheck disable=SC2016 # the fake's own $
fake dpkg-query <<'EOT'
for p; do
    case $p in
    -*|'${'*) ;;
    libdw-dev) echo "config-files libdw-dev" ;;
    zlib1g-dev | golang-go) ;;
    *) echo "installed $p" ;;
    esac
done
exit 1
EOT
fake id <<'EOT'
echo 0
EOT
fake apt-get <<EOT
echo "\$*" >>"$TMP/asked"
[ ! -e "$TMP/broken" ]
EOT
check "installs" ends 0 with_fakes tools/deps build
check "says what" says "installing zlib1g-dev libdw-dev$"
check "only what is missing" asked "install -y .* zlib1g-dev libdw-dev$"
check "WEFT_DEPS_DRY installs nothing" ends 1 with_fakes env WEFT_DEPS_DRY=1 tools/deps build
check "WEFT_DEPS_DRY says what" says "missing: zlib1g-dev libdw-dev$"

touch "$TMP/broken"
: >"$TMP/asked"
check "a failing apt-get: status 1" ends 1 with_fakes tools/deps build
check "a failing apt-get: names the packages" says "failed for zlib1g-dev libdw-dev"
check "after one update" asked "^update$"

fake id <<'EOT'
echo 1000
EOT
check "neither root nor sudo: status 1" ends 1 with_fakes tools/deps build
check "neither root nor sudo: names the packages" says "no sudo.*zlib1g-dev libdw-dev"
export WEFT_DEPS_DRY=1
check "no go on PATH: status 1" ends 1 with_fakes tools/deps test
check "no go on PATH: golang-go is wanted" says "missing: golang-go$"
fake go </dev/null
check "a go on PATH: it is not" ends 0 with_fakes tools/deps test
finish
