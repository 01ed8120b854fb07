# Every target sets up what it needs by itself: a virtual environment in .venv, the dependencies, the C kernels.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PIP     = $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
STAMP  := $(VENV)/.installed
SOURCES_C := $(wildcard src/subspaces/kernels/native/*.[ch])
DATA   := $(if $(SUBSPACES_DATA),$(SUBSPACES_DATA),$(if $(wildcard ../shared/data),../shared/data,))
export SUBSPACES_DATA := $(DATA)
EXTRAS ?= dev
DEMO   ?= digits-fc
# a machine with a GPU mostly has its own torch: nothing is installed there
GPU_PYTHON ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))
GPU_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast test-slow check fuzz sanitize torture format bench gpu docs clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

setup: $(STAMP) ## make the virtual environment, install everything, build the C kernels

$(STAMP): pyproject.toml constraints.txt setup.py $(SOURCES_C)
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed; got %s. Set PYTHON=python3.12, say." % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing dependencies (the first time takes a few minutes) ..."
	@$(PIP) "setuptools>=77" torch
	@$(PIP) --no-build-isolation -e ".[$(EXTRAS)]"
	@$(BIN)/python -c 'from subspaces.kernels import native_library as n; print("C kernels:", n.isa(), n.why_not())'
	@touch $@

demo: $(STAMP) ## measure an intrinsic dimension on handwritten digits and write its report
	@$(BIN)/subspaces dimension $(DEMO) --quick --out demo-report

test: $(STAMP) ## all tests that this machine can run
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile -m "not slow"

test-fast: $(STAMP) ## the tests of one process, stopping at the first failure
	@$(BIN)/python -m pytest -q -x -m "not slow and not data"

test-slow: $(STAMP) ## the tests that take more than a minute
	@$(BIN)/python -m pytest -q -m slow

check: $(STAMP) ## what continuous integration checks: format, lint, types, tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright
	@$(MAKE) test

fuzz: $(STAMP) ## damage files of every kind in 10,000 ways each and count what becomes of them (about 20 minutes)
	@$(BIN)/python tests/fuzz.py

sanitize: $(STAMP) ## 100,000 calls of the C kernels under the address, undefined-behaviour and thread sanitizers (two minutes)
	@$(BIN)/python tests/sanitize.py

torture: $(STAMP) ## end commands by kill -9 a thousand times and count what became of their runs (about 30 minutes)
	@$(BIN)/python tests/torture.py

format: $(STAMP) ## rewrite the sources in the house style
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

bench: $(STAMP) ## print the tables of speed and memory (about ten minutes on a quiet machine)
	@$(BIN)/python benchmarks/projections.py
	@$(BIN)/python benchmarks/step.py
	@$(BIN)/python benchmarks/step.py --memory resnet18 encoder

gpu: ## measure everything on a GPU in at most 530 s; rows go to OUT (scratch/gpu)
	@$(GPU_PYTHON) benchmarks/gpu.py $(GPU_OPTIONS)

docs: $(STAMP) ## rebuild the measured parts of README.md and docs/ from the rows under results/
	@$(BIN)/subspaces reproduce --docs
	@$(BIN)/python benchmarks/readme.py

clean: ## remove what was built
	rm -rf $(VENV) build dist src/*.egg-info src/subspaces/kernels/_native*.so .pytest_cache .ruff_cache demo-report
