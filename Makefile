# Everything sets itself up: Python >= 3.11 and make are enough.
#   make demo    bookinfo in the terminal, under a minute
#   make test    every check, ending in pytest's summary line
# PYTHON=... chooses the interpreter, PYTEST_ARGS=... adds arguments to pytest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup lint unit parity test demo bench clean

# The first interpreter that is new enough.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
  "$$p" -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null \
  && { command -v "$$p"; break; }; done)
PYTEST_ARGS ?=

BIN := .venv/bin
READY := .venv/.ready
SERVERS := .venv/.servers
SERVERS_SCRIPT := $(wildcard tests/servers/install.sh)
PARITY := tests/parity

help:
	@sed -n '2,4s/^# //p' Makefile
	@echo 'targets: setup lint unit parity test demo bench clean'

# Both stamps are newer than what they were made from, so a second run does nothing.
$(READY): pyproject.toml tests/requirements.txt
	@test -n "$(PYTHON)" || { echo 'error: Python 3.11 or newer is needed (make PYTHON=/path/to/python3)' >&2; exit 1; }
	@# Debian parts venv from Python; as root it can be had.
	@test -x $(BIN)/pip || "$(PYTHON)" -m venv .venv || \
	  { apt-get update -qq && apt-get install -y -qq python3-venv && "$(PYTHON)" -m venv --clear .venv; }
	@echo 'setting up .venv ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e . -r tests/requirements.txt
	@touch $@

# Debian packages of the real servers that tests talk to (a DNS server).
$(SERVERS): $(READY) $(SERVERS_SCRIPT)
	@if [ -n "$(SERVERS_SCRIPT)" ]; then bash "$(SERVERS_SCRIPT)"; fi
	@touch $@

setup: $(READY)

lint: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict
	@$(BIN)/lint-imports --no-logo

unit: $(READY)
	@$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

parity: $(READY)
	@$(BIN)/python -m pytest $(PARITY) $(PYTEST_ARGS)

test: lint $(SERVERS)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

demo: $(READY)
	@$(BIN)/python examples/bookinfo_demo.py

bench: $(READY)
	@$(BIN)/python benchmarks/imports.py
	@$(BIN)/python benchmarks/compare.py --quick

clean:
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
