# Weft. `make demo` is the main job, `make check` the tests; both first install what is missing
# (tools/deps). `make` builds everything under build/, `make help` lists the targets. Lists of
# sources are explicit: a file that is not listed is not part of Weft, and tools/tidy finds it.

PREFIX  ?= /usr/local
LIBDIR  ?= $(PREFIX)/lib
CFLAGS  ?= -O2 -g
JOBS    ?= 2
# MODE=asan|tsan|ubsan|arm64 builds the same things with other flags into build/MODE.
MODE :=
B := build$(if $(MODE),/$(MODE))
CROSS := $(if $(filter arm64,$(MODE)),aarch64-linux-gnu-)
ifeq ($(origin CC),default)
CC := $(CROSS)gcc
endif
LD := $(CROSS)ld
OBJCOPY := $(CROSS)objcopy

# -Wall -Wextra         what gcc and clang agree is suspicious
# -Wshadow              an inner name that hides an outer one is read wrongly
# -Wstrict-prototypes   every call is checked
# -Wmissing-prototypes  every global function is declared in a header
# -Wpointer-arith       arithmetic on void * hides the element size
# -Wwrite-strings       string literals are const
# -Werror               with WERROR=1 only: a newer compiler must not break somebody's build
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith \
	-Wwrite-strings $(if $(WERROR),-Werror)

# -fno-omit-frame-pointer    the walker follows frame pointers
# -ftls-model=initial-exec, -fno-plt, -z now    a handler may neither allocate TLS nor bind a symbol
# -fvisibility=hidden        only what says WEFT_API is exported
BASE := -std=gnu11 -D_GNU_SOURCE -pthread -I. -Iruntime -Iprofiler -I$(B) -fPIC \
	-fvisibility=hidden -fno-omit-frame-pointer -fno-plt -ftls-model=initial-exec
# PF_NO_MALLOC_NAMES: under ASan and TSan malloc is theirs.
SAN_asan  := -fsanitize=address -DPF_NO_MALLOC_NAMES
SAN_tsan  := -fsanitize=thread -DPF_NO_MALLOC_NAMES -DWEFT_TEST_FORK
SAN_ubsan := -fsanitize=undefined -fno-sanitize-recover=undefined
SAN_arm64 := -DWEFT_TEST_FORK
SAN := $(SAN_$(MODE))
ALL_CFLAGS := $(BASE) $(CFLAGS) $(WARN) $(SAN)

# ---- sources, room by room ----
RUNTIME := $(addprefix runtime/, block.c chan.c crash.c findwork.c g.c hook.c inspect.c lock.c \
	mutex.c net.c net_addr.c net_file.c once.c poll.c poll_epoll.c proc.c run.c runq.c sched.c \
	select.c stack.c sysmon.c timer.c tls.c wait.c waitgroup.c)
RUNTIME_ASM := runtime/switch_$(if $(findstring aarch64,$(shell $(CC) -dumpmachine)),arm64,amd64).S
COLLECT := $(addprefix profiler/collect/, bucket.c contention.c coroutine.c cpu.c elfname.c gap.c \
	heap.c label.c live.c load.c malloc_hook.c maps.c raw.c ring.c start.c threads.c tls.c unwind.c)
PROTO := $(addprefix proto/, decode.c encode.c fold.c frames.c intern.c measure.c merge.c \
	profile.c stacks.c wire.c)
PRESENT := $(addprefix profiler/present/, assemble.c http.c listen.c open.c route.c symbol.c \
	symbol_dwarf.c symbol_elf.c text.c page/index.c)
FLAME := $(addprefix profiler/present/page/, flame.c flame_assets.c flame_svg.c)
TOOL := $(addprefix tools/, weft.c weft_args.c weft_collapse.c weft_flame.c weft_output.c \
	weft_source.c weft_top.c)
DEMO := $(addprefix tools/demo/, demo.c http.c load.c routes.c)

# No instrumentation in the signal handler, the stack walker and the hooks: it calls the sanitizer.
# TSan holds signals back, and must see the atomics by which the second list hands data over.
BARE := $(addprefix profiler/collect/, bucket.c contention.c elfname.c gap.c heap.c live.c \
	malloc_hook.c tls.c unwind.c $(if $(filter-out tsan,$(MODE)),coroutine.c cpu.c label.c raw.c \
	ring.c threads.c))

tests = $(patsubst %,tests/$(strip $(1))/%_test.c,$(2))
TESTS_RUNTIME := $(call tests,runtime, block chan crash findwork g hook inspect lock mutex \
	net_addr net_file net once poll_epoll poll proc run runq sched select stack sysmon timer tls wait \
	waitgroup)
