# Everything that one does with this tree. Each target does its own set-up on a fresh Debian 12 machine with a Rust toolchain.
#   make demo     a pod from pull to removal, on this machine, with its timings and an empty leak ledger
#   make test     unit tests, then the suite against crun and against runc
#   make check    formatting, lints, dependencies, documentation: no warning passes
#   make bench    pod start and stop, memory and pulls beside the floor and beside containerd
#   make install  PREFIX=/usr/local DESTDIR=

SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.PHONY: all setup build build-tests demo test test-youki test-crictl torture check bench install clean help

PREFIX ?= /usr/local
CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
# Both programs, as they are installed.
BIN := $(TARGET)/bin
# What the suite is given after `--`, for example `make test ARGS='-E "test(portmap)"'`.
ARGS ?=

all: build

help:
	@sed -n 's/^# \{1,3\}make/make/p' Makefile

setup:
	@test/setup

# The monitor is a static program of its own, in a target folder of its own: crt-static would otherwise rebuild all.
# At a fixed address, because relocating itself would cost every monitor 20 KiB of private pages.
$(BIN)/pintle-monitor: FORCE
	@mkdir -p $(BIN)
	CARGO_TARGET_DIR=$(TARGET)/monitor RUSTFLAGS='-C target-feature=+crt-static -C relocation-model=static' \
		$(CARGO) build --quiet --locked -p pintle-monitor --profile monitor --target $(HOST)
	@install -C -m 755 $(TARGET)/monitor/$(HOST)/monitor/pintle-monitor $@

FORCE:

build: $(BIN)/pintle-monitor
	$(CARGO) build --locked --release -p pintle
	@install -C -m 755 $(TARGET)/release/pintle $(BIN)/pintle

demo:
	@test/setup packages
	@$(MAKE) --no-print-directory $(BIN)/pintle-monitor
	$(CARGO) build --locked --release -p pintle -p pintle-test --bin pintle --bin pintle-demo
	@install -C -m 755 $(TARGET)/release/pintle $(BIN)/pintle
	PINTLE_BIN_DIR=$(BIN) $(TARGET)/release/pintle-demo

# Programs and tests in one build, so that both share every dependency; the suite drives the debug build of the
# server and the monitor as it is shipped.
build-tests: $(BIN)/pintle-monitor
	$(CARGO) build --locked --workspace --bins --tests

test:
	@test/setup packages nextest
	@$(MAKE) --no-print-directory build-tests
	PINTLE_TEST_RUNTIME=crun $(CARGO) nextest run --locked --workspace $(ARGS)
	PINTLE_TEST_RUNTIME=runc $(CARGO) nextest run --locked -p pintle-test $(ARGS)

test-youki: build-tests
	@command -v youki >/dev/null || $(CARGO) install --locked youki
	PINTLE_TEST_RUNTIME=youki $(CARGO) nextest run --locked -p pintle-test $(ARGS)

# The long runs: the server is killed 200 times in a churn of pods.
torture: build-tests
	PINTLE_TEST_RUNTIME=crun $(CARGO) nextest run --locked -p pintle-test --run-ignored only --no-capture -E 'not test(/^crictl::/)' $(ARGS)

# Live sessions by crictl, a gibibyte each way: crictl in PATH, or PINTLE_CRICTL.
test-crictl: build-tests
	PINTLE_TEST_RUNTIME=crun $(CARGO) nextest run --locked -p pintle-test --run-ignored only --no-capture -E 'test(/^crictl::/)' $(ARGS)

check:
	@test/setup packages deny
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	@test/deny
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps --document-private-items

bench:
	@test/setup bench
	@$(MAKE) --no-print-directory build
	$(CARGO) build --locked --release -p pintle-bench
	PINTLE_BIN_DIR=$(BIN) $(TARGET)/release/pintle-bench --out $(TARGET)/bench $(ARGS)

install:
	@test -x $(BIN)/pintle && test -x $(BIN)/pintle-monitor || { echo "install: run make build first" >&2; exit 1; }
	install -D -m 755 $(BIN)/pintle $(DESTDIR)$(PREFIX)/bin/pintle
	install -D -m 755 $(BIN)/pintle-monitor $(DESTDIR)$(PREFIX)/libexec/pintle/pintle-monitor
	install -D -m 644 contrib/config.yaml $(DESTDIR)$(PREFIX)/share/doc/pintle/config.yaml
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system contrib/systemd/pintle.service contrib/systemd/pintle.socket

clean:
	$(CARGO) clean
