# Everything a developer does has one target here; `make help` lists them.

CARGO ?= cargo
# `make LOCKED=--locked` fails when Cargo.lock is not up to date.
LOCKED =

# All targets expect the programs in target/, so CARGO_TARGET_DIR of the environment is ignored.
unexport CARGO_TARGET_DIR

# SECONDS is a parameter of `make fuzz`; the shell has a variable of that name.
unexport SECONDS

.PHONY: help build examples demo test test-isolation lossy soak asan tsan
.PHONY: fuzz fuzz-short fuzz-minimise
.PHONY: bench bench-short bench-check
.PHONY: dist install uninstall deb deb-check abi-check abi-accept
.PHONY: generate check-generated check-symbols lint structure fmt fmt-check clippy doc clean
.PHONY: test-all test-deps bare-check

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## the programs, libkvs.so and libkvs.a, in target/release
	$(CARGO) build $(LOCKED) --release --workspace

generate: build ## write include/kvs.h and man, which are committed, from the sources
	target/release/kvs-generate .
	target/release/kvs-manual manual/pages man

examples: build ## the C programs in c-examples
	$(MAKE) -C c-examples

demo: examples ## both servers, a publisher of /proc/meminfo and a watcher, from start to end
	c-examples/demo.sh

# Tests that are skipped because a program is missing are listed in this file.
export KVS_SKIPPED = $(CURDIR)/target/skipped

test: ## all tests and lint; lists at the end what was skipped
	@mkdir -p target && rm -f "$(KVS_SKIPPED)"
	@status=0; $(MAKE) --no-print-directory test-all || status=$$?; tests/deps report; exit $$status

test-all: build examples dist check-generated check-symbols lint abi-check
test-all: fuzz-short bench-check bench-short
	@CARGO="$(CARGO)" LOCKED="$(LOCKED)" tests/run

test-deps: ## install the Debian packages that some tests need (tests/packages)
	@tests/deps install

bare-check: ## as root: `make demo` and `make test` in a Debian root with only what README names
	@tests/bare

fuzz: ## fuzz all targets for SECONDS=60 each, or only TARGET=… (the names in fuzz/run)
	CARGO="$(CARGO)" fuzz/run fuzz $(or $(SECONDS),60) $(or $(TARGET),all)

fuzz-short: ## the fuzzer's corpus and some thousand inputs more, the same each time
	CARGO="$(CARGO)" fuzz/run short

fuzz-minimise: ## reduce fuzz/corpus, with what `make fuzz` found, to what adds coverage
	CARGO="$(CARGO)" fuzz/run minimise

END_TO_END = $(CARGO) test $(LOCKED) --release -p kvs-tests

test-isolation: build ## long: 1,000,000 changes without a reader, 100,000 malformed sequences
	KVS_TEST_PUTS=1000000 $(END_TO_END) --test stalled -- --nocapture
	KVS_TEST_SEQUENCES=100000 $(END_TO_END) --test malformed random -- --nocapture
	KVS_TEST_PUTS=1000000 KVS_TEST_SEQUENCES=100000 $(END_TO_END) --test v2 -- --nocapture \
		stalled:: malformed::random
	KVS_TEST_ROUNDS=10000 $(END_TO_END) --test c_programs eight_processes -- --nocapture

asan: build ## the C tests with AddressSanitizer, leaks included (skipped without its runtime)
	CARGO="$(CARGO)" tests/sanitize address

tsan: build ## the C tests with ThreadSanitizer (skipped without its runtime)
	CARGO="$(CARGO)" tests/sanitize thread

MINUTES = 10
SEED =

soak: build ## mixed load, kills and outages against a model: MINUTES=10; SEED=… repeats a run
	KVS_SOAK_MINUTES=$(MINUTES) KVS_SOAK_SEED=$(SEED) $(CARGO) test $(LOCKED) --release --test soak

dist: ## what is installed, built and stripped, in target/install
	@CARGO="$(CARGO)" LOCKED="$(LOCKED)" packaging/build

