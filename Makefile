# SPDX-License-Identifier: MIT
#
# make            threadecho, and the upstream that it is tried with
# make check      the test suites; make asan, make tsan: under sanitizers
# make lint       format, clang-tidy, cppcheck, shellcheck, the manual
# make install    the program and its manual, under DESTDIR and prefix

prefix = /usr/local
bindir = $(prefix)/bin
man1dir = $(prefix)/share/man/man1
INSTALL = install
PKG_CONFIG = pkg-config

# Yours to set; what the sources need stands below, apart from it.
CC = cc
CFLAGS ?= -O2 -g

# A sanitizer build sets these two and is otherwise the same.
BUILD = build
PROGRAM = threadecho

WARNINGS = -Wall -Wextra -Wpedantic -Wshadow -Wstrict-prototypes \
	-Wmissing-prototypes
REQUIRED = -std=c11 -D_GNU_SOURCE -pthread $(WARNINGS) -MMD -MP
COMPILE = $(CC) $(CPPFLAGS) $(CFLAGS) $(REQUIRED)
LINK = $(CC) $(CFLAGS) $(LDFLAGS) -pthread

# $(call pkg,--libs,NAME): what pkg-config says, or one line that helps.
pkg = $(if $(shell $(PKG_CONFIG) --exists $(2) && echo found),$(shell \
	$(PKG_CONFIG) $(1) $(2)),$(error $(2) is missing: run \
	scripts/install-deps))

.PHONY: all
all: $(PROGRAM) $(BUILD)/upstream

$(PROGRAM): $(BUILD)/server.o $(BUILD)/fetch.o
	$(LINK) -o $@ $^ $(call pkg,--libs,libcurl)

$(BUILD)/upstream: $(BUILD)/bench/upstream.o $(BUILD)/bench/options.o
	$(LINK) -o $@ $^ $(call pkg,--libs,libevent)

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(COMPILE) -c -o $@ $<

-include $(wildcard $(BUILD)/*.d $(BUILD)/*/*.d)
