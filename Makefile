# Each target does its own set-up, in .venv, on a machine that has only make and python3 (3.11 or newer).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_FOR_TESTS := $(VENV)/.installed-for-tests
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
# Brokers, clients and tests start hundreds of processes from here: each module is compiled once, whatever is set.
unexport PYTHONDONTWRITEBYTECODE
TYPED := kbroker tests $(if $(wildcard perf/*.py),perf)

.PHONY: help demo test test-fast check format bench reference clean
.DEFAULT_GOAL := help

help:  ## What can be made
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(INSTALLED)  ## Real text through a real broker, a worker killed on the way, everything verified (minutes)
	@$(BIN)/python -m tests.demo

# The quick tests run side by side and are covered; the others start brokers, which the tracer would not see.
test: check  ## Style, types and every test; TESTS='--strict-skips' and the like go to pytest
	$(BIN)/python -m pytest -m "not slow" -n 2 --cov --cov-report= $(TESTS)
	$(BIN)/python -m pytest -m slow $(TESTS)

test-fast: $(INSTALLED_FOR_TESTS)  ## The tests that take under a minute in all
	$(BIN)/python -m pytest -m "not slow" -n 2 --hypothesis-profile=fast

check: $(INSTALLED_FOR_TESTS)  ## Style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(TYPED)

format: $(INSTALLED_FOR_TESTS)  ## Put the code in its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED_FOR_TESTS)  ## Every figure beside a calibration of this machine (3 minutes); see perf/
	@$(BIN)/python -m perf --save bench

reference: $(INSTALLED)  ## Write docs/SETTINGS.md from kbroker/config/
	@mkdir -p docs
	$(BIN)/kbroker config reference --markdown > docs/SETTINGS.md

clean:  ## Remove what was made, .venv too
	rm -rf $(VENV) build dist *.egg-info .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamps come last: a set-up that was interrupted is done again.

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "kbroker: there is no $(PYTHON) here; on Debian: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "kbroker: Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name another by make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "kbroker: this Python cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; \
	  exit 1; }
	@echo "kbroker: making $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)

$(INSTALLED): pyproject.toml | $(BIN)/python
	@echo "kbroker: installing kbroker and what it needs into $(VENV) (the first time takes a minute)"
	@$(PIP) install --editable . || { \
	  echo "kbroker: pip could not install what kbroker needs (no network?); see above" >&2; exit 1; }
	@touch $@

$(INSTALLED_FOR_TESTS): pyproject.toml | $(BIN)/python
	@echo "kbroker: installing kbroker and its tests' needs into $(VENV) (the first time takes a minute)"
	@$(PIP) install --editable '.[test]' || { \
	  echo "kbroker: pip could not install what the tests need (no network?); see above" >&2; exit 1; }
	@touch $(INSTALLED) $@
