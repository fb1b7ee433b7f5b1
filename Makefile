# make demo   a pretrained model learns a text; demo/report.html (ARGS=... below)
# make docs   the site, build/site/index.html; a warning is an error
# make test   format, lint, types, tests, doctests; CI runs this and make docs
# make test-anywhere   the suite with other seeds, processors, threads, releases; hours, can be stopped
# Everything lives in .venv, made from pyproject.toml and constraints.txt whenever they change.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
OLDEST := .venv-oldest
# --no-compile: of 15,000 files in the wheels a fifth is ever imported, and compiled when it is
INSTALL := -m pip install --quiet --no-compile
unexport PYTHONDONTWRITEBYTECODE
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python $(INSTALL)
# one thread a test worker: two processes with two threads each would fight for two cores
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: demo docs test test-slow test-gpu test-kernels test-anywhere lint format clean

# ARGS="notes.txt --questions asked.tsv --out mine" for your own text; resumes after Ctrl-C
demo: $(VENV)/.run
	$(BIN)/nestling demo --out demo $(ARGS)

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

test: lint
	$(ONE_THREAD) $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal

test-slow: $(VENV)/.dev
	$(ONE_THREAD) $(BIN)/python -m pytest -q -m "slow and not gpu" --timeout 3600

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m gpu

# the wheel of Triton is 188 MB for one file of tests, so it is no part of `dev`
test-kernels: $(VENV)/.dev
	$(PIP) --editable '.[kernels]'
	$(BIN)/python -m pytest -q tests/ops/test_momentum_gated_delta_rule_triton.py

# ONLY="seeds-1 loaded" for some of it; `python tests/support/anywhere.py --list` says what there is
test-anywhere: $(VENV)/.dev $(OLDEST)/.dev
	$(BIN)/python tests/support/anywhere.py --workers $(WORKERS) $(ONLY)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check nestling lab tests
	$(BIN)/ruff check nestling lab tests
	$(BIN)/ty check

format: $(VENV)/.dev
	$(BIN)/ruff format nestling lab tests
	$(BIN)/ruff check --fix nestling lab tests

$(VENV)/.run: pyproject.toml lab/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[gguf]' --editable lab
	touch $@

# all of .run and more, in one go
$(VENV)/.dev: pyproject.toml lab/pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[dev]' --editable lab
	touch $(VENV)/.run $@

$(VENV)/.docs: $(VENV)/.run
	$(PIP) --editable '.[docs]'
	touch $@

# the oldest releases that pyproject.toml allows
$(OLDEST)/.dev: pyproject.toml lab/pyproject.toml constraints.txt
	test -x $(OLDEST)/bin/python || $(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python tests/support/oldest.py > $(OLDEST)/constraints.txt
	PIP_CONSTRAINT=$(OLDEST)/constraints.txt $(OLDEST)/bin/python $(INSTALL) \
		--editable '.[dev]' --editable lab
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .anywhere build demo runs
