# ringfence: `make run` boots a guest, `make test` checks everything; `make` alone lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
MAKEFLAGS += --no-builtin-rules --no-print-directory
.DEFAULT_GOAL := help

export PATH := $(HOME)/.cargo/bin:$(PATH)

PREFIX ?= /usr/local
DESTDIR ?=
# More arguments for `ringfence run`: make run ARGS="--cpus 2 --memory 1G -- uname -a"
ARGS ?=

BIN := $(or $(CARGO_TARGET_DIR),target)/x86_64-unknown-linux-gnu/release/ringfence
BINDIR := $(DESTDIR)$(PREFIX)/bin
MANDIR := $(DESTDIR)$(PREFIX)/share/man/man1
BASHDIR := $(DESTDIR)$(PREFIX)/share/bash-completion/completions
ZSHDIR := $(DESTDIR)$(PREFIX)/share/zsh/site-functions
FISHDIR := $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d

.PHONY: help build kernel run run-nested test bench bench-more install uninstall clean

help: ## this list
	@echo 'ringfence: exactly N vCPUs, exactly M bytes of RAM, a Linux kernel and its console'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 14 | sed 's/^/  make /'
	@echo
	@echo 'Variables: ARGS (more for `ringfence run`), PREFIX and DESTDIR (for install).'
	@echo 'On Debian and Ubuntu everything needed is installed by itself, as root or with sudo.'

build: ## the release binary
	@dev/prepare build
	cargo build --release --locked

kernel: ## the guest kernel that comes with ringfence, kept in the user's cache folder
	@dev/prepare build kernel
	cargo build --release --locked
	@$(BIN) kernel build

run: ## set everything up and boot a guest to its shell
	@dev/prepare build
	cargo build --release --locked
	@$(BIN) check >/dev/null || { $(BIN) check || true; echo; \
	    echo 'make run: no usable KVM here. `make run-nested` does the same inside an emulated machine, with no KVM.'; \
	    exit 1; } >&2
	@dev/prepare kernel
	@$(BIN) kernel build
	@$(BIN) run $(ARGS)

run-nested: ## the same inside an emulated AMD-V machine (QEMU), for a host without KVM
	@dev/prepare build kernel nested
	cargo build --release --locked
	@$(BIN) kernel build
	@tests/bed2/run-nested $(ARGS)

test: ## formatting, lints, documentation, all tests; says what this machine makes it leave out
	@dev/prepare build kernel test
	cargo build --release --locked
	@$(BIN) kernel build
	@dev/test

bench: ## how long starts take here, beside other monitors and containers: a page in target/bench/boot
	@dev/prepare build kernel
	cargo build --release --locked
	@$(BIN) kernel build
	@mkdir -p target/bench
	$(BIN) bench boot --parallel 1,4,16 --sweep memory=128M..4G,cpus=1..4 --json target/bench/boot.json \
	    --csv target/bench/boot.csv --html target/bench/boot

bench-more: ## the other figures of README.md: `cargo bench`, half an hour
	@dev/prepare build kernel
	cargo build --release --locked
	@$(BIN) kernel build
	cargo bench --locked

install: ## binary, man pages and completions to PREFIX (/usr/local); build first, as yourself
	@test -x $(BIN) || $(MAKE) build
	install -D -m 755 $(BIN) $(BINDIR)/ringfence
	@pages=$$(mktemp -d) && trap 'rm -rf "$$pages"' EXIT && \
	$(BIN) docs man "$$pages/man" && \
	$(BIN) docs completions bash > "$$pages/bash" && \
	$(BIN) docs completions zsh > "$$pages/zsh" && \
	$(BIN) docs completions fish > "$$pages/fish" && \
	set -x && \
	install -d $(MANDIR) && install -m 644 "$$pages"/man/* $(MANDIR) && \
	install -D -m 644 "$$pages/bash" $(BASHDIR)/ringfence && \
	install -D -m 644 "$$pages/zsh" $(ZSHDIR)/_ringfence && \
	install -D -m 644 "$$pages/fish" $(FISHDIR)/ringfence.fish

uninstall: ## take away what install put there
	rm -f $(BINDIR)/ringfence $(MANDIR)/ringfence.1 $(MANDIR)/ringfence-*.1 $(BASHDIR)/ringfence $(ZSHDIR)/_ringfence \
	    $(FISHDIR)/ringfence.fish

clean: ## what was built here; kernels in the cache folder stay (`ringfence kernel rm`)
	@if command -v cargo >/dev/null; then cargo clean; else rm -rf target; fi
