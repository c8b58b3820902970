# SPDX-License-Identifier: MIT
# headroom: one Makefile, no recursion but for `check-asan` and `check-tsan`. `make help` lists the targets, V=1 shows the commands.

V       ?= 0
SAN     ?=
WERROR  ?= 1
B       := build/$(if $(SAN),san$(if $(filter thread,$(SAN)),-thread),plain)
ifeq ($(origin CC),default)
CC      := gcc
endif
PKG_CONFIG ?= pkg-config
PYTHON  ?= /usr/bin/python3
CFLAGS  ?= -O2 -g
PYTEST   = $(PYTHON) -m pytest -q -p no:cacheprovider
# Of `make bench`: PROFILE=quick is the two arms once, PROFILE=full every arm, five times.
PROFILE  ?= quick
SCENARIO ?= snapshot swap-crypt cgroup-churn mem-offline storm
KERNEL   ?= default
ifeq ($(PROFILE),full)
ARMS     ?= all
REPEAT   ?= 5
else ifneq ($(PROFILE),quick)
$(error PROFILE=$(PROFILE): must be quick or full)
endif
ARMS     ?= before,after
REPEAT   ?= 1
OUT     ?= results
# guest, or metal: this very machine.
ON      ?= guest
# Of `make bench-recorder`, `make bench-engine`, `make bench-serve` and `make fuzz`:
ROUNDS  ?= 5
SECONDS ?= 600
FUZZ    ?= klog
PKGS    := devmapper jansson inih libkmod libcgroup libtracefs libtraceevent liburing blkid mount
VERSION := $(shell git describe --always --dirty --tags 2>/dev/null || echo unknown)

WARN := -Wall -Wextra -Wshadow -Wvla -Wstrict-prototypes -Wmissing-prototypes -Wformat=2 -Wpointer-arith -Wundef \
        -Wno-format-truncation # a path that does not fit does not open, and that is reported
ALL_CFLAGS = -std=gnu11 -D_GNU_SOURCE -pthread $(WARN) $(if $(filter 1,$(WERROR)),-Werror) -Iruntime -I. -MMD -MP \
             $(SANFLAGS) $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS)
SANFLAGS    = $(if $(SAN),-fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=undefined)
PKG_CFLAGS := $(shell $(PKG_CONFIG) --cflags $(PKGS) 2>/dev/null)
PKG_LIBS   := $(shell $(PKG_CONFIG) --libs $(PKGS) 2>/dev/null)

