# make demo | test | lint | format | clean
# Needs Python 3.11 or newer, make and git; everything else is installed into .venv.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format site clean
MAKEFLAGS += --no-print-directory

VENV ?= .venv
PYTHON ?= $(shell for p in python3.11 python3 python; do \
	"$$p" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$p"; break; }; done)
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO_OUT ?= demo
WORKERS ?= 2
PYTEST_ARGS ?=
# Which tests: the quick ones; CI adds those marked slow, TESTS= all others.
TESTS ?= not slow and not long

# Small tensors, many steps: one thread each is faster than two, and gives the same bits everywhere.
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

help:
	@echo "make demo    train four small networks on real data, certify them, write $(DEMO_OUT)/report.html"
	@echo "make test    run the test suite within 15 minutes (TESTS='not long' as CI, TESTS= all of it, PYTEST_ARGS=… for more)"
	@echo "make lint    ruff and mypy"
	@echo "make format  ruff format and safe fixes"
	@echo "make site    the pages of docs/ as a site, in site/"
	@echo "make clean   remove the environment, caches and the demo's output"

setup: $(STAMP)

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
	  echo "thetabox needs Python 3.11 or newer, and none was found on PATH; install it, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; fi
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "thetabox needs Python 3.11 or newer, but $(PYTHON) is $$("$(PYTHON)" --version 2>/dev/null || echo not a Python); name another: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@"$(PYTHON)" -m venv "$(VENV)" || { rm -rf "$(VENV)"; \
	  echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

# Not compiled, which takes longer than all the rest: Python does that for what it imports, a part of it.
# auto_LiRPA 0.3 asks for torch < 1.13 in its metadata though it runs with newer ones, so it goes in by itself.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing thetabox and what it needs into $(VENV) (once, a few minutes)"
	@$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[audio,check,docs,ecg,nir,onnx,test]"
	@$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt appdirs tqdm packaging ninja pyyaml
	@$(BIN)/python -m pip install --quiet --no-compile --no-deps auto_LiRPA==0.3
	@touch $@

demo: $(STAMP)
	@$(BIN)/thetabox demo --out "$(DEMO_OUT)"

test: $(STAMP)
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "$(TESTS)" $(PYTEST_ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

# A broken link, a name that the reference does not find: any warning is an error.
site: $(STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf "$(VENV)" "$(DEMO_OUT)" build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find thetabox tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
