# make demo runs the bundled model, make test the quick tests; `make help` lists the rest.
#
#   PYTHON     interpreter that .venv is made with, 3.11 or newer
#   PIP_ARGS   further options for pip, for example an index that has CPU-only wheels of torch
#   WORKERS    processes that run tests
#   BENCH_ARGS options of the benchmarks; empty for full runs
#   VLLM_ENV   environment that test-vllm makes, 3.4 GB
#   VLLM_ARGS  options of test-vllm, --quick for example

PYTHON ?= python3
PIP_ARGS ?=
WORKERS ?= 2
BENCH_ARGS ?= --quick
VLLM_ENV ?= .venv-vllm
VLLM_ARGS ?=

BIN := .venv/bin
TORCH := torch==2.13.0
# One command that names torch together with everything that needs it, so that pip cannot choose another torch later.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -c constraints.txt "$(TORCH)"

.DEFAULT_GOAL := help
.PHONY: help demo train-debug test test-acceptance check format eval-nano bench test-vllm docs dist

help:
	@echo "make demo             install, ask the bundled model about a picture, draw its points"
	@echo "make train-debug      the three training modes and fine-tuning at debug size, in two minutes"
	@echo "make test             quick tests"
	@echo "make test-acceptance  tests that train something (under thirty minutes on two cores)"
	@echo "make check            style, types, import layers"
	@echo "make format           let ruff rewrite what it can"
	@echo "make eval-nano        measure the bundled model on 500 unseen scenes"
	@echo "make docs             the docs as a site, in site/; a broken link is an error"
	@echo "make dist             sdist and wheel, in dist/"
	@echo "make bench            benchmarks, quick by default (BENCH_ARGS= for full runs)"
	@echo "make test-vllm        answers of exported models in vLLM against ours; installs vLLM for CPUs, 3.4 GB"

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 or newer is needed and $(PYTHON) is $$($(PYTHON) --version 2>&1);" \
	    "name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv

# Stamps: pip runs again only where what is to be installed has changed.
.venv/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

.venv/.installed-test: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[test]"
	@touch $@ .venv/.installed

.venv/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[test,dev]"
	@touch $@ .venv/.installed .venv/.installed-test

.venv/.installed-docs: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e ".[docs]"
	@touch $@ .venv/.installed

# The bundled model is too small to share out; on a busy machine threads would only wait for one another.
demo: .venv/.installed
	@OMP_NUM_THREADS=1 $(BIN)/molmo demo

train-debug: .venv/.installed
	@$(BIN)/python scripts/train_debug.py

test: .venv/.installed-test
	$(BIN)/python -m pytest -m "not slow and not gpu and not network" -n $(WORKERS)

test-acceptance: .venv/.installed-test
	$(BIN)/python -m pytest -m "slow and not gpu and not network" --timeout 1800

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/policy/test_layers.py

format: .venv/.installed-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

eval-nano: .venv/.installed
	$(BIN)/python benchmarks/nano.py --save

# The site's theme tells of the end of MkDocs 1 at each build; docs/log.md has what was decided.
docs: .venv/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

dist: .venv/.installed-dev
	$(BIN)/python -m build --outdir dist

bench: .venv/.installed-test
	@for script in decode prefill preprocess train_step; do \
	  echo "== $$script"; $(BIN)/python benchmarks/$$script.py $(BENCH_ARGS) || exit 1; \
	done

$(VLLM_ENV)/.installed: scripts/install_vllm.py integrations/vllm_olmo/pyproject.toml
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_ENV)/bin/python scripts/install_vllm.py $(PIP_ARGS)
	$(VLLM_ENV)/bin/python -m pip install --disable-pip-version-check --no-deps -e integrations/vllm_olmo
	@touch $@

test-vllm: .venv/.installed-test $(VLLM_ENV)/.installed
	$(BIN)/python benchmarks/vllm_answers.py --vllm-python $(VLLM_ENV)/bin/python $(VLLM_ARGS)
