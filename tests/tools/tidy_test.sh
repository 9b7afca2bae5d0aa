#!/bin/sh
# tools/tidy against a small good tree, against one bad sample per rule, and against this tree.
. "$(dirname "$0")/../lib.sh"

tidy=$PWD/tools/tidy

# good_tree DIR: the smallest tree that breaks no rule.
good_tree() {
    rm -rf "$1"
    mkdir -p "$1/runtime" "$1/proto" "$1/profiler/collect" "$1/profiler/present" "$1/tools"
    mkdir -p "$1/tests/runtime" "$1/tests/proto"
    printf 'weft_a\nmalloc\n' >"$1/profiler/collect/exports.list"
    printf 'SRC := a.c b.c main.c\nTESTS := a b\n' >"$1/Makefile"
    printf '#include "weft_b.h"\nWEFT_API int weft_a(void);\n' >"$1/runtime/weft_a.h"
    echo 'enum { B = 1 };' >"$1/runtime/weft_b.h"
    echo 'int rt_a(void);' >"$1/runtime/rt.h"
    cat >"$1/runtime/a.c" <<'C'
/* What it does. */
#include "rt.h"
#include <stdint.h>
static int local(void)
{
    return 1;
}
__attribute__((noinline)) int rt_a(void)
{
    return local();
}
void *malloc(size_t n)
{
    return 0;
}
struct outside {
    int (*call)(void);
};
C
    printf '/* B. */\n#include <zlib.h>\nint pb_b(void)\n{\n    return 1;\n}\n' >"$1/proto/b.c"
    printf '/* M. */\n#include "runtime/weft_a.h"\nint main(void)\n{\n}\n' >"$1/tools/main.c"
    echo '/* T. */' >"$1/tests/runtime/a_test.c"
    echo '/* T. */' >"$1/tests/proto/b_test.c"
}

silent() {
    "$tidy" "$1" >"$TMP/out" 2>&1
    was=$?
    cat "$TMP/out"
    [ "$was" -eq 0 ] && [ ! -s "$TMP/out" ]
}

# finds RULE FILE: exactly one finding in the tree, of that rule, in that file.
finds() {
    if "$tidy" "$TMP/tree" >"$TMP/out" 2>&1; then
        echo "no finding"
        return 1
    fi
    cat "$TMP/out"
    [ "$(wc -l <"$TMP/out")" -eq 1 ] && grep -q "^$2:[0-9]*: $1: " "$TMP/out"
}

# bad RULE FILE TEXT: that text at the end of that file is found.
bad() {
    good_tree "$TMP/tree"
    # shellcheck disable=SC2059 # the text is a format
    printf "$3" >>"$TMP/tree/$2"
    check "$1 in $2: $(printf %.40s "$3" | tr '\n' ' ')" finds "$1" "$2"
}

good_tree "$TMP/tree"
check "a good tree has no findings" silent "$TMP/tree"

bad arrow runtime/a.c '#include "profiler/collect/collect.h"\n'
bad arrow runtime/a.c '#include <zlib.h>\n'
bad arrow proto/b.c '#include "runtime/weft_hook.h"\n'
bad arrow proto/b.c '#include "weft_a.h"\n'
bad arrow tools/main.c '#include "runtime/rt.h"\n'
bad arrow tools/main.c '#include "rt.h"\n'
bad arrow tools/main.c '#include "profiler/collect/collect.h"\n'
bad arrow tools/main.c '#include <microhttpd.h>\n'
bad arrow runtime/weft_a.h '#include "rt.h"\n'
bad length runtime/a.c "/* $(printf '%0100d' 0) */\\n"
bad length Makefile "# $(printf '%0100d' 0)\\n"
bad length runtime/a.c "static void f(void)\\n{\\n$(printf '    g();\\n%.0s' $(seq 71))}\\n"
bad length runtime/rt.h "$(printf '/* */\\n%.0s' $(seq 900))"
bad name runtime/a.c 'int helper(void)\n{\n    return 1;\n}\n'
bad name runtime/a.c 'int pf_helper(int a,\n              int b)\n{\n    return 1;\n}\n'
bad name proto/b.c 'struct x *rt_helper(void)\n{\n    return 1;\n}\n'
bad name runtime/weft_a.h 'WEFT_API int rt_x(void);\n'
bad mark runtime/a.c '/* TO''DO later */\n'
bad mark proto/b.c '/* FIX''ME */\n'
bad mark Makefile '# X''XX\n'
bad path runtime/a.c '/* see /ro''ot/x */\n'
bad path Makefile 'X := /wo''rk/main\n'
bad space runtime/a.c '\tint x;\n'
bad space Makefile 'A := 1 \n'
bad space runtime/a.c '/* no end of line */'

good_tree "$TMP/tree"
sed -i 1d "$TMP/tree/runtime/a.c"
check "opening: a .c without a comment" finds opening runtime/a.c
good_tree "$TMP/tree"
rm "$TMP/tree/tests/proto/b_test.c"
check "test: a source without its test" finds test proto/b.c
good_tree "$TMP/tree"
sed -i 's/ b[.]c//' "$TMP/tree/Makefile"
check "list: a source that the Makefile does not name" finds list proto/b.c
good_tree "$TMP/tree"
sed -i 's/ b$//' "$TMP/tree/Makefile"
check "list: a test that the Makefile does not name" finds list tests/proto/b_test.c

# Words that contain a mark, wide characters, and braces inside functions are no findings.
good_tree "$TMP/tree"
{
    echo '/* mktemp X''X''XX''XX, HA''CKING */'
    echo "/* $(printf 'é%.0s' $(seq 90)) */"
    printf 'static int f(void)\n{\n    if (1) {\n    }\n    return 1;\n}\n'
    printf 'static int table[] = {\n    1,\n};\n'
} >>"$TMP/tree/runtime/a.c"
check "what only looks like a finding" silent "$TMP/tree"

check "this tree" silent .
finish
