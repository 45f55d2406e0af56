# Everything a person types. `make` alone explains itself.
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

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install OmniNER with the tested versions of everything

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: install ## Train, test and score a tagger on the built-in corpus, tracked, with its report
	$(BIN)/python -m omniner.run

test: install ## Run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not soak and not real" $(TESTS)

soak: install ## Long trials: kills at many moments, full disks, fuzzed files; prints a table
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m soak -s tests/reliability

pretrained: install ## Fetch a real language model of 0.5 billion weights into pretrained/ (478 MB, then 1 GB)
	$(BIN)/python experiments/real_models/fetch.py

test-real: install ## Tests on that model: tune it for some steps, ask it in form
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m real tests/real

check: install ## Formatting, lint, types, direction of imports
	$(BIN)/ruff format --check src tests experiments
	$(BIN)/ruff check src tests experiments
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/invariants

docs: install ## Write anew what docs/ takes from the code, and build the site in site/
	$(BIN)/python -m omniner.config.reference > docs/configuration.md
	$(BIN)/python -m omniner.config.reference --tasks > docs/reference/tasks.md
	$(BIN)/python tests/helpers/house.py docs/architecture.svg
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

format: install ## Put the code into its standard form
	$(BIN)/ruff format src tests experiments
	$(BIN)/ruff check --fix src tests experiments

ui: install ## Open the MLflow UI on the local store
	$(BIN)/python -m omniner.run task=ui 'tracking.folder=$(STORE)'

clean: ## Remove caches and builds; runs, their store and the environment stay
	rm -rf build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis src/*.egg-info
	find src tests experiments conf -name __pycache__ -type d -exec rm -rf {} +
