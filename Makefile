# Each target sets up what it needs in $(VENV); nothing is installed outside it.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint constraints-dev.txt
# Torch, BLAS and pytest's workers would otherwise each take every core.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test lint format check bench clean

demo: $(VENV)/.core       ## harden a small CNN on real digits and show before and after
	$(BIN)/artplus demo --output-dir demo --overwrite

test: $(VENV)/.dev        ## the test suite, with branch coverage
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --cov $(ARGS)

lint: $(VENV)/.dev        ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev      ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

check: lint test          ## what CI runs

bench: $(VENV)/.core      ## speed and memory beside loops by hand, ART and others: half an hour
	$(BIN)/python -m tests.benchmarks.suite --output suite.json

clean:
	rm -rf $(VENV) demo build dist .coverage

$(VENV)/.core: pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev: pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable '.[dev]'
	touch $@ $(VENV)/.core