TESTS_COLLECT := $(call tests,profiler/collect, bucket contention coroutine cpu elfname gap heap \
	label live load malloc_hook maps raw ring start threads tls unwind)
TESTS_HAZARDS := $(call tests,hazards, p09_fork p10_cycles p11_abort p12_altstack p13_small_stack \
	p14_garbage_frame_pointer p17_forbidden_timers p20_errno p23_coroutine_time p28_leaf_caller \
	p33_skew p34_jiffy p35_no_timers_left p37_thread_exit p38_loss p39_heap_bias p41_deep \
	p42_alloc_bootstrap p44_realloc p49_heap_bounds p50_hook_recursion p52_fork_heap \
	p57_foreign_handler p58_signals p61_bounded_table)
TESTS_PROTO := $(call tests,proto, decode encode fold frames intern measure merge profile stacks \
	wire)
TESTS_PRESENT := $(call tests,profiler/present, assemble http listen open route symbol_dwarf \
	symbol_elf symbol text page/flame_assets page/flame_svg page/flame page/index)
TESTS_TOOLS := $(call tests,tools, weft_args weft_collapse weft_flame weft_output weft_source weft \
	weft_top)
STRESS := $(addprefix tests/runtime/, stress_test.c sync_stress.c)
FUZZ := $(addprefix tests/fuzz/, decode_fuzz.c fold_fuzz.c)
BENCH := $(addprefix tests/bench/, core_bench.c make_profile.c malloc_bench.c)
SCRIPTS := $(addprefix tests/, tools/deps_test.sh tools/libs_test.sh tools/tidy_test.sh \
	docs/readme_test.sh profiler/collect/asan_program_test.sh)
SCRIPTS_E2E := $(addprefix tests/e2e/, demo.sh env.sh install_test.sh pprof.sh waits.sh)

LIBS_PROTO   := -lprotobuf-c -lz
LIBS_PRESENT := -ldw -lelf -lmicrohttpd $(LIBS_PROTO)
LIBS_TOOL    := -lcurl $(LIBS_PROTO) -lm

# ---- what is built ----
obj = $(patsubst %,$(B)/obj/%.o,$(basename $(1)))
GEN := $(B)/proto/profile.pb-c.c
RUNTIME_OBJ := $(call obj,$(RUNTIME) $(RUNTIME_ASM))
COLLECT_OBJ := $(call obj,$(COLLECT))
PROTO_OBJ   := $(call obj,$(PROTO) proto/profile.pb-c.c)
FLAME_OBJ   := $(call obj,$(FLAME))
PRESENT_OBJ := $(call obj,$(PRESENT)) $(FLAME_OBJ)
TOOL_OBJ    := $(call obj,$(TOOL))
TEST_SRC := $(TESTS_RUNTIME) $(TESTS_COLLECT) $(TESTS_HAZARDS) $(TESTS_PROTO) $(TESTS_PRESENT) \
	$(TESTS_TOOLS) $(STRESS)
C_SRC := $(RUNTIME) $(COLLECT) $(PROTO) $(PRESENT) $(FLAME) $(TOOL) $(DEMO)
LIBRARIES := $(B)/libweft.a $(B)/libweft.so $(B)/libweft-core.a

.PHONY: all help check check-run check-asan check-tsan check-ubsan check-e2e check-arm64 arm64-run \
	check-long check-stress lint bench fuzz fuzz-run demo serve install uninstall clean FORCE
.DELETE_ON_ERROR:

all: $(LIBRARIES) $(B)/libweft-present.so $(B)/weft $(B)/weft-demo ## libraries and programs
help:
	@awk -F ':.* ## ' '/^[a-z].* ## / { printf "%-34s %s\n", $$1, $$2 }' Makefile

# Objects depend on the flags they were made with: CC=clang-14 after gcc starts anew.
$(B)/flags: FORCE
	@mkdir -p $(@D); echo '$(CC) $(ALL_CFLAGS)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS)' >$@
$(B)/libdir: FORCE
	@mkdir -p $(@D); echo '$(LIBDIR)' | cmp -s - $@ || echo '$(LIBDIR)' >$@

$(call obj,$(BARE)): private OWN += -fno-sanitize=all -fno-stack-protector
# A last call that became a jump would leave the function out of the stacks below it.
$(call obj,$(DEMO) $(RUNTIME)): private OWN += -fno-optimize-sibling-calls
# Its common path pushes nothing; a builtin would fold the very calls it stands for.
$(call obj,profiler/collect/malloc_hook.c): private OWN += -fomit-frame-pointer -fno-builtin
$(call obj,profiler/collect/load.c): private OWN += -DWEFT_LIBDIR_DEFAULT='"$(LIBDIR)"'
$(call obj,profiler/collect/load.c): $(B)/libdir
$(call obj,profiler/present/page/flame_assets.c): profiler/present/page/flame.js \
	profiler/present/page/flame.css
