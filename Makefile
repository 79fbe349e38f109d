# Every target does its own set-up; `make help` lists them.

# Debian keeps mke2fs where only root's path looks.
export PATH := $(PATH):/usr/sbin:/sbin

BIN := .venv/bin
SECONDS ?= 60
ARGS ?=

ROOMS := doorbells transport hostside guestside
SOURCES := $(shell find paravirt $(ROOMS) -name '*.py' -o -name '*.pyi')
MACHINE := hostside/machine/core
CORE := $(wildcard transport/core/*.[ch] transport/core/host/*.[ch] $(MACHINE)/*.[ch] $(MACHINE)/*/*.[chS])
FREESTANDING := $(wildcard transport/core/*.c)
CHECKED_C := $(FREESTANDING) $(wildcard transport/core/host/*.c $(MACHINE)/*.c $(MACHINE)/$(shell uname -m)/*.c)
PAYLOAD := $(wildcard guestside/payload/*.[chS] guestside/payload/*.ld doorbells/guest/*.h)
PAYLOAD_C := $(wildcard guestside/payload/*.c)
FUZZERS := $(patsubst tests/fuzz/%.c,%,$(filter-out %/replay.c,$(wildcard tests/fuzz/*.c)))

READY := .venv/.ready
BUILT := transport/_core.abi3.so
SANITIZED := build/sanitized
SANITIZED_TESTS := $(wildcard tests/transport tests/hostside tests/guestside)

# Setuptools says at each build that its pyproject tables are experimental; they are pinned.
PIP := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation
# The sanitizers' runtimes want the classic address space layout.
FIXED := $(shell setarch -R true 2>/dev/null && echo setarch -R)
WARNINGS := -std=c11 -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Werror -Itransport/core -I$(MACHINE)

.PHONY: help install demo test lint bench fuzz soak soak-swap docs clean setup-demo setup-checks
.PHONY: test-python test-c sanitized corpus replay lint-python lint-c lint-arm lint-payload lint-wheel freestanding

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(BUILT)  ## make .venv with everything in it; then .venv/bin/paravirt runs

$(READY): pyproject.toml
	@.ci/setup build
	@touch $@

$(BUILT): $(READY) $(CORE) $(PAYLOAD) transport/core/build.py guestside/payload/build.py
	@echo "== building the C core"
	@$(if $(CI),PARAVIRT_WERROR=1) $(PIP) --editable .
	@touch $@

setup-demo:
	@.ci/setup demo

setup-checks:
	@.ci/setup checks

# -- use it ----------------------------------------------------------------------------------------

demo: $(BUILT) setup-demo  ## serve a real disk image through a virtio ring, with each doorbell
	@$(BIN)/paravirt demo $(ARGS)

bench: $(BUILT) setup-demo  ## measure the ring, the server, the disk and idle connections here
	@$(BIN)/paravirt bench ring $(ARGS)
	@$(BIN)/paravirt bench serve $(ARGS)
	@$(BIN)/paravirt bench block $(ARGS)
	@$(BIN)/paravirt bench idle $(ARGS)

# -- tests -----------------------------------------------------------------------------------------

test: test-c test-python  ## run all tests; ARGS="-k malformed -v" chooses among those in Python

test-python: $(BUILT) setup-checks
	@echo "== tests"
	@$(BIN)/pytest -m "not wheel" $(ARGS)

test-c: replay sanitized

$(SANITIZED)/.built: $(READY) $(CORE) $(SOURCES) transport/core/build.py
	@echo "== building the C core with AddressSanitizer and UndefinedBehaviorSanitizer"
	@rm -rf $(SANITIZED)
	@mkdir -p $(SANITIZED)
	@printf '[build]\nbuild_base = $(SANITIZED)/objects\n' > $(SANITIZED)/build.cfg
	@$(if $(CI),PARAVIRT_WERROR=1) DIST_EXTRA_CONFIG=$(SANITIZED)/build.cfg \
	CFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -fno-wrapv -g -O1" \
	$(PIP) --target $(SANITIZED)/site .
	@touch $@

# PARAVIRT_CORE makes tests/conftest.py refuse to run on any other copy of the core.
sanitized: $(SANITIZED)/.built
	@echo "== $(SANITIZED_TESTS) on the sanitized core"
	@PARAVIRT_CORE=$(SANITIZED)/site PYTHONPATH=$(SANITIZED)/site PYTHONMALLOC=malloc \
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	$(FIXED) $(BIN)/pytest --capture=sys -m "not wheel" --hypothesis-profile=sanitized $(SANITIZED_TESTS)

# -- fuzzing ---------------------------------------------------------------------------------------

build/fuzz/%: tests/fuzz/%.c $(CORE)
	@mkdir -p build/fuzz
	clang-14 -std=c11 -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all \
	    -Itransport/core $< $(FREESTANDING) -o $@

# Build each fuzz target and run it with the arguments given, or say why not.
define each-fuzzer
	@ls $$(clang-14 -print-resource-dir 2>/dev/null)/lib/linux/libclang_rt.fuzzer-*.a >/dev/null 2>&1 || \
	    { echo "SKIPPED: fuzzing: no clang-14 with libFuzzer (libclang-rt-14-dev)"; exit 0; }; \
	[ -n "$(FUZZERS)" ] || echo "SKIPPED: fuzzing: there is no tests/fuzz/*.c"; \
	for name in $(FUZZERS); do \
	    $(MAKE) --no-print-directory build/fuzz/$$name || exit 1; \
	    mkdir -p build/corpus/$$name tests/fuzz/corpus/$$name; \
	    $(FIXED) build/fuzz/$$name $(1) || exit 1; \
	done
endef

fuzz: setup-checks  ## feed broken rings to the device's end for SECONDS=60; finds go to build/corpus
	@echo "== fuzzing for $(SECONDS) s a target"
	$(call each-fuzzer,-max_total_time=$(SECONDS) -timeout=10 -print_final_stats=1 \
	    -artifact_prefix=build/fuzz/$$name- build/corpus/$$name tests/fuzz/corpus/$$name)

replay: setup-checks
	@echo "== the kept corpus through the fuzz targets"
	$(call each-fuzzer,-runs=0 tests/fuzz/corpus/$$name)

corpus: setup-checks  ## keep what `make fuzz` found: merge build/corpus into tests/fuzz/corpus
	$(call each-fuzzer,-merge=1 tests/fuzz/corpus/$$name build/corpus/$$name)

soak: $(BUILT)  ## the randomized tests again and again, each round with a new seed, for SECONDS
	@end=$$(($$(date +%s) + $(SECONDS))); round=0; \
	while [ $$(date +%s) -lt $$end ]; do \
	    round=$$((round + 1)); echo "== soak, round $$round"; \
	    $(BIN)/pytest -q -m "not wheel" --hypothesis-profile=soak -o faulthandler_timeout=0 \
	        tests/transport tests/doorbells $(wildcard tests/hostside tests/guestside) || exit 1; \
	done

soak-swap: $(BUILT)  ## change doorbells every 10 ms under load, for SECONDS a load; ARGS=--json
	@$(BIN)/paravirt soak --seconds $(SECONDS) $(ARGS)

# -- lint ------------------------------------------------------------------------------------------

lint: lint-python lint-c lint-wheel  ## style, types, static analysis, the arrows and the wheel

lint-python: $(BUILT)
	@echo "== ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "== mypy"
	@$(BIN)/mypy $(addprefix -p ,paravirt $(wildcard examples) tests)
	@echo "== pyright"
	@$(BIN)/pyright
	@echo "== the arrows between the rooms, their menus, the house limits"
	@$(BIN)/pytest -q tests/test_arrows.py tests/test_menu.py tests/test_house.py

lint-c: setup-checks freestanding lint-payload lint-arm
	@mkdir -p build/lint
	@for cc in gcc clang-14; do \
	    command -v $$cc >/dev/null || { echo "SKIPPED: warnings of $$cc: not there"; continue; }; \
	    echo "== $$cc, all warnings"; \
	    for source in $(CHECKED_C); do $$cc $(WARNINGS) -O2 -c $$source -o build/lint/out.o || exit 1; done; \
	done
	@echo "== gcc -fanalyzer"
	@for source in $(CHECKED_C); do gcc $(WARNINGS) -O2 -fanalyzer -c $$source -o build/lint/out.o || exit 1; done
	@if command -v clang-tidy-14 >/dev/null; then echo "== clang-tidy"; \
	    clang-tidy-14 --quiet $(CHECKED_C) -- -std=c11 -Itransport/core -I$(MACHINE) 2>/dev/null; \
	else echo "SKIPPED: clang-tidy: not there"; fi

freestanding: setup-checks
	@mkdir -p build/lint
	@for cc in gcc clang-14; do \
	    command -v $$cc >/dev/null || { echo "SKIPPED: freestanding link with $$cc: not there"; continue; }; \
	    echo "== $$cc, linked with no library"; \
	    for level in -O2 -O3; do \
	        $$cc -std=c11 $$level -ffreestanding -fno-stack-protector -fno-pic -nostdlib -r -Itransport/core \
	            $(FREESTANDING) -o build/lint/core.o || exit 1; \
	        missing=$$(nm --undefined-only build/lint/core.o); \
	        [ -z "$$missing" ] || { echo "undefined with $$cc $$level: $$missing"; exit 1; }; \
	    done; \
	done

# All that another CPU has: the freestanding core, the guest's end of the doorbells, both extensions with their declarations.
# There GCC zeroes a large structure by memset, which it asks of every freestanding environment.
ARM := aarch64-linux-gnu-gcc
ARM_BUILD := build/lint/arm
lint-arm: $(READY) setup-checks
	@command -v $(ARM) >/dev/null || { echo "SKIPPED: the C for Arm: no $(ARM)"; exit 0; }; \
	echo "== $(ARM), all warnings"; \
	rm -rf $(ARM_BUILD); mkdir -p $(ARM_BUILD); \
	for source in $(FREESTANDING) $(wildcard transport/core/host/*.c $(MACHINE)/*.c); do \
	    $(ARM) $(WARNINGS) -O2 -c $$source -o $(ARM_BUILD)/out.o || exit 1; \
	done; \
	$(ARM) $(WARNINGS) -O2 -fsyntax-only -x c doorbells/guest/doorbell.h || exit 1; \
	$(ARM) -std=c11 -O2 -ffreestanding -fno-stack-protector -mno-outline-atomics -nostdlib -r -Itransport/core \
	    $(FREESTANDING) -o $(ARM_BUILD)/core.o || exit 1; \
	missing=$$(aarch64-linux-gnu-nm --undefined-only $(ARM_BUILD)/core.o | grep -v ' memset$$'); \
	[ -z "$$missing" ] || { echo "undefined on Arm: $$missing"; exit 1; }; \
	include=$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
	echo '#include <Python.h>' | $(ARM) -fsyntax-only -I$$include -x c - 2>/dev/null || \
	    { echo "SKIPPED: the extensions for Arm: this Python's headers are for its own CPU only"; exit 0; }; \
	echo "== the extensions, linked for Arm"; \
	printf '[build]\nbuild_base = $(ARM_BUILD)/objects\n' > $(ARM_BUILD)/build.cfg; \
	DIST_EXTRA_CONFIG=$(ARM_BUILD)/build.cfg PARAVIRT_WERROR=1 _PYTHON_HOST_PLATFORM=linux-aarch64 \
	CC=$(ARM) LDSHARED="$(ARM) -shared" \
	    $(BIN)/python -W ignore -c 'import setuptools; setuptools.setup()' -q build_ext --build-lib $(ARM_BUILD)/site

# The bare-metal guest: x86-64 only, and its addresses are numbers. The flags are those of guestside/payload/build.py.
BARE := -ffreestanding -mgeneral-regs-only -mno-red-zone -fno-pic -Idoorbells/guest
lint-payload: $(READY) setup-checks
	@mkdir -p build/lint
	@[ "$$(uname -m)" = x86_64 ] || { echo "SKIPPED: the payload: this is no x86-64 machine"; exit 0; }; \
	for cc in gcc clang-14; do \
	    command -v $$cc >/dev/null || { echo "SKIPPED: the payload with $$cc: not there"; continue; }; \
	    echo "== the payload with $$cc, all warnings"; \
	    CC=$$cc PARAVIRT_WERROR=1 $(BIN)/python guestside/payload/build.py build/lint/payload-$$cc.elf || exit 1; \
	done; \
	echo "== the payload, gcc -fanalyzer"; \
	for source in $(PAYLOAD_C); do \
	    gcc $(WARNINGS) $(BARE) -O2 -fanalyzer -c $$source -o build/lint/out.o || exit 1; \
	done; \
	if command -v clang-tidy-14 >/dev/null; then echo "== the payload, clang-tidy"; \
	    clang-tidy-14 --quiet --checks=-performance-no-int-to-ptr $(PAYLOAD_C) -- -std=c11 $(BARE) -Itransport/core 2>/dev/null; \
	else echo "SKIPPED: clang-tidy: not there"; fi

lint-wheel: $(BUILT)
	@echo "== the wheel, installed and imported from elsewhere"
	@$(BIN)/pytest -q -m wheel tests/test_wheel.py

docs: $(BUILT)  ## write what the documentation has from the code
	@$(BIN)/python -c 'import pathlib; from paravirt.transport.vhost_user import document; \
	page = pathlib.Path("docs/vhost-user.md"); mark = "<!-- generated -->\n"; \
	page.write_text(page.read_text().partition(mark)[0] + mark + document())'

clean:  ## remove all that make made, .venv too
	rm -rf .venv build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	rm -f transport/_core*.so hostside/machine/_kvm*.so guestside/payload/payload.elf
	find paravirt $(ROOMS) examples tests -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
