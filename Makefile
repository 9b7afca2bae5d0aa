# Weft. `make demo` is the main job, `make check` the tests; both install what is missing.
# (House targets are still being filled in; see README.)
CC ?= gcc
B := build

# What each flag is for: -fno-omit-frame-pointer: the walker follows frame pointers; -fno-plt and -z now: no lazy
# binding in a signal handler; initial-exec: no lazy TLS there either; -fvisibility=hidden: only WEFT_API is exported.
CFLAGS ?= -O2 -g
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings
ALL_CFLAGS = -std=gnu11 $(CFLAGS) $(WARN) $(if $(WERROR),-Werror) -I. -Iruntime -Iprofiler -fPIC \
	-fvisibility=hidden -fno-omit-frame-pointer -fno-plt -ftls-model=initial-exec -pthread -D_GNU_SOURCE