$(call obj,$(TESTS_TOOLS)): private OWN += -DWEFT_BIN='"$(B)/weft"'
$(call obj,$(FUZZ)): private OWN += -DWEFT_FUZZ_MAIN

COMPILE = @mkdir -p $(@D); echo "  CC   $@"; $(CC) $(ALL_CFLAGS) $(OWN) -MMD -MP -c $< -o $@
$(B)/obj/%.o: %.c $(B)/flags
	$(COMPILE)
$(B)/obj/%.o: %.S $(B)/flags
	$(COMPILE)
$(B)/obj/proto/profile.pb-c.o: $(GEN) $(B)/flags
	$(COMPILE)
$(GEN): proto/profile.proto
	@mkdir -p $(@D)
	@echo "  GEN  $@"; protoc-c --proto_path=. --c_out=$(B) $<
$(call obj,$(PROTO) $(PRESENT) $(FLAME) $(TOOL) $(TESTS_PROTO) $(TESTS_PRESENT)): | $(GEN)
$(call obj,$(TESTS_TOOLS) $(FUZZ) $(BENCH)): | $(GEN)
-include $(patsubst %.o,%.d,$(call obj,$(C_SRC) $(TEST_SRC) $(FUZZ) $(BENCH)))

# One relocatable object, because an archive loses members that only have constructors; its hidden
# names become local, so that a static link sees the same names as a dynamic one.
$(B)/libweft.a: $(RUNTIME_OBJ) $(COLLECT_OBJ)
	@echo "  LINK $@"; $(LD) -r -o $(B)/weft.o $^ && $(OBJCOPY) --localize-hidden $(B)/weft.o
	@rm -f $@ && $(AR) rcs $@ $(B)/weft.o
# The runtime alone, hidden names kept: its tests are linked with this, and nothing of profiler/.
$(B)/libweft-core.a: $(RUNTIME_OBJ)
	@echo "  LINK $@"; $(LD) -r -o $(B)/weft-core.o $^
	@rm -f $@ && $(AR) rcs $@ $(B)/weft-core.o
# -z defs: libc is all it needs. -z nodelete: signal handlers and hooks point into it for ever.
SHARED = @echo "  LINK $@"; $(CC) $(SAN) -shared -pthread -Wl,-soname,$(1) -Wl,--as-needed \
	-Wl,-z,now,-z,relro,-z,nodelete $(if $(MODE),,-Wl,-z,defs)
$(B)/libweft.so: $(RUNTIME_OBJ) $(COLLECT_OBJ)
	$(call SHARED,libweft.so.0) $^ -o $@
	@ln -sf libweft.so $(B)/libweft.so.0
$(B)/libweft-present.so: $(PRESENT_OBJ) $(PROTO_OBJ)
	$(call SHARED,libweft-present.so) $^ $(LIBS_PRESENT) -o $@
$(B)/weft: $(TOOL_OBJ) $(FLAME_OBJ) $(PROTO_OBJ)
	@echo "  LINK $@"; $(CC) $(SAN) -pthread $^ -Wl,--as-needed $(LIBS_TOOL) -o $@
$(B)/weft-demo: $(call obj,$(DEMO)) $(B)/libweft.so
	@echo "  LINK $@"; $(CC) $(SAN) -pthread $(filter %.o,$^) -L$(B) -lweft \
		-Wl,-rpath,'$$ORIGIN' -o $@

# ---- tests: one program per test file, linked with the objects of its room ----

FORK_OBJ := $(if $(findstring WEFT_TEST_FORK,$(SAN)),$(call obj,tests/check_fork.c))
bins = $(patsubst %.c,$(B)/%,$(1))
LINK = @mkdir -p $(@D); echo "  LINK $@"; $(CC) $(SAN) -pthread $(filter %.o %.a,$^) \
	-Wl,--as-needed $(1) $(if $(FORK_OBJ),,-lcriterion) -lm -o $@
