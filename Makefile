# Weft. `make demo` is the main job, `make check` the tests; both first install what is missing (tools/deps).
# `make` builds everything under build/; `make help` lists the targets. Lists of sources are explicit: a file
# that is not listed is not part of Weft, and tools/tidy finds one that was forgotten.

ifeq ($(origin CC),default)
CC := gcc
endif
OBJCOPY ?= objcopy
PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
DESTDIR ?=
CFLAGS  ?= -O2 -g
JOBS    ?= 2

# MODE=asan|tsan|ubsan|arm64 builds the same things with other flags into build/MODE.
MODE :=
B    := build$(if $(MODE),/$(MODE))

# -Wall -Wextra      what gcc and clang agree is suspicious
# -Wshadow           an inner name that hides an outer one is read wrongly
# -Wstrict-prototypes, -Wmissing-prototypes   each call is checked; each global function is declared in a header
# -Wpointer-arith    arithmetic on void * hides the element size
# -Wwrite-strings    string literals are const
# -Werror            only with WERROR=1: a newer compiler's new warning must not break somebody's build
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith -Wwrite-strings \
	$(if $(WERROR),-Werror)

# -fno-omit-frame-pointer       the walker follows frame pointers
# -ftls-model=initial-exec      a lazy TLS access in a signal handler would call malloc
# -fno-plt, -z now (below)      nor may a handler bind a symbol
# -fvisibility=hidden           only what says WEFT_API is exported
BASE := -std=gnu11 -D_GNU_SOURCE -pthread -I. -Iruntime -Iprofiler -I$(B) -fPIC -fvisibility=hidden \
	-fno-omit-frame-pointer -fno-plt -ftls-model=initial-exec

SAN_asan  := -fsanitize=address
SAN_tsan  := -fsanitize=thread -DWEFT_TEST_FORK
SAN_ubsan := -fsanitize=undefined -fno-sanitize-recover=undefined
SAN_arm64 := -DWEFT_TEST_FORK
SAN := $(SAN_$(MODE))
ALL_CFLAGS := $(BASE) $(CFLAGS) $(WARN) $(SAN)
ifeq ($(MODE),arm64)
CC := aarch64-linux-gnu-gcc
LD := aarch64-linux-gnu-ld
OBJCOPY := aarch64-linux-gnu-objcopy
endif

# ---- sources, room by room ----

RUNTIME := runtime/chan.c runtime/g.c runtime/lock.c runtime/runq.c runtime/select.c \
	runtime/stack.c runtime/timer.c runtime/tls.c runtime/wait.c
RUNTIME_ASM := runtime/switch_$(if $(findstring aarch64,$(shell $(CC) -dumpmachine)),arm64,amd64).S
COLLECT := profiler/collect/gap.c
PROTO := proto/encode.c proto/intern.c proto/profile.c
PRESENT :=
FLAME :=
TOOL :=
DEMO :=

# Signal handler, stack walker, hooks: no instrumentation, which would call into the sanitizer from a handler.
BARE :=
# Public calls whose callers must show in a profile: their last call must not become a jump.
FRAMED := $(DEMO)

TESTS_RUNTIME :=
TESTS_COLLECT :=
TESTS_PROTO :=
TESTS_PRESENT :=
TESTS_TOOLS :=
TESTS_HAZARDS :=
SCRIPTS :=
SCRIPTS_E2E :=

LIBS_PROTO   := -lprotobuf-c -lz
LIBS_PRESENT := -ldw -lelf -lmicrohttpd $(LIBS_PROTO)
LIBS_TOOL    := -lcurl $(LIBS_PROTO) -lm

# ---- what is built ----

