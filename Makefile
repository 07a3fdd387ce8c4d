# Everything runs in $(VENV), which the targets make themselves. To use an environment of your own
# (one with Detectron2, say) name its interpreter and nothing is installed:
#     make test PY=python3

PYTHON ?= python3
VENV ?= .venv
# Two processes, a file of tests in one of them: more would only wait on two cores.
PYTEST_ARGS ?= -n 2 --dist loadfile

ifdef PY
DEMO_READY :=
DEV_READY :=
else
PY := $(VENV)/bin/python
DEMO_READY := $(VENV)/.demo
DEV_READY := $(VENV)/.dev
endif

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-fast lint types format clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

demo: $(DEMO_READY) ## the whole chain on one real volume, minutes on two cores; leaves a report
	$(PY) tools/demo.py --output demo_output

test: lint types ## linter, type checker and the whole test suite
	$(PY) -m pytest $(PYTEST_ARGS)

test-fast: $(DEV_READY) ## the tests without the end-to-end runs
	$(PY) -m pytest -m "not slow" $(PYTEST_ARGS)

lint: $(DEV_READY) ## ruff, changing nothing
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

types: $(DEV_READY) ## mypy
	$(PY) -m mypy

format: $(DEV_READY) ## ruff, mending what it can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: ## remove the environment and the caches
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo "error: $(PYTHON) must be Python 3.10 or newer (make PYTHON=...)" >&2; exit 1; }
# Debian's Python may lack ensurepip; its pip can then fill the bare environment.
	@$(PYTHON) -m venv $(VENV) 2>/dev/null \
	  || { $(PYTHON) -m venv --clear --without-pip $(VENV) \
	       && $(PYTHON) -m pip --python $(VENV)/bin/python install --quiet pip; }

$(VENV)/.demo $(VENV)/.dev: $(VENV)/.%: $(VENV)/bin/python pyproject.toml
	@echo "installing mrssl[$*] into $(VENV): 3 to 6 GB, minutes, once"
	$(PY) -m pip install --progress-bar off -e '.[$*]'
	@touch $@
