# `make book` and `make test` do everything; `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Busy-waiting threads collapse on a shared machine.
export OMP_WAIT_POLICY := passive
export PYTHONHASHSEED := 0

# Tests and notebooks run as many processes of one thread each: small networks gain nothing from a second thread.
JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$((n < 8 ? n : 8)))
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(ONE_THREAD) $(BIN)/python -m pytest -p tools.slowest -n $(JOBS) --durations=10

.DEFAULT_GOAL := help
.PHONY: help book test test-package test-notebooks test-site test-lab lab notebooks replicate table-1 table-2 figures bench mutants lint lock clean

help: ## List what there is to make
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

book: $(INSTALLED) ## Build the site in _build/html and print its path
	@$(BIN)/python tools/site.py

test: test-package test-notebooks ## Run the unit tests and every notebook (JOBS=processes)

test-package: $(INSTALLED)
	$(PYTEST) --dist worksteal tests

# Longest notebook first, so that no process is left alone with it; the limit of a cell is for one that hangs.
test-notebooks: $(INSTALLED)
	notebooks=$$($(BIN)/python tools/notebooks.py --list) && GILEARN_STATIC=1 $(PYTEST) --dist loadfile \
		--no-loadscope-reorder --nbval-lax --nbval-current-env --nbval-cell-timeout=900 $$notebooks

test-site: $(INSTALLED) ## Scan the built site and drive it in Chromium (CHROMIUM=path)
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[browser]'
	$(BIN)/python -m pytest tests/site

test-lab: $(INSTALLED) ## Drive JupyterLab in Chromium: read, run, stop, save (LAB_CHAPTERS="setup part/name")
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[browser]'
	$(ONE_THREAD) $(BIN)/python -m pytest tests/lab

lab: $(INSTALLED) ## Open the notebooks in JupyterLab
	JUPYTER_CONFIG_PATH=$(CURDIR)/.jupyter $(BIN)/jupyter lab --notebook-dir=book

notebooks: $(INSTALLED) ## Execute the notebooks whose text, package or lock file changed (ALL=1: all)
	$(BIN)/python tools/notebooks.py --jobs $(JOBS) $(if $(ALL),--all)

FOLDS ?= 1 2 3
replicate: $(INSTALLED) ## Execute the book on other data (FOLDS="1 2 3"), or in other arithmetic (ARITHMETIC=1)
	$(BIN)/python tools/replicate.py --jobs $(JOBS) --record $(if $(ARITHMETIC),--arithmetic,--folds $(FOLDS))

table-1: $(INSTALLED) ## Run the fifteen attacks of the survey's Table 1, and record what comes out
	$(ONE_THREAD) $(BIN)/python -m tools.record_table_1

table-2: $(INSTALLED) ## Run all attacks against all defenses of Table 2, and record what comes out and what they cost
	$(ONE_THREAD) $(BIN)/python -m tools.record_grid
	$(ONE_THREAD) $(BIN)/python -m tools.record_table_2

figures: $(INSTALLED) ## Write figures and their numbers to _build/figures (NAME=fig:two-branches: that one)
	$(ONE_THREAD) $(BIN)/python tools/figures.py $(NAME)

bench: $(INSTALLED) ## Run the benchmarks, each against its baseline
	$(BIN)/python -m tests.benchmarks.engine
	$(BIN)/python -m tests.benchmarks.deep_leakage
	$(BIN)/python -m tests.benchmarks.recursion
	$(BIN)/python -m tests.benchmarks.batching
	$(BIN)/python -m tests.benchmarks.arena
	$(BIN)/python -m tests.benchmarks.encryption

mutants: $(INSTALLED) ## Mutate the formulas, list the mutants that no test notices; goes on where it was stopped
	$(BIN)/python -m pip install --quiet -c requirements.lock -e '.[mutants]'
	$(BIN)/python tools/mutants.py run
	$(BIN)/python tools/mutants.py results

lint: $(INSTALLED) ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

lock: ## Resolve the newest versions that the ranges allow, and pin them
	$(PYTHON) tools/lock.py

clean: ## Remove the environment and everything that was built
	rm -rf $(VENV) _build mutants .pytest_cache .mypy_cache .ruff_cache

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[book,test]'
	@touch $@
