# SPDX-License-Identifier: MIT
#
# make            threadecho, and the upstream that it is tried with
# make check      the test suites; make asan, make tsan: under sanitizers;
#                 make coverage: with a table of what they have run
# make prove      each way to make the server fall over, tried, for hours;
#                 make prove-churn: one part, see docs/reliability.md
# make lint       format, clang-tidy, cppcheck, shellcheck, the manual; and
#                 make lint-python, lint-go, lint-rust, lint-erlang,
#                 lint-javascript
# make demo       build, and show a conversation
# make bench      the programs of the measuring kit
# make install    the program, its manual and a unit for systemd, under DESTDIR
#                 and prefix

prefix = /usr/local
bindir = $(prefix)/bin
man1dir = $(prefix)/share/man/man1
unitdir = $(prefix)/lib/systemd/system
INSTALL = install
PKG_CONFIG = pkg-config

# Yours to set. What the sources need is separate, below.
CC = cc
CFLAGS ?= -O2 -g

# A sanitizer build sets these two and is otherwise the same.
BUILD = build
PROGRAM = threadecho

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes
# make WERROR=-Werror: a warning ends the build. What is built is the same.
WERROR =
REQUIRED = -std=c11 -D_POSIX_C_SOURCE=200809L -pthread $(WARNINGS) $(WERROR) \
	-MMD -MP

# What makes a bug that was missed harder to exploit; make HARDENING= leaves it
# out. Your flags come later, so they win.
HARDENING = -fPIE -fstack-protector-strong -fstack-clash-protection \
	-include lib/fortify.h
HARDENED = -pie -Wl,-z,relro,-z,now,-z,noexecstack

COMPILE = $(CC) $(HARDENING) $(CPPFLAGS) $(CFLAGS) $(REQUIRED)
LINK = $(CC) $(if $(HARDENING),$(HARDENED)) $(CFLAGS) $(LDFLAGS) -pthread \
	-o $@ $^

# $(call quoted,WORD): one word to the shell, whatever is in it.
quoted = '$(subst ','\'',$(1))'

# $(call pkg,--libs,NAME): what pkg-config says, or one line that helps.
pkg = $(if $(shell $(PKG_CONFIG) --exists $(2) && echo found),$(shell \
	$(PKG_CONFIG) $(1) $(2)),$(error $(2) is missing: run \
	scripts/install-deps $(3)))

.PHONY: all
all: $(PROGRAM) $(BUILD)/upstream

# The compiler and its flags. Each object depends on this file, which is out of
# date once they change: after make CFLAGS=-O0 a plain make compiles all again.
# Only make install, perhaps run by root, takes what is there.
FLAGS = $(BUILD)/flags
define newline :=


endef
compiler := $(shell $(CC) --version 2>/dev/null | head -n 1)
define flags_text =
$(compiler)
CC=$(CC)
HARDENING=$(HARDENING) $(HARDENED)
CPPFLAGS=$(CPPFLAGS)
CFLAGS=$(CFLAGS)
LDFLAGS=$(LDFLAGS)
endef
ifneq ($(filter-out install uninstall,$(or $(MAKECMDGOALS),all)),)
ifneq ($(file <$(FLAGS)),$(flags_text))
.PHONY: $(FLAGS)
endif
endif
$(FLAGS):
	@mkdir -p $(@D)
	@printf '%s\n' $(subst $(newline),' ',$(call quoted,$(flags_text))) >$@