$(call bins,$(TESTS_RUNTIME) $(STRESS)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(B)/libweft-core.a
	$(call LINK)
$(call bins,$(TESTS_COLLECT) $(TESTS_HAZARDS)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(RUNTIME_OBJ) \
		$(COLLECT_OBJ)
	$(call LINK)
$(call bins,$(TESTS_PROTO)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(PROTO_OBJ)
	$(call LINK,$(LIBS_PROTO))
$(call bins,$(TESTS_PRESENT)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(PRESENT_OBJ) $(PROTO_OBJ)
	$(call LINK,$(LIBS_PRESENT))
$(call bins,$(TESTS_TOOLS)): $(B)/%: $(B)/obj/%.o $(FORK_OBJ) $(PROTO_OBJ) | $(B)/weft
	$(call LINK,$(LIBS_PROTO))
$(call bins,$(FUZZ)): $(B)/%: $(B)/obj/%.o $(PROTO_OBJ) $(FLAME_OBJ)
	@mkdir -p $(@D); $(CC) $(SAN) $^ $(LIBS_PROTO) -lm -o $@
$(call bins,$(BENCH)): $(B)/%: $(B)/obj/%.o $(PROTO_OBJ) $(B)/libweft.so
	@mkdir -p $(@D); $(CC) -pthread $(filter %.o,$^) -L$(B) -lweft -Wl,-rpath,'$$ORIGIN/../..' \
		$(LIBS_PROTO) -lm -o $@

# ASan: coroutines that weft_run abandoned still hold memory, which is no leak; a test that expects
# SIGSEGV gets it. TSan's options are in tests/check_fork.c.
ENV_asan  := ASAN_OPTIONS=detect_leaks=0:handle_segv=0:allow_user_segv_handler=1
ENV_ubsan := UBSAN_OPTIONS=print_stacktrace=1
RUN := env $(ENV_$(MODE)) B=$(B) CC='$(CC)' WEFT_LIBDIR=$(abspath $(B)) \
	WEFT_TEST_MAY_BE_EMPTY=$(MODE) WEFT_TEST_LIMIT_S=$(if $(MODE)$(WEFT_STRESS_S),300,120) \
	tests/run -j $(JOBS) -l $(B)/log
SUB = $(MAKE) --no-print-directory $(if $(findstring -j,$(MAKEFLAGS)),,-j$(JOBS))

check: ## builds everything, runs all core tests, ends with "N passed, N failed"
	@tools/deps build test
	+@$(SUB) check-run
check-run: all $(call bins,$(TEST_SRC))
	@$(RUN) $(call bins,$(TEST_SRC)) $(if $(MODE),,$(SCRIPTS))
check-asan check-tsan check-ubsan: check-%san: ## the test programs under a sanitizer
	@tools/deps build test
	+@$(SUB) MODE=$*san check-run
check-e2e: ## the real curl, the real go tool pprof, an installed tree
	@tools/deps build test e2e
	+@$(SUB) all
	@$(RUN) $(SCRIPTS_E2E)
check-arm64: ## cross-compiles runtime and collector, runs the runtime's tests under qemu
	@tools/deps build arm64
	+@$(SUB) MODE=arm64 arm64-run
# qemu has threads of its own, no epoll_pwait2, and says yes to any advice of madvise.
arm64-run: $(LIBRARIES) $(call bins,$(filter-out %/crash_test.c %/poll_epoll_test.c \
		%/stack_test.c,$(TESTS_RUNTIME)))
	@WEFT_TEST_UNDER="qemu-aarch64-static -L /usr/aarch64-linux-gnu" \
		$(RUN) $(filter-out $(LIBRARIES),$^)
check-long: ## one minute of stress, plain and under ThreadSanitizer
	@tools/deps build test
	+@WEFT_STRESS_S=60 $(SUB) check-stress
	+@WEFT_STRESS_S=60 $(SUB) MODE=tsan check-stress
check-stress: $(call bins,$(STRESS))
	@$(RUN) $^
lint: ## tools/tidy, clang-tidy, cppcheck, shellcheck
	@tools/deps build lint
	+@$(SUB) $(GEN)
	@FLAGS='$(BASE)' JOBS=$(JOBS) tools/lint $(C_SRC)
bench: ## Weft beside the same programs in Go, alternating, medians, as ratios
	@tools/deps build e2e
	+@$(SUB) all $(call bins,$(BENCH))
	@B=$(B) CC='$(CC)' tests/bench/run
FUZZ_ROUNDS ?= 200000
fuzz: ## mutates inputs of the decoders, FUZZ_ROUNDS each, under AddressSanitizer
	@tools/deps build
	+@$(SUB) MODE=asan fuzz-run
fuzz-run: $(call bins,$(FUZZ))
	@for f in $^; do echo "$$f $(FUZZ_ROUNDS)"; $$f $(FUZZ_ROUNDS) || exit 1; done
demo serve: ## the demo under load, profiles and flame graphs in build/demo; or left running
	@tools/deps build test
	+@$(SUB) all
	@B=$(B) tools/demo/run $(patsubst %,--%,$(filter serve,$@))
install: all ## PREFIX=/usr/local DESTDIR=; uninstall removes the same files
install uninstall:
	@B=$(B) PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' DESTDIR='$(DESTDIR)' tools/install $@
clean:
	rm -rf build
