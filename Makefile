# Everything that one does with this tree. Each target does its own set-up on a fresh Debian 12 machine with a Rust toolchain.
#   make demo     a pod from pull to removal, on this machine, with its timings and an empty leak ledger
#   make test     unit tests, then the suite against crun and against runc
#   make check    formatting, lints, dependencies, documentation: no warning passes
#   make bench    pod start and stop, memory and pulls beside the floor and beside containerd
#   make test-vm  the package, the service and the suite in a virtual machine with systemd, cgroup v2 and AppArmor
#   make install  PREFIX=/usr/local DESTDIR=
#   make packages .deb, .rpm and a tarball with install.sh, in target/package; make deb makes only that one

SHELL := /bin/bash -o pipefail
.DELETE_ON_ERROR:
.PHONY: all setup build build-tests manuals demo test test-youki test-crictl test-vm torture check bench install package-root deb rpm \
	tarball packages clean help

PREFIX ?= /usr/local
CARGO ?= cargo
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
# Both programs, as they are installed. `make deb BIN=FOLDER` and its like take them from there and build none.
BIN ?= $(TARGET)/bin
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

# Manual pages and completions of shells, from the command line's and the configuration's own words.
manuals:
	$(CARGO) run --quiet --locked -p pintle-manuals -- $(TARGET)/manuals

build: $(BIN)/pintle-monitor manuals
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

# On a machine with systemd, cgroup v2 and AppArmor (test/vm): what is packaged there are the programs of the debug build, unless BIN names
# others. `make test-vm ARGS='-E test(portmap)'` runs that part of the suite.
test-vm: build-tests
	@test/setup packages nextest deb vm
	@mkdir -p $(TARGET)/vm/programs && install -C -m 755 $(TARGET)/debug/pintle $(TARGET)/bin/pintle-monitor $(TARGET)/vm/programs/
	@rm -rf $(PACKAGES)/*.deb
	@$(MAKE) --no-print-directory deb BIN=$(if $(filter file,$(origin BIN)),$(TARGET)/vm/programs,$(BIN)) DEB_ARGS=--fast
	test/vm/test walk
	test/vm/test suite $(ARGS)

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

# Where what is installed comes from is told here and nowhere else: packages are made of what this installs.
install:
	@test -x $(BIN)/pintle && test -x $(BIN)/pintle-monitor && test -d $(TARGET)/manuals || \
		{ echo "install: run make build first" >&2; exit 1; }
	install -D -m 755 $(BIN)/pintle $(DESTDIR)$(PREFIX)/bin/pintle
	install -D -m 755 $(BIN)/pintle-monitor $(DESTDIR)$(PREFIX)/libexec/pintle/pintle-monitor
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/systemd/system contrib/systemd/pintle.service contrib/systemd/pintle.socket
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/modules-load.d contrib/modules-load.d/pintle.conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/sysctl.d contrib/sysctl.d/50-pintle.conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/lib/tmpfiles.d contrib/tmpfiles.d/pintle.conf
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/pintle/apparmor contrib/apparmor/pintle-default
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/pintle/examples contrib/config.yaml contrib/cni/10-pintle-bridge.conflist
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/doc/pintle README.md
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man1 $(TARGET)/manuals/man/*.1
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/man/man5 $(TARGET)/manuals/man/*.5
	install -D -m 644 $(TARGET)/manuals/completions/pintle.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/pintle
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/zsh/vendor-completions $(TARGET)/manuals/completions/_pintle
	install -D -m 644 -t $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d $(TARGET)/manuals/completions/pintle.fish

# The manifest of the packages (src/pintle/Cargo.toml) names files below target/package/root.
PACKAGES := target/package
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
package-root: $(if $(filter file,$(origin BIN)),build,manuals)
	@rm -rf $(PACKAGES)/root
	@$(MAKE) --no-print-directory --silent install BIN=$(BIN) PREFIX=/usr DESTDIR=$(abspath $(PACKAGES))/root
	@strip $(PACKAGES)/root/usr/bin/pintle $(PACKAGES)/root/usr/libexec/pintle/pintle-monitor
	@gzip -9n $(PACKAGES)/root/usr/share/man/man?/*

# `make deb DEB_ARGS='--deb-version 0.1.0-2'` names a revision.
deb: package-root
	@test/setup deb
	$(CARGO) deb --locked --no-build --no-strip --quiet -p pintle --output $(PACKAGES)/ $(DEB_ARGS)

rpm: package-root
	@test/setup generate-rpm
	$(CARGO) generate-rpm -p src/pintle --auto-req disabled --output $(PACKAGES)/

tarball: package-root
	@rm -rf $(PACKAGES)/tar && mkdir -p $(PACKAGES)/tar/pintle-$(VERSION)
	@cp -a $(PACKAGES)/root/usr $(PACKAGES)/tar/pintle-$(VERSION)/files
	@cp deploy/packages/install.sh LICENSE README.md CHANGELOG.md $(PACKAGES)/tar/pintle-$(VERSION)/
	tar -C $(PACKAGES)/tar --sort=name --owner=0 --group=0 --numeric-owner -I 'xz -6' \
		-cf $(PACKAGES)/pintle-$(VERSION)-$(firstword $(subst -, ,$(HOST)))-linux.tar.xz pintle-$(VERSION)
	@rm -rf $(PACKAGES)/tar

packages: deb rpm tarball
	@ls -l $(PACKAGES)/*.deb $(PACKAGES)/*.rpm $(PACKAGES)/*.tar.xz

clean:
	$(CARGO) clean