# The library of the server and its peers. A program links what it uses of it.
LIB = $(BUILD)/lib.a
$(LIB): $(patsubst %.c,$(BUILD)/%.o,$(wildcard lib/*.c))
	rm -f $@
	$(AR) rcs $@ $^

$(PROGRAM): $(BUILD)/server.o $(BUILD)/fetch.o $(LIB)
	$(LINK) $(call pkg,--libs,libcurl libssl libcrypto)

$(BUILD)/server.o $(BUILD)/fetch.o $(BUILD)/lib/tls.o: private REQUIRED += \
	$(call pkg,--cflags,libcurl)

$(BUILD)/%.o: %.c $(FLAGS)
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<

# The measuring kit.

KIT = $(addprefix $(BUILD)/,upstream load pool green.so)
PEERS = $(addprefix $(BUILD)/peers/,bare bare_events bare_processes \
	events naive processes)
# Linux alone has it, and not each Linux.
URING = $(addprefix $(BUILD)/peers/,bare_uring uring)
PEERS += $(if $(shell $(PKG_CONFIG) --exists liburing && echo found),$(URING))
PEERS += $(if $(shell $(PKG_CONFIG) --exists st && echo found),\
	$(BUILD)/peers/state_threads)

# Compilers of other languages, if they are there. What they make depends on
# neither CC nor CFLAGS, so it is built once, wherever BUILD is. Debian's own
# cargo, whatever cargo is first on the PATH: its crates are in the directory.
CRATES = /usr/share/cargo/registry
RUST_NEEDS = /usr/bin/cargo $(patsubst %,$(CRATES)/%.*,hyper-0.14 \
	percent-encoding-2 pico-args-0.4 rlimit-0.8 tokio-1)
RUST = $(if $(strip $(foreach path,$(RUST_NEEDS),$(if $(wildcard \
	$(path)),,missing))),,tasks)
OTHER_PEERS = $(addprefix build/peers/,$(if $(shell command -v go),\
	goroutines) $(if $(shell command -v erlc),connection_processes.beam) \
	$(RUST))

.PHONY: bench
bench: $(PROGRAM) $(KIT) $(PEERS) $(OTHER_PEERS)

$(BUILD)/upstream: $(addprefix $(BUILD)/bench/,upstream.o mark.o \
		arguments.o) $(LIB)
	$(LINK) $(call pkg,--libs,libevent) $(call pkg,--libs,libsodium)

$(BUILD)/load: $(addprefix $(BUILD)/bench/,load.o drive.o payload.o mark.o \
		samples.o arguments.o) $(LIB)
	$(LINK) $(call pkg,--libs,libsodium)

$(BUILD)/bench/mark.o: private REQUIRED += $(call pkg,--cflags,libsodium)

$(BUILD)/pool: $(addprefix $(BUILD)/bench/,pool.o arguments.o) $(LIB)
	$(LINK)

# Preloaded, it runs the threads of a program as coroutines.
GREEN_OBJECTS = $(patsubst %.c,$(BUILD)/%.o,$(wildcard bench/green/*.c))
$(GREEN_OBJECTS): private REQUIRED += -fPIC -fvisibility=hidden \
	-ftls-model=initial-exec
$(BUILD)/green.so: private HARDENED := $(filter-out -pie,$(HARDENED))
$(BUILD)/green.so: $(GREEN_OBJECTS)
	$(LINK) -shared -ldl

$(PEERS): | $(BUILD)/peers
$(OTHER_PEERS): | build/peers
$(sort $(BUILD)/peers build/peers):
	mkdir -p $@

# $(call peer,NAMES): the objects of these files, and what all peers share.
peer = $(addprefix $(BUILD)/bench/peers/,$(addsuffix .o,$(1) peer)) $(LIB)

$(BUILD)/peers/bare: $(call peer,bare fetch_line exchange)
	$(LINK)

$(BUILD)/peers/bare_events: $(call peer,bare_events deadline exchange)
	$(LINK)

$(BUILD)/peers/bare_processes: $(call peer,bare_processes fetch_line exchange)
	$(LINK)

$(addprefix $(BUILD)/bench/peers/,ring.o ring_clients.o bare_uring.o \
		uring.o): private REQUIRED += \
	$(call pkg,--cflags,liburing,peers)

$(BUILD)/peers/bare_uring: $(call peer,bare_uring ring_clients ring deadline \
		exchange)
	$(LINK) $(call pkg,--libs,liburing,peers)

$(BUILD)/peers/uring: $(call peer,uring ring_clients ring deadline transfer)
	$(LINK) $(call pkg,--libs,liburing,peers) $(call pkg,--libs,libcurl)

$(BUILD)/peers/events: $(call peer,events transfer)
	$(LINK) $(call pkg,--libs,libevent) $(call pkg,--libs,libcurl)

$(BUILD)/peers/naive: $(BUILD)/bench/peers/naive.o
	$(LINK) $(call pkg,--libs,libcurl)

$(BUILD)/peers/processes: $(BUILD)/fetch.o $(call peer,processes)
	$(LINK) $(call pkg,--libs,libcurl libssl libcrypto)

$(BUILD)/bench/peers/state_threads.o: private REQUIRED += \
	$(call pkg,--cflags,st,peers)
$(BUILD)/peers/state_threads: $(call peer,state_threads exchange)
	$(LINK) $(call pkg,--libs,st,peers)

# Without modules, and with the cache here and not in the home directory. Its
# path must be absolute, and may have a blank.
GO_COMMAND = GO111MODULE=off GOFLAGS= GOCACHE="$$(realpath build)/go-cache" go
build/peers/goroutines: bench/peers/goroutines.go
	$(GO_COMMAND) build -o $@ $<

build/peers/connection_processes.beam: bench/peers/connection_processes.erl
	erlc -o $(@D) $<

# In a directory of its own, where cargo may leave its Cargo.lock. It has the
# jobs of this machine, not those of make.
CARGO_COMMAND = MAKEFLAGS= RUSTFLAGS= RUSTC=/usr/bin/rustc CARGO_HOME=home \
	/usr/bin/cargo --offline --quiet \
	--config 'source.crates-io.replace-with="debian"' \
	--config 'source.debian.directory="$(CRATES)"'
build/peers/tasks: bench/peers/tasks.rs bench/peers/Cargo.toml
	@mkdir -p build/cargo
	cp $^ build/cargo
	cd build/cargo && $(CARGO_COMMAND) build --release --target-dir target
	cp build/cargo/target/release/tasks $@

# The tests: each tests/test_NAME.c is a program, and so is each
# tests/bench_NAME.c, which tests the measuring kit.

# make check WITHOUT='test_tls bench_load': all but these.
WITHOUT =
TESTS = $(filter-out $(addprefix $(BUILD)/tests/,$(WITHOUT)),$(patsubst \
	tests/%.c,$(BUILD)/tests/%,$(wildcard tests/test_*.c tests/bench_*.c)))
SERVER_TESTS = $(filter $(BUILD)/tests/test_%,$(TESTS))
TEST_PARTS = $(patsubst %.c,$(BUILD)/%.o,$(filter-out tests/test_%.c \
	tests/bench_%.c tests/shim.c,$(wildcard tests/*.c)))

.PHONY: check
check: all $(KIT) $(TESTS) $(BUILD)/tests/shim.so
	tests/run $(BUILD) $(PROGRAM) $(TESTS)

# The library again, after what single tests add below.
$(TESTS): $(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_PARTS) $(LIB)
	$(LINK) $(LIB) $(call pkg,--libs,check,check) \
		$(call pkg,--libs,libcurl libssl libcrypto) $(TEST_LIBS)

$(BUILD)/tests/bench_arguments: $(BUILD)/bench/arguments.o
$(addprefix $(BUILD)/tests/bench_,mark payload): $(addprefix \
		$(BUILD)/bench/,mark.o arguments.o)
$(addprefix $(BUILD)/tests/bench_,mark payload load): private TEST_LIBS = \
	$(call pkg,--libs,libsodium)

# It is preloaded.
$(BUILD)/tests/shim.so: tests/shim.c tests/shim.h $(FLAGS)
	@mkdir -p $(@D)
	$(COMPILE) -fPIC -shared -o $@ $< -ldl

# Each suite runs what is built along with it, unless told otherwise.
$(BUILD)/tests/%.o: private REQUIRED += $(call pkg,--cflags,check,check) \
	$(call pkg,--cflags,libcurl libsodium) -DTEST_BUILD='"$(BUILD)"' \
	-DTEST_PROGRAM='"$(if $(filter /%,$(PROGRAM)),,./)$(PROGRAM)"'

TSAN = BUILD=build/tsan PROGRAM=build/tsan/threadecho \
	CFLAGS='-O1 -g -fsanitize=thread'
.PHONY: asan tsan
# The leak check at each exit walks what was freed and is held back, too.
asan:
	ASAN_OPTIONS=quarantine_size_mb=8:$$ASAN_OPTIONS \
		$(MAKE) BUILD=build/asan PROGRAM=build/asan/threadecho \
		CFLAGS='-O1 -g -fno-omit-frame-pointer \
		-fsanitize=address,undefined -fno-sanitize-recover=all' check
# Neither build/load nor build/upstream has threads.
tsan:
	$(MAKE) $(TSAN) WITHOUT='bench_load bench_upstream' check

# Which lines and branches of the server its suites run. What is killed leaves
# no counts, and _exit would leave none either.
COVERAGE = build/coverage
COVERAGE_FLAGS =
.PHONY: coverage check-server
check-server: all $(SERVER_TESTS) $(BUILD)/tests/shim.so
	tests/run $(BUILD) $(PROGRAM) $(SERVER_TESTS)
coverage:
	find build -path '$(COVERAGE)/*' -name '*.gcda' -delete
	$(MAKE) CC=gcc BUILD=$(COVERAGE) PROGRAM=$(COVERAGE)/threadecho \
		CFLAGS='-O0 -g --coverage -fprofile-update=atomic -D_exit=exit' \
		HARDENING= check-server; status=$$?; \
		tests/coverage $(COVERAGE) $(COVERAGE_FLAGS) && exit $$status

# Each way to make the server fall over, tried: all, or one part of it. The
# programs of these parts are in tests/proof.
PARTS = torture races fuzz churn soak overload coverage hardening mutations
.PHONY: prove $(addprefix prove-,$(PARTS))
prove:
	tests/prove
$(addprefix prove-,$(PARTS)): prove-%:
	tests/prove $*

# Fuzz targets, which tests/proof/fuzz builds: libFuzzer is a part of clang.
FUZZERS = $(patsubst tests/proof/%.c,$(BUILD)/proof/%,$(wildcard \
	tests/proof/fuzz_*.c))
$(FUZZERS): $(BUILD)/proof/%: $(BUILD)/tests/proof/%.o $(BUILD)/fetch.o $(LIB)
	@mkdir -p $(@D)
	$(LINK) $(call pkg,--libs,libcurl libssl libcrypto)
$(BUILD)/proof/fuzz_fetch: $(BUILD)/tests/proof/http_oracle.o

# Runs the server under the limits of scripts/threadecho.service.
$(BUILD)/proof/filtered: $(BUILD)/tests/proof/filtered.o
	@mkdir -p $(@D)
	$(LINK) $(call pkg,--libs,libseccomp,check)

# Fails the calls of a server, each in turn.
$(BUILD)/proof/sweep: $(BUILD)/tests/proof/sweep.o $(TEST_PARTS) $(LIB)
	@mkdir -p $(@D)
	$(LINK) $(call pkg,--libs,check,check)

# What looks for races, and the builds of the server that it looks at.
$(addprefix $(BUILD)/proof/,stress moments): $(BUILD)/proof/%: \
		$(BUILD)/tests/proof/%.o $(addprefix $(BUILD)/tests/,\
		proof/subject.o rogue.o upstream_faults.o)
	@mkdir -p $(@D)
	$(LINK)

HELGRIND = BUILD=build/helgrind PROGRAM=build/helgrind/threadecho \
	CPPFLAGS='-include tests/proof/helgrind_atomics.h'
.PHONY: build-races
build-races: $(PROGRAM) $(BUILD)/proof/stress $(BUILD)/proof/moments
	$(MAKE) $(TSAN) build/tsan/threadecho
	$(MAKE) $(HELGRIND) build/helgrind/threadecho

# Clients in great number, and the upstream that fails for them.
$(addprefix $(BUILD)/proof/,churn soak overload): $(BUILD)/proof/%: \
		$(BUILD)/tests/proof/%.o $(addprefix $(BUILD)/tests/,\
		proof/crowd.o proof/subject.o upstream_faults.o)
	@mkdir -p $(@D)
	$(LINK)
$(BUILD)/proof/faulty: $(BUILD)/tests/proof/faulty.o $(BUILD)/tests/rogue.o
	@mkdir -p $(@D)
	$(LINK)

# Everything that is read rather than run.

SOURCES = $(wildcard *.c lib/*.c bench/*.c bench/green/*.c bench/peers/*.c \
	tests/*.c tests/proof/*.c)
HEADERS = $(wildcard *.h lib/*.h bench/*.h bench/green/*.h bench/peers/*.h \
	tests/*.h tests/proof/*.h)
SCRIPTS = $(shell grep -slE '^.!.*sh$$' scripts/* scripts/debian/* bench/* \
	bench/peers/* tests/* tests/proof/* .ci/*)
PYTHON_MODULES = $(wildcard bench/*.py bench/kit/*.py bench/peers/*.py \
	tests/*.py)
PYTHON_SCRIPTS = $(filter-out %.py,$(shell grep -slE '^.!.*python3$$' \
	scripts/* bench/* tests/* tests/proof/* .ci/*))
GO = $(wildcard bench/peers/*.go)
RUST_SOURCES = $(wildcard bench/peers/*.rs)
ERLANG = $(wildcard bench/peers/*.erl)
JAVASCRIPT = $(wildcard bench/peers/*.js)
LINT_FLAGS = -std=c11 -D_POSIX_C_SOURCE=200809L $(call pkg,--cflags,\
	libcurl libevent libsodium check,build check) \
	$(call pkg,--cflags,liburing st,peers)
# $(call tidy,FILES,FLAGS)
tidy = printf '%s\n' $(1) | xargs -n 4 -P 2 sh -c \
	'clang-tidy --quiet "$$@" -- $(LINT_FLAGS) $(2) 2>/dev/null' sh
# Each assertion of a test is a branch: to follow most of them takes longer than
# all the rest. A quarter of the usual steps is still more than most need.
FEWER_STEPS = -Xclang -analyzer-config -Xclang max-nodes=50000
# cppcheck does not look for system headers; this one's macros it must know.
QUEUE_H = $(shell $(CC) -M -include sys/queue.h -xc /dev/null | \
	tr ' ' '\n' | grep queue.h)

# $(call found,LIST): a list, which must not be empty.
found = $(or $($(1)),$(error make lint finds no $(1)))

# $(call need,COMMAND,GROUP): a line of a recipe that says how to get COMMAND.
need = @command -v $(1) >/dev/null || { echo "make lint: $(1) is missing:\
	run scripts/install-deps $(2)" >&2; exit 1; }

.PHONY: lint lint-python lint-go lint-rust lint-erlang lint-javascript
# Debian's own, whatever python3 is first on the PATH. mypy takes scripts apart
# from modules, because one may have the name of the other.
lint-python:
	$(call need,/usr/bin/flake8,check)
	$(call need,/usr/bin/mypy,check)
	/usr/bin/flake8 $(call found,PYTHON_MODULES) \
		$(call found,PYTHON_SCRIPTS)
	/usr/bin/mypy $(PYTHON_MODULES)
	/usr/bin/mypy --scripts-are-modules $(PYTHON_SCRIPTS)

lint-go:
	$(call need,go,peers)
	$(call need,gofmt,peers)
	unformatted=$$(gofmt -l $(call found,GO)) && [ -z "$$unformatted" ] || \
		{ gofmt -d $(GO) >&2; exit 1; }
	@mkdir -p build
	$(GO_COMMAND) vet $(GO)

lint-rust:
	$(call need,/usr/bin/rustfmt,check)
	/usr/bin/rustfmt --check $(call found,RUST_SOURCES)

# Compiles, and writes nothing.
lint-erlang:
	$(call need,erlc,peers)
	erlc -Wall +warnings_as_errors +strong_validation $(call found,ERLANG)

lint-javascript:
	$(call need,node,peers)
	printf '%s\n' $(call found,JAVASCRIPT) | xargs -n 1 node --check

lint: $(PROGRAM) lint-python lint-go lint-rust lint-erlang lint-javascript
	clang-format --dry-run --Werror $(call found,SOURCES) \
		$(call found,HEADERS)
	$(call tidy,$(filter-out tests/%,$(SOURCES)))
	$(call tidy,$(filter tests/%,$(SOURCES)),$(FEWER_STEPS))
	cppcheck --quiet --std=c11 --library=posix --error-exitcode=1 \
		--enable=warning,performance,portability --inline-suppr \
		--suppress=missingIncludeSystem --suppress=readdirCalled \
		--include=$(QUEUE_H) \
		$(SOURCES)
	shellcheck $(call found,SCRIPTS)
	mandoc -Tlint -Wwarning docs/threadecho.1
	tests/check-manual

.PHONY: demo
demo:
	scripts/demo

installed_bin = $(call quoted,$(DESTDIR)$(bindir))
installed_man1 = $(call quoted,$(DESTDIR)$(man1dir))
installed_unit = $(call quoted,$(DESTDIR)$(unitdir))

# The unit names the program where it will be, in quotes.
unit_start = ExecStart="$(subst %,%%,$(bindir))/threadecho"

.PHONY: install uninstall
install: $(PROGRAM)
	$(INSTALL) -d $(installed_bin) $(installed_man1) $(installed_unit)
	$(INSTALL) $(PROGRAM) $(installed_bin)/threadecho
	$(INSTALL) -m 644 docs/threadecho.1 $(installed_man1)/threadecho.1
	$(INSTALL) -m 644 scripts/threadecho.service $(installed_unit)
	sed -i $(call quoted,s|^ExecStart=[^ ]*|$(unit_start)|) \
		$(installed_unit)/threadecho.service
uninstall:
	rm -f $(installed_bin)/threadecho $(installed_man1)/threadecho.1 \
		$(installed_unit)/threadecho.service

.PHONY: clean
clean:
	rm -rf build threadecho

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