# runtime/guest/init.c is a program of its own: the guest's first process.
SRCS  := $(filter-out runtime/guest/init.c,$(sort $(wildcard runtime/*.c runtime/*/*.c cgroups/*.c hotplug/*.c workloads/*.c workloads/common/*.c)))
OBJS  := $(SRCS:%.c=$B/%.o)
LIB   := $(filter-out $B/runtime/main.o,$(OBJS))
TESTS := $(patsubst %.c,$B/%,$(sort $(wildcard tests/test_*.c)))
# Of one thread alone, and long: not for ThreadSanitizer.
ENGINE_TESTS := $(filter-out %_proof %_exstore,$(filter $B/tests/test_engine_%,$(TESTS)))
C_FILES  := $(sort $(wildcard runtime/*.[ch] runtime/*/*.[ch] cgroups/*.[ch] hotplug/*.[ch] workloads/*.[ch] workloads/common/*.[ch] tests/*.[ch] tests/bench/*.[ch]))
SH_FILES := $(sort $(wildcard runtime/guest/*.sh tests/*.sh tests/*/*.sh tools/*.sh)) .ci/run

Q   := $(if $(filter 1,$V),,@)
say  = $(if $(filter 1,$V),,@printf '  %-5s %s\n' $1 $2)

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all deps bench bench-recorder bench-engine bench-serve fuzz report test check check-asan check-tsan check-long check-c check-engine guest lint clean help FORCE

all: build/headroom build/headroom-init ## build the suite (build/headroom)

build/headroom: $B/headroom
	$(Q)ln -sf $(patsubst build/%,%,$<) $@
build/headroom-init: $B/headroom-init
	$(Q)ln -sf $(patsubst build/%,%,$<) $@

deps: ## install what is missing to build, run and test (Debian 12 and 13; else: say what is missing)
	$(Q)tools/deps.sh --for $(or $(FOR),test)

# A second make, because only now is pkg-config there to be asked.
bench: ## five scenarios before and after their mitigations, in guests: under 12 min; SCENARIO= KERNEL="6.1 6.12" REPEAT= ARMS= PROFILE=full ON=metal
	$(Q)$(MAKE) --no-print-directory FOR=bench deps
	$(Q)$(MAKE) --no-print-directory all
	$(Q)build/headroom doctor --out $(OUT)
	$(Q)build/headroom run $(SCENARIO) --on $(ON) --out $(OUT) $(addprefix --kernel ,$(KERNEL)) --repeat $(REPEAT) \
		--arms $(ARMS) $(if $(MEMORY),--memory $(MEMORY)) $(if $(SEED),--seed $(SEED))

report: all ## write the report of the newest run (or of RUNS="DIR...") again
	$(Q)runs="$(RUNS)"; [ -n "$$runs" ] || runs=$$(ls -td $(OUT)/*/ 2>/dev/null | head -n 1); \
	[ -n "$$runs" ] || { echo 'make report: there is no run in $(OUT) yet: make bench' >&2; exit 3; }; \
	build/headroom compare $$runs

test: ## everything: unit tests (also under sanitizers), report tests, guest tests
	$(Q)$(MAKE) --no-print-directory FOR=test deps
	$(Q)$(MAKE) --no-print-directory all
	$(Q)$(MAKE) --no-print-directory check check-asan check-tsan
	$(Q)$(MAKE) --no-print-directory guest

check: all $(TESTS) ## unit tests, tests of the command line and of the report: no root, no guest
	$(Q)sh tests/run.sh $(TESTS)
	$(Q)$(PYTEST) tests/cli tests/report

check-asan: ## unit tests under AddressSanitizer and UBSan
	$(Q)$(MAKE) --no-print-directory SAN=address,undefined check-c

# 30 seeds of the snapshot engine's model, which has one thread; the tests with several are all there.
check-tsan: ## the engine's unit tests under ThreadSanitizer
	$(Q)HEADROOM_SEEDS=30 $(MAKE) --no-print-directory SAN=thread check-engine

check-c: $(TESTS)
	$(Q)sh tests/run.sh $(TESTS)

check-engine: $(ENGINE_TESTS)
	$(Q)sh tests/run.sh $(ENGINE_TESTS)

guest: all ## tests that boot guests
	$(Q)$(PYTEST) tests/guest

bench-recorder: ## what the flight recorder costs, against sadc, atop and vmstat + slabtop (ROUNDS=5)
	$(Q)$(MAKE) --no-print-directory FOR=bench-recorder deps || echo 'make bench-recorder: going on with what is there' >&2
	$(Q)$(MAKE) --no-print-directory $B/tests/bench/bench_recorder
	$(Q)$(PYTHON) tests/bench/bench_recorder.py --helper $B/tests/bench/bench_recorder --rounds $(ROUNDS)

bench-engine: ## the copy engine against its peers and the limits of this machine (ROUNDS=5); 8 GiB of disk, 4 GiB of tmpfs
	$(Q)$(MAKE) --no-print-directory FOR=bench-engine deps || echo 'make bench-engine: going on with what is there' >&2
	$(Q)$(MAKE) --no-print-directory $B/tests/bench/bench_engine $B/tests/bench/bench_slab
	$(Q)$(PYTHON) tests/bench/bench_engine.py --helper $B/tests/bench/bench_engine --rounds $(ROUNDS)

bench-serve: ## the NBD server against its peers, first touch on disk and in memory (ROUNDS=5); 2 GiB of disk, 3 GiB of tmpfs
	$(Q)$(MAKE) --no-print-directory FOR=bench-serve deps || echo 'make bench-serve: going on with what is there' >&2
	$(Q)$(MAKE) --no-print-directory all $B/tests/bench/bench_engine $B/tests/bench/nbd_load
	$(Q)$(PYTHON) tests/bench/bench_serve.py --helper $B/tests/bench/bench_engine --rounds $(ROUNDS)

# What is found stays in build/fuzz; `-merge=1` makes of a corpus there what tests/fixtures/*-corpus is.
FUZZ_SRCS := $(if $(filter klog,$(FUZZ)),$(wildcard runtime/record/klog*.c) runtime/base/jsonw.c,\
               $(if $(filter exstore,$(FUZZ)),$(wildcard runtime/engine/*.c),\
               $(if $(filter nbd,$(FUZZ)),$(wildcard runtime/engine/*.c) $(addprefix runtime/serve/,nbd_conn.c nbd_io.c nbd_option.c nbd_server.c evset.c sockets.c),\
               $(error FUZZ=$(FUZZ): must be klog, exstore or nbd))))
fuzz: ## libFuzzer on the kernel-log classifier (FUZZ=klog), snapshot stores (FUZZ=exstore) or the NBD server (FUZZ=nbd); SECONDS=600
	$(Q)$(MAKE) --no-print-directory FOR=fuzz deps
	@mkdir -p build/fuzz/corpus-$(FUZZ)
	$(call say,CC,build/fuzz/fuzz_$(FUZZ))
	$(Q)clang -std=gnu11 -D_GNU_SOURCE -g -O1 -fsanitize=fuzzer,address,undefined -Iruntime tests/fuzz_$(FUZZ).c \
		$(FUZZ_SRCS) -o build/fuzz/fuzz_$(FUZZ) -luring -lcmocka
	$(Q)build/fuzz/fuzz_$(FUZZ) -max_total_time=$(SECONDS) -max_len=16384 -artifact_prefix=build/fuzz/ -print_final_stats=1 \
		build/fuzz/corpus-$(FUZZ) tests/fixtures/$(FUZZ)-corpus $(if $(filter klog,$(FUZZ)),tests/fixtures/kmsg)

# An hour and a half on two CPUs.
check-long: all $(TESTS) ## the engine's models, proofs and fuzz targets, and a server killed 200 times, for a long time (SECONDS=600 for each fuzz target)
	$(Q)HEADROOM_CRASHES=100 HEADROOM_HOSTILE_S=$(SECONDS) $(PYTEST) tests/cli/test_serve.py
	$(Q)HEADROOM_SEEDS=8000 HEADROOM_PROOF_SEEDS=100 TEST_TIMEOUT=7200 sh tests/run.sh $(filter $B/tests/test_engine_%,$(TESTS))
	$(Q)HEADROOM_SEEDS=1000 HEADROOM_PROOF_SEEDS=10 TEST_TIMEOUT=7200 $(MAKE) --no-print-directory SAN=address,undefined check-engine
	$(Q)HEADROOM_SEEDS=200 TEST_TIMEOUT=7200 $(MAKE) --no-print-directory SAN=thread check-engine
	$(Q)$(MAKE) --no-print-directory FUZZ=klog fuzz
	$(Q)$(MAKE) --no-print-directory FUZZ=exstore fuzz
	$(Q)$(MAKE) --no-print-directory FUZZ=nbd fuzz

lint: ## formatting, static analysis, shell scripts
	$(call say,LINT,clang-format)
	$(Q)clang-format --dry-run -Werror $(C_FILES)
	$(call say,LINT,cppcheck)
# invalidFunctionArg: its posix.cfg takes the -1 of an anonymous mmap for a mistake. registry.c walks a linker section.
	$(Q)cppcheck --quiet --error-exitcode=1 --enable=warning,performance --inline-suppr --template=gcc \
		--suppress=missingIncludeSystem --suppress=invalidFunctionArg \
		--suppress=comparePointers:runtime/run/registry.c --std=c11 --library=gnu,posix,tools/queue.cfg -Iruntime -I. -j2 $(filter-out tests/%,$(filter %.c,$(C_FILES)))
	$(call say,LINT,shellcheck)
	$(Q)shellcheck $(SH_FILES)

clean: ## remove what was built (not build/cache: kernels and images)
	$(Q)rm -rf build/plain build/san build/san-thread build/headroom build/headroom-init

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /  \1\t/p' $(MAKEFILE_LIST) | expand -t 20

$B/headroom: $(OBJS) $B/objs
	$(call say,LD,$@)
	$(Q)$(CC) -pthread $(SANFLAGS) $(LDFLAGS) -o $@ $(OBJS) $(PKG_LIBS) $(LDLIBS)
# Static, because it runs before anything is mounted.
$B/headroom-init: runtime/guest/init.c $B/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE $(WARN) -Werror -Iruntime -Os -static -o $@ $<
$B/tests/bench/%: $B/tests/bench/%.o $(LIB) $B/objs
	$(call say,LD,$@)
	$(Q)$(CC) -pthread $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(PKG_LIBS) $(LDLIBS)
$B/tests/bench/nbd_load: LDLIBS += -lnbd
# The engine stands alone: only its own objects are linked.
$(ENGINE_TESTS): $B/tests/%: $B/tests/%.o $(filter $B/runtime/engine/%,$(OBJS)) $B/objs
	$(call say,LD,$@)
	$(Q)$(CC) -pthread $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) -luring -lcmocka $(LDLIBS)
$B/tests/%: $B/tests/%.o $(LIB) $B/objs
	$(call say,LD,$@)
	$(Q)$(CC) -pthread $(SANFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) $(PKG_LIBS) -lcmocka $(LDLIBS)
$B/%.o: %.c $B/flags
	@mkdir -p $(@D)
	$(call say,CC,$<)
	$(Q)$(CC) $(ALL_CFLAGS) -c -o $@ $<
# The two that print the version are compiled again when it changes.
$B/runtime/main.o $B/runtime/run/run_store.o: CPPFLAGS += -DHEADROOM_VERSION='"$(VERSION)"'
$B/runtime/main.o $B/runtime/run/run_store.o: $B/version
$B/version: STAMP = $(VERSION)
# Rebuild when the flags change, relink when a file is added or removed.
$B/flags: STAMP = $(CC) $(ALL_CFLAGS)
$B/objs:  STAMP = $(OBJS)
$B/flags $B/objs $B/version: FORCE
	@mkdir -p $(@D); echo '$(STAMP)' | cmp -s - $@ || echo '$(STAMP)' > $@
-include $(OBJS:.o=.d) $(TESTS:%=%.d) $(wildcard $B/tests/bench/*.d)
