# `make` lists the targets. Everything is installed into .venv and nothing outside it is changed.

VENV  := .venv
BIN   := $(VENV)/bin
READY := $(VENV)/.installed
# Processes that share the tests, and what is passed on to a command: make test JOBS=4 ARGS="-k genome"
JOBS  ?= 2
ARGS  ?=
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

RECENT = import sys; sys.exit(sys.version_info < (3, 10))
usable = $(shell $(1) -c '$(RECENT)' >/dev/null 2>&1 && echo $(1))
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11 python3.10 python,$(call usable,$(name))))
NO_PYTHON = emomc needs Python 3.10 or newer and found none. Install one, or name it: make $(MAKECMDGOALS) PYTHON=/path/to/python3

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install demo test slow lint format types contract check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(READY) ## install into .venv; the other targets do so when needed

demo: $(READY) ## search compressed networks for handwritten digits; the front goes to runs/demo
	@$(BIN)/emomc search digits --run runs/demo $(ARGS)

test: $(READY) ## run the test suite
	@$(PYTEST) -m "not slow" $(ARGS)

slow: $(READY) ## run the tests that take long: real images, killed processes, other schedulers
	@$(PYTEST) -m slow $(ARGS)

lint: $(READY) ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(READY) ## format the code and fix what can be fixed
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .

types: $(READY) ## check types
	@$(BIN)/mypy

contract: $(READY) ## check who may import whom
	@$(BIN)/lint-imports --no-logo

check: test slow lint types contract ## all that has to pass before a change is merged

clean: ## remove .venv and everything that tools left behind; runs/ is kept
	rm -rf $(VENV) build dist *.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): setup.cfg pyproject.toml constraints.txt
	$(if $(PYTHON),,$(error $(NO_PYTHON)))
	@$(PYTHON) -c '$(RECENT)' || { echo "$(PYTHON) is older than Python 3.10, which emomc needs."; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  echo "Creating $(VENV) with $$($(PYTHON) --version) ..."; \
	  $(PYTHON) -m venv --clear $(VENV); }
	@echo "Installing emomc and what it needs into $(VENV); PyTorch is large, so this takes minutes the first time ..."
	@quiet=--quiet; test -t 1 && quiet=; \
	  $(BIN)/python -m pip install $$quiet --prefer-binary --editable '.[test,dev]' --constraint constraints.txt
	@touch $@
	@echo "Installed."
