# Everything a developer or a pipeline runs. `make demo` and `make test` need nothing but a clone: the rest they set up.
#
# PYTHON=...   an interpreter of version 3.11 or later (default: the newest that is found)
# WORKERS=...  processes that share the tests (default: 4; they wait more than they compute)
# ARGS=...     more arguments for the program that a target runs

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup
# Bytecode is kept whatever the caller's environment says: the tests start some hundred processes of ours.
unexport PYTHONDONTWRITEBYTECODE
WORKERS ?= 4
# A test that hangs shows where, and ends itself instead of the whole run. Seconds; the slowest sound one takes a fifth.
PYTEST := $(BIN)/pytest -o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true $(ARGS)

.PHONY: help setup packages demo test lint types unit nightly bench format docs protos lock clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## The virtual environment in .venv, exactly as requirements.lock says

$(STAMP): requirements.lock pyproject.toml .ci/setup
	@PYTHON='$(PYTHON)' .ci/setup $(VENV)
	@touch $@

packages: ## The few programs that come from the distribution (crun)
	@.ci/packages

demo: setup packages ## Watch a pod VM come and go on this machine, without a cloud account
	@$(BIN)/peerpods demo $(ARGS)

test: setup lint ## What every change must pass: lint, types and all tests but the nightly ones
	@.ci/packages || echo 'going on without: tests that need them say so and are skipped'
	@# Each of these two uses one core: the types, and a first look at the tests, whose bytecode all workers then find.
	@$(PYTEST) --collect-only -qq >/dev/null 2>&1 & $(BIN)/mypy; status=$$?; wait; exit $$status
	$(BIN)/python -m adaptor.demo.enter $(PYTEST) -m 'not nightly' -n $(WORKERS) --dist worksteal

lint: setup ## Style, format and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

types: setup ## Types
	$(BIN)/mypy

unit: setup ## The unit tests alone
	$(PYTEST) tests/unit

nightly: setup packages ## Every test, the fuzzers at full length
	@# What images are made of comes into the cache here: inside the tests' namespaces there is no network.
	@$(BIN)/peerpods image build || echo 'going on without: tests that need an image say so and are skipped'
	PEERPODS_NIGHTLY=1 $(BIN)/python -m adaptor.demo.enter $(PYTEST) -n $(WORKERS) --dist worksteal

bench: setup packages ## Measurements beside their baselines; ARGS=--help for one at a time
	$(BIN)/python -m tests.bench $(ARGS)

format: setup ## Put every file into the form that lint wants
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: setup ## The generated parts of ARCHITECTURE.md, docs/configuration.md and the chart
	$(BIN)/python -m adaptor.cli.reference
	$(BIN)/python -m tests.architecture --write
	$(BIN)/python -m tests.chart --write

protos: setup ## What protoc makes of adaptor/protos/*.proto
	$(BIN)/python -m adaptor.protos.generate

lock: setup ## requirements.lock out of pyproject.toml; ARGS=--upgrade for newer versions
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		--extra aws --extra azure --extra gcp --extra image --extra kubernetes --extra sim --group dev --quiet $(ARGS) pyproject.toml -o requirements.lock

clean: ## Away with everything that was made here
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
