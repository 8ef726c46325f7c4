# Every target works as the first command on a fresh clone: nothing is needed but make and
# Python 3.11 or newer.  What pyproject.toml names is installed into .venv, once.

PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11 python
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq
ARGS ?=
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check lint types soak bench wheel-test clean

help: ## List what there is.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/installed ## Run the demo; interrupt it, run it again, and it goes on (ARGS=--fast).
	@$(BIN)/outlast demo $(ARGS)

test: $(VENV)/installed-dev ## Run the tests (WORKERS=2 in parallel; ARGS='-k name' goes to pytest).
	@$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

check: lint types ## Lint, check the types, run the tests and hold the floor of their coverage.
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m coverage run -m pytest $(ARGS)
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

lint: $(VENV)/installed-dev ## Check format, style, types and the floors of the architecture.
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports

types: $(VENV)/installed-types ## Check with pyright the types that a user of the package sees.
	@$(BIN)/pyright --pythonpath $(BIN)/python

soak: $(VENV)/installed-dev ## Run the tests with their full counts, which takes long.
	@OUTLAST_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

bench: $(VENV)/installed-dev ## Measure speed and size against raw SQLite, and a turn over HTTP against the bare SDK.
	@$(BIN)/python bench/run.py $(ARGS)

wheel-test: $(VENV)/installed-dev ## Build the wheel, install it into an empty place, and run the demo from it.
	@rm -rf build/wheel && mkdir -p build/wheel
	@$(BIN)/python -m hatchling build --target wheel --directory build/wheel > /dev/null
	@$(BIN)/python -m venv build/wheel/venv
	@echo "installing the wheel into build/wheel/venv ..."
	@build/wheel/venv/bin/python -m pip --disable-pip-version-check -qq install build/wheel/*.whl
	@cd build/wheel && venv/bin/outlast --version && \
	  OUTLAST_STORE=sqlite:///demo.db venv/bin/outlast demo --fast

clean: ## Remove everything that was made here, .venv too.
	@rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis
	@rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ── the environment ───────────────────────────────────────────────────────────────────────────

$(BIN)/python:
	@for python in $(PYTHON); do \
	  $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || continue; \
	  $$python -m venv --clear $(VENV) && exit 0; \
	  echo "$$python cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"; \
	  exit 1; \
	done; \
	echo "outlast needs Python 3.11 or newer, and none was found as: $(PYTHON)"; \
	echo "Install one, or name yours: make PYTHON=/path/to/python3"; \
	exit 1

$(VENV)/installed: pyproject.toml $(BIN)/python
	@echo "installing outlast into $(VENV) (once, about a minute) ..."
	@$(PIP) install --editable .
	@touch $@

# Dependency groups are newer than the pip that Python 3.11 and 3.12 bring.
$(VENV)/installed-dev: pyproject.toml $(BIN)/python
	@echo "installing outlast and what its tests need into $(VENV) (once, about a minute) ..."
	@$(PIP) install --upgrade 'pip>=25.1'
	@$(PIP) install --editable . --group dev
	@touch $(VENV)/installed $@

# Apart from the rest, because it brings a Node of its own.
$(VENV)/installed-types: $(VENV)/installed-dev
	@echo "installing pyright into $(VENV) (once) ..."
	@$(PIP) install --group types
	@touch $@
