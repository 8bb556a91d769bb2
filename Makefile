# Each target sets up what it needs in $(VENV); nothing is installed outside it.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
# What is installed: this checkout in place, or the path of a wheel.
PACKAGE ?= .
CONSTRAINTS ?= constraints-dev.txt
EXTRAS ?= dev
BIN = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) \
    $(if $(filter .,$(PACKAGE)),--editable)
# Torch, BLAS and pytest's workers would otherwise each take every core.
ONE_THREAD = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

.PHONY: demo test test-lowest lint format docs check bench clean

demo: $(VENV)/.core       ## harden a small CNN on real digits and show before and after
	$(BIN)/artplus demo --output-dir demo --overwrite

test: $(VENV)/.dev        ## the test suite, with branch coverage
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(JOBS) --cov $(ARGS)

test-lowest:              ## the fast tests on the oldest versions allowed
	$(MAKE) test VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt EXTRAS=test \
	    ARGS="--no-cov -m 'not slow' $(ARGS)"

lint: $(VENV)/.dev        ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev      ## put the style right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev        ## the site, in build/docs; a warning is an error
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs build/docs

check: lint test docs     ## what CI runs, on the checkout

bench: $(VENV)/.core      ## speed and memory beside loops by hand, ART and others: half an hour
	$(BIN)/python -m tests.benchmarks.suite --output suite.json

clean:
	rm -rf $(VENV) .venv-lowest demo build dist .coverage

$(VENV)/.core: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '$(PACKAGE)'
	touch $@

$(VENV)/.dev: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) '$(PACKAGE)[$(EXTRAS)]'
	touch $@ $(VENV)/.core