obj = $(patsubst %.S,$(B)/obj/%.o,$(patsubst %.c,$(B)/obj/%.o,$(1)))
GEN := $(B)/proto/profile.pb-c.c
GEN_OBJ := $(B)/obj/proto/profile.pb-c.o
RUNTIME_OBJ := $(call obj,$(RUNTIME) $(RUNTIME_ASM))
COLLECT_OBJ := $(call obj,$(COLLECT))
PROTO_OBJ   := $(call obj,$(PROTO)) $(if $(PROTO),$(GEN_OBJ))
FLAME_OBJ   := $(call obj,$(FLAME))
PRESENT_OBJ := $(call obj,$(PRESENT)) $(FLAME_OBJ)
TOOL_OBJ    := $(call obj,$(TOOL))
ALL_OBJ := $(RUNTIME_OBJ) $(COLLECT_OBJ) $(PROTO_OBJ) $(PRESENT_OBJ) $(TOOL_OBJ) $(call obj,$(DEMO))
LIBRARIES := $(B)/libweft.a $(B)/libweft.so $(B)/libweft-core.a

.PHONY: all help check check-run check-asan check-tsan check-ubsan check-arm64 check-e2e check-long lint bench \
	fuzz demo serve install uninstall clean
.DELETE_ON_ERROR:
.SECONDARY:

all: $(LIBRARIES) $(if $(PRESENT),$(B)/libweft-present.so) $(if $(TOOL),$(B)/weft) $(if $(DEMO),$(B)/weft-demo)

help:
	@sed -n 's/^## //p' Makefile

# Objects depend on the flags they were made with, so that CC=clang-14 after a gcc build starts anew.
$(B)/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(ALL_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS)' >$@
$(B)/libdir: FORCE
	@mkdir -p $(@D); echo '$(LIBDIR)' | cmp -s - $@ || echo '$(LIBDIR)' >$@
FORCE:

$(call obj,$(BARE)): private OWN += -fno-sanitize=all -fno-stack-protector
$(call obj,$(FRAMED)): private OWN += -fno-optimize-sibling-calls
$(B)/obj/profiler/collect/load.o: private OWN += -DWEFT_LIBDIR_DEFAULT='"$(LIBDIR)"'
$(B)/obj/profiler/collect/load.o: $(B)/libdir

$(B)/obj/%.o: %.c $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(OWN) -MMD -MP -c $< -o $@
$(B)/obj/%.o: %.S $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(OWN) -MMD -MP -c $< -o $@
$(GEN_OBJ): $(GEN) $(B)/flags
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(OWN) -MMD -MP -c $< -o $@
$(GEN): proto/profile.proto
	@mkdir -p $(@D)
	protoc-c --proto_path=. --c_out=$(B) $<
$(call obj,$(PROTO) $(PRESENT) $(FLAME) $(TOOL)): | $(GEN)
-include $(ALL_OBJ:.o=.d)

# One relocatable object, because an archive loses members that only have constructors; its hidden names become
# local, so that a static link sees the same names as a dynamic one.
$(B)/libweft.a: $(RUNTIME_OBJ) $(COLLECT_OBJ)
	$(LD) -r -o $(B)/weft.o $^
	$(OBJCOPY) --localize-hidden $(B)/weft.o
	rm -f $@ && $(AR) rcs $@ $(B)/weft.o
# The runtime alone, hidden names kept: its tests are linked with this and nothing of profiler/.
$(B)/libweft-core.a: $(RUNTIME_OBJ)
	$(LD) -r -o $(B)/weft-core.o $^
	rm -f $@ && $(AR) rcs $@ $(B)/weft-core.o
# -z defs: needs libc only; -z nodelete: signal handlers and hooks point into it for ever.
$(B)/libweft.so: $(RUNTIME_OBJ) $(COLLECT_OBJ)
	$(CC) $(SAN) -shared -pthread -Wl,-soname,libweft.so.0 -Wl,-z,now,-z,relro,-z,nodelete \
		$(if $(filter asan tsan,$(MODE)),,-Wl,-z,defs) -Wl,--as-needed $^ -o $@
	ln -sf libweft.so $(B)/libweft.so.0