DESTDIR =
PREFIX = /usr/local
# BINDIR, LIBDIR, INCLUDEDIR, MANDIR, DOCDIR and UNITDIR are below PREFIX unless set; SYSCONFDIR is
# PREFIX/etc, or /etc for PREFIX=/usr.
INSTALL = DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" BINDIR="$(BINDIR)" LIBDIR="$(LIBDIR)" \
	INCLUDEDIR="$(INCLUDEDIR)" MANDIR="$(MANDIR)" DOCDIR="$(DOCDIR)" UNITDIR="$(UNITDIR)" \
	SYSCONFDIR="$(SYSCONFDIR)" packaging/install

install: dist ## library, headers, servers, manual pages, units below DESTDIR and PREFIX=/usr/local
	@$(INSTALL) install

uninstall: ## remove what install has put there, with the same DESTDIR and PREFIX
	@$(INSTALL) uninstall

deb: dist ## the Debian package, in target
	@packaging/deb

deb-check: deb ## install that package on this machine (as root), use it, and purge it again
	@packaging/deb-check

abi-check: dist ## fails when the C interface has changed without a new version
	@packaging/abi check

abi-accept: dist ## make the current C interface the baseline of this version
	@packaging/abi accept

check-generated: build ## fails when include/kvs.h or man differ from what `make generate` writes
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && \
	target/release/kvs-generate "$$new" && \
	target/release/kvs-manual manual/pages "$$new/man" && \
	diff -u include/kvs.h "$$new/include/kvs.h" && diff -ru man "$$new/man" || \
		{ echo "include/kvs.h or man is out of date: run make generate and commit them"; exit 1; }

check-symbols: ## fails when the crate exports a C symbol without its feature `capi`
	@$(CARGO) rustc $(LOCKED) --quiet -p kvs-lib --lib --no-default-features --crate-type cdylib \
		--target-dir target/no-capi
	@symbols=$$(nm -D --defined-only target/no-capi/debug/libkvs.so) || exit 1; \
	if [ -n "$$symbols" ]; then echo "exported without capi:"; echo "$$symbols"; exit 1; fi

BENCH =

bench: build ## kvs against Redis, memcached, LMDB and a bare socket: BENCH=--help lists options
	@CARGO="$(CARGO)" bench/run $(BENCH)

bench-short: build ## the same in some seconds, to see that it works: the figures mean little
	@CARGO="$(CARGO)" bench/run --short $(BENCH)

bench-check: ## formatting, clippy and unit tests of the benchmark
	@CARGO="$(CARGO)" bench/run check

lossy: build ## 1,000 operations over a bad network, three times; KVS_LOSSY_SEED=… repeats a run
	KVS_LOSSY_OPERATIONS=1000 KVS_LOSSY_KILLS=20 $(CARGO) test $(LOCKED) --release -p kvs-tests \
		--test lossy_network -- --nocapture --test-threads 1

lint: fmt-check structure clippy doc ## formatting, structure, clippy, documentation

structure: ## fails on circles between modules, lines over 100 columns, long test names
	@$(CARGO) run $(LOCKED) --quiet --release -p kvs-lint

fmt: ## format the Rust sources
	$(CARGO) fmt --all
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml
	$(CARGO) fmt --manifest-path bench/Cargo.toml

fmt-check:
	@if $(CARGO) fmt --version >/dev/null 2>&1; then \
		$(CARGO) fmt --all --check && $(CARGO) fmt --manifest-path fuzz/Cargo.toml --check; \
	else tests/deps skip formatting -- "install rustfmt: rustup component add rustfmt"; fi

# In the release profile, so that dependencies of build scripts and macros are not built twice.
clippy:
	@if $(CARGO) clippy --version >/dev/null 2>&1; then \
		$(CARGO) clippy $(LOCKED) --release --workspace --all-targets -- -D warnings && \
		$(CARGO) clippy $(LOCKED) --release -p kvs-lib --no-default-features -- -D warnings && \
		$(CARGO) clippy $(LOCKED) --release -p kvs-lib --features course -- -D warnings; \
	else tests/deps skip clippy -- "install it: rustup component add clippy"; fi

doc: ## the Rust documentation, in target/doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc $(LOCKED) --release --workspace --no-deps

clean: ## remove everything that was built
	$(CARGO) clean
	$(MAKE) -C c-examples clean
