# `make` alone lists the targets.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo test soak pretrained test-real check docs format ui clean

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
EXTRAS ?= dev
STAMP := $(VENV)/.installed-$(EXTRAS)
STORE := $(CURDIR)/mlruns
TESTS ?= tests

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Create .venv and install OmniNER with the tested versions of all dependencies

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: install ## Train and score a tagger on the built-in corpus, tracked in MLflow, with a report
	$(BIN)/python -m omniner.run

# PYTHONDONTWRITEBYTECODE: hundreds of commands load our modules, which are compiled for the first of them only.
test: install ## Run the tests (TESTS=path: a part of them)
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not soak and not real" $(TESTS)

soak: install ## Long reliability tests: kills at many moments, full disks, damaged files
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s tests/reliability

pretrained: install ## Fetch a 0.5B language model into pretrained/ (downloads 478 MB, takes 1 GB)
	$(BIN)/python experiments/real_models/fetch.py

test-real: install ## Test tuning and guided decoding with that model
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real tests/real

check: install ## Check formatting, lint, types and house rules
	$(BIN)/ruff format --check src tests experiments
	$(BIN)/ruff check src tests experiments
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/invariants

docs: install ## Regenerate the parts of docs/ that come from the code, and build site/
	$(BIN)/python -m omniner.config.reference > docs/configuration.md
	$(BIN)/python -m omniner.config.reference --tasks > docs/reference/tasks.md
	$(BIN)/python -m omniner.config.reference --issues > docs/reference/issues.md
	$(BIN)/python tests/helpers/source_tree.py docs/architecture.svg
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: install ## Format the code
	$(BIN)/ruff format src tests experiments
	$(BIN)/ruff check --fix src tests experiments

ui: install ## Open the MLflow UI on the local store
	$(BIN)/python -m omniner.run task=ui 'tracking.folder=$(STORE)'

clean: ## Remove caches and builds; runs, their store and the environment stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests experiments conf -name __pycache__ -type d -exec rm -rf {} +