$(B)/libweft-present.so: $(PRESENT_OBJ) $(PROTO_OBJ)
	$(CC) $(SAN) -shared -pthread -Wl,-soname,libweft-present.so -Wl,-z,now,-z,relro,-z,nodelete \
		$(if $(filter asan tsan,$(MODE)),,-Wl,-z,defs) -Wl,--as-needed $^ $(LIBS_PRESENT) -o $@
$(B)/weft: $(TOOL_OBJ) $(FLAME_OBJ) $(PROTO_OBJ)
	$(CC) $(SAN) -pthread -Wl,--as-needed $^ $(LIBS_TOOL) -o $@
$(B)/weft-demo: $(call obj,$(DEMO)) $(B)/libweft.so
	$(CC) $(SAN) -pthread $(call obj,$(DEMO)) -L$(B) -lweft -Wl,-rpath,'$$ORIGIN' -o $@

# ---- tests ----

FORK_OBJ := $(if $(findstring WEFT_TEST_FORK,$(SAN)),$(B)/obj/tests/check_fork.o)
LIBS_TEST := $(if $(FORK_OBJ),,-lcriterion) -lm
bins = $(patsubst %.c,$(B)/%,$(1))
LINK_TEST = @mkdir -p $(@D); echo "link $@"; $(CC) $(SAN) -pthread $^ -Wl,--as-needed $(1) $(LIBS_TEST) -o $@
TEST_SRC := $(TESTS_RUNTIME) $(TESTS_COLLECT) $(TESTS_PROTO) $(TESTS_PRESENT) $(TESTS_TOOLS) $(TESTS_HAZARDS)
-include $(patsubst %.c,$(B)/obj/%.d,$(TEST_SRC))

$(call obj,$(TESTS_PROTO) $(TESTS_PRESENT) $(TESTS_TOOLS)): | $(GEN)
$(call obj,$(TESTS_TOOLS)): private OWN += -DWEFT_BIN='"$(B)/weft"'
$(call bins,$(TESTS_RUNTIME)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(B)/libweft-core.a
	$(call LINK_TEST)
$(call bins,$(TESTS_COLLECT) $(TESTS_HAZARDS)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(RUNTIME_OBJ) $(COLLECT_OBJ)
	$(call LINK_TEST)
$(call bins,$(TESTS_PROTO)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(PROTO_OBJ)
	$(call LINK_TEST,$(LIBS_PROTO))
$(call bins,$(TESTS_PRESENT)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(RUNTIME_OBJ) $(COLLECT_OBJ) $(PRESENT_OBJ) $(PROTO_OBJ)
	$(call LINK_TEST,$(LIBS_PRESENT))
$(call bins,$(TESTS_TOOLS)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(PROTO_OBJ) | $(B)/weft
	$(call LINK_TEST,$(LIBS_PROTO))

# ASan: coroutines that weft_run abandoned still hold memory, which is no leak; a test that expects SIGSEGV gets it.
# TSan: the first report ends the test. Coroutine switches are announced to both.
ENV_asan  := ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allow_user_segv_handler=1
ENV_tsan  := TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1
ENV_ubsan := UBSAN_OPTIONS=print_stacktrace=1
RUN := env $(ENV_$(MODE)) B=$(B) WEFT_LIBDIR=$(abspath $(B)) tests/run -j $(JOBS) -l $(B)/log
SUB = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))

## check          builds everything, runs all core tests, ends with "N passed, N failed"
check:
	@tools/deps build test
	@$(SUB) check-run
check-run: all $(call bins,$(TEST_SRC))
	@$(RUN) $(call bins,$(TEST_SRC)) $(if $(MODE),,$(SCRIPTS))

## check-asan     the same tests under AddressSanitizer; check-tsan, check-ubsan: the other two
check-asan check-tsan check-ubsan: check-%san:
	@tools/deps build test
	@$(SUB) MODE=$*san check-run
## check-e2e      the real curl, the real go tool pprof, an installed tree
check-e2e:
	@tools/deps build test e2e
	@$(SUB) all
	@$(RUN) $(SCRIPTS_E2E)
## check-arm64    cross-compiles everything, runs the runtime's tests under qemu
check-arm64:
	@tools/deps build arm64
	@$(SUB) MODE=arm64 arm64-run
arm64-run: $(LIBRARIES) $(call bins,$(TESTS_RUNTIME))
	@$(RUN) $(call bins,$(TESTS_RUNTIME))
## check-long     one minute of stress, plain and under ThreadSanitizer
check-long:
	@tools/deps build test
	@WEFT_STRESS_S=60 $(SUB) check-stress
	@WEFT_STRESS_S=60 $(SUB) MODE=tsan check-stress
check-stress: $(call bins,$(TESTS_STRESS))
	@$(RUN) $(call bins,$(TESTS_STRESS))

## lint           tools/tidy, clang-tidy, cppcheck, shellcheck
lint:
	@tools/deps build lint
	@$(SUB) $(GEN)
	@CC='$(CC)' FLAGS='$(BASE)' JOBS=$(JOBS) tools/lint $(C_SRC)

## bench          Weft beside the same programs in Go, alternating, medians, as ratios
bench:
	@tools/deps build e2e
	@$(SUB) all $(call bins,$(BENCH))
	@B=$(B) tests/bench/run

## fuzz           mutates inputs of the decoders for FUZZ_S seconds each
FUZZ_S ?= 60
fuzz:
	@tools/deps build
	@$(SUB) MODE=asan fuzz-run
fuzz-run: $(call bins,$(FUZZ))
	@for f in $^; do echo "$$f"; timeout -s INT $(FUZZ_S) $$f 1000000000; s=$$?; [ $$s = 124 ] || [ $$s = 0 ] || exit 1; done

## demo           the demo service under load, its profiles and flame graphs in build/demo
demo:
	@tools/deps build test
	@$(SUB) all
	@B=$(B) tools/demo/run
## serve          the demo service, left running
serve:
	@tools/deps build
	@$(SUB) all
	@B=$(B) tools/demo/run --serve

## install        PREFIX=/usr/local DESTDIR=; uninstall removes the same files
HEADERS := runtime/weft.h runtime/weft_net.h runtime/weft_hook.h profiler/weft_pprof.h
VERSION := $(shell sed -n 's/^.define WEFT_VERSION "\(.*\)"/\1/p' runtime/weft.h)
install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/include $(DESTDIR)$(LIBDIR)/pkgconfig
	install -m 755 $(B)/weft $(DESTDIR)$(PREFIX)/bin/weft
	install -m 644 $(HEADERS) $(DESTDIR)$(PREFIX)/include
	install -m 644 $(B)/libweft.a $(DESTDIR)$(LIBDIR)
	install -m 755 $(B)/libweft.so $(DESTDIR)$(LIBDIR)/libweft.so.$(VERSION)
	ln -sf libweft.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libweft.so.0
	ln -sf libweft.so.0 $(DESTDIR)$(LIBDIR)/libweft.so
	install -m 755 $(B)/libweft-present.so $(DESTDIR)$(LIBDIR)
	sed 's|@PREFIX@|$(PREFIX)|; s|@LIBDIR@|$(LIBDIR)|; s|@VERSION@|$(VERSION)|' tools/weft.pc.in \
		>$(DESTDIR)$(LIBDIR)/pkgconfig/weft.pc
uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/weft $(patsubst %,$(DESTDIR)$(PREFIX)/include/%,$(notdir $(HEADERS))) \
		$(patsubst %,$(DESTDIR)$(LIBDIR)/%,libweft.a libweft.so.$(VERSION) libweft.so.0 libweft.so \
		libweft-present.so pkgconfig/weft.pc)

clean:
	rm -rf build
