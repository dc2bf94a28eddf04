# Everything that a checkout needs, from a machine with python3 (3.11 to 3.14), its venv module and git.
# `make` lists the targets. A second run of any of them finds what the first one made.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
# Set by some images. Each of the many processes of the tests would compile anew all that it imports.
export PYTHONDONTWRITEBYTECODE :=

# The uv on PATH where there is one that works, else one of this checkout's own.
UV := $(shell uv --version >/dev/null 2>&1 && command -v uv || echo .uv/bin/uv)
PYTHON := .venv/bin/python
SYNCED := .venv/.synced
# The twenty slowest tests are printed; .durations/ keeps the times of all.
TIMED = --durations=20 --junitxml=.durations/$@.xml
# Tests at a time, each with a HOME and a Prefect of its own, for two cores: those of holds, outages and clocks wait most of
# their time. A file stays together, so that its servers are started once, in the order of their folders.
WORKERS = 3
PYTEST_IN_PARALLEL = $(PYTHON) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# One job at a time, since two Rays would wait for each other's processes.
ONE_RAY := $(shell command -v flock >/dev/null && echo flock .venv/.ray)

.PHONY: help demo docs pictures live wires test test-all test-alone test-others nightly smoke smoke-lowest smoke-newest lowest chaos bench lint style types public-types format lock-check setup setup-local clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup-local ## Annotate 30 reviews with a small model on this machine, show rows, usage and a page
	@if [ -f demo/ledger.db ]; then echo "demo/ledger.db holds an earlier run: its answers are reused, not asked again (remove demo/ledger.db* to ask again)."; fi
	.venv/bin/opencode-tasks annotate demo/reviews.csv -o demo/reviews.parquet --id-column id \
		--template $$'Is this review positive or negative? Answer with one word.\n\nReview: {text}' \
		--choices positive,negative --gold human \
		--model local/smollm2 --ledger demo/ledger.db --runner ray || [ $$? -eq 1 ] # some rows have no valid label
	.venv/bin/opencode-tasks view --ledger demo/ledger.db --export demo/page >/dev/null
	$(PYTHON) demo/show.py

test: setup ## Run the tests that take seconds
	$(PYTEST_IN_PARALLEL) -m "not alone and not slow and not nightly" $(TIMED)

test-all: test-alone test-others ## Run these and the slow ones, as for each change

# One at a time: two Rays would wait for each other's processes, and some pages start servers at usual ports.
# A Makefile keeps them apart, because pytest-xdist 3.8 ignores the groups of --dist loadgroup with pytest 9.2.
test-alone: setup-local
	$(ONE_RAY) $(PYTHON) -m pytest -m "alone and not nightly" $(TIMED)

test-others: setup-local
	$(PYTEST_IN_PARALLEL) -m "not alone and not nightly" $(TIMED)

# A version of a library or of Python changes what these unit tests see: they are about code that calls a library, pickles,
# or handles signals and processes. The other ones are about our own code alone.
VERSIONED = answer_schema candidates client columns cost cost_lines errors estimate failure_limit frames_validate gold \
	local_ray mounts nearest opencode_config options output_frame prefect_api process_guard process_identity provider \
	ray_node read_file review_files signals startup_times tables trace views vote_tally wires write_file
smoke: smoke-lowest smoke-newest ## Run a part of the unit tests and a run on each runner with the lowest versions, and on the newest Python here
SMOKE = -m pytest -p no:cacheprovider -m "not slow and not nightly"
SMOKE_RUNS = -m pytest -p no:cacheprovider -m smoke $(shell grep -l mark.smoke tests/integration/*.py)

smoke-lowest: setup
	$(UV) venv -q --allow-existing --python "$$($(PYTHON) -c 'import sys; print(sys._base_executable)')" .venv-lowest
	VIRTUAL_ENV=.venv-lowest $(UV) pip sync -q tests/lowest.txt
	VIRTUAL_ENV=.venv-lowest $(UV) pip install -q --no-deps -e .
	VIRTUAL_ENV=.venv-lowest $(UV) pip check
	.venv-lowest/bin/python $(SMOKE) $(VERSIONED:%=tests/unit/test_%.py)
# Warnings of old libraries about themselves are no errors here.
	$(ONE_RAY) .venv-lowest/bin/python $(SMOKE_RUNS) -W default

# pyenv shows no interpreter that it was not told to show. Another one: make smoke-newest NEWEST=/path/to/python3.14
NEWEST = $(firstword $(foreach v,3.14 3.13 3.12 3.11,$(wildcard $(HOME)/.pyenv/versions/$(v)*/bin/python) \
	$(shell $(UV) python find --no-python-downloads $(v) 2>/dev/null)))
smoke-newest: setup
	UV_PROJECT_ENVIRONMENT=.venv-newest $(UV) sync -q --locked --all-extras --no-group dev --group test --python $(NEWEST)
	VIRTUAL_ENV=.venv-newest $(UV) pip check
	.venv-newest/bin/python --version
# The libraries of tables are those of the lock here.
	.venv-newest/bin/python $(SMOKE) $(patsubst %,tests/unit/test_%.py,$(filter-out tables,$(VERSIONED)))
	$(ONE_RAY) .venv-newest/bin/python $(SMOKE_RUNS)

lowest: $(UV) ## Resolve the lowest versions that pyproject.toml allows, for `make smoke`
	$(UV) pip compile -q pyproject.toml --group test --resolution lowest-direct --all-extras --python-version 3.11 \
		--no-header --no-annotate -o tests/lowest.txt

nightly: WORKERS = 2
nightly: chaos setup-local ## Run what is left out for each change, as before a release: over two hours
	$(PYTHON) -m pytest -m "alone and nightly" tests/unit tests/integration $(TIMED)
	$(PYTEST_IN_PARALLEL) -m "not alone and nightly" tests/unit tests/integration $(TIMED)

SEEDS ?= 20
chaos: setup ## Runs under drawn faults (SEEDS=20), and kills at many times; prints tables
	OPENCODE_TASKS_TEST_SEEDS=$(SEEDS) OPENCODE_TASKS_TEST_SEED_TABLE=.seeds.md OPENCODE_TASKS_TEST_TOLLS=.tolls.md \
		$(PYTHON) -m pytest -s -m "nightly or slow" tests/chaos; cat .seeds.md .tolls.md

bench: setup ## Measure speed beside the floor, the reference way and a peer: over an hour, the machine for itself
	$(PYTHON) benchmarks/speed.py --markdown

docs: $(SYNCED) ## Build the documentation site into site/, and check its links
# Without --clean, a page of the Python reference stays as it was after its docstrings change.
	.venv/bin/zensical build --strict --clean
	$(PYTHON) docs/scripts/check_site.py site

pictures: setup ## Draw the documentation's diagrams, and make its pictures from real runs (needs Chromium)
	$(PYTHON) docs/scripts/diagrams.py
	$(PYTHON) docs/scripts/pictures.py

MAX_COST ?= 0.10
live: setup ## Try a real model (MODEL=provider/model MAX_COST=0.10), and print what differs from the scripted one
	$(PYTHON) tests/live.py --model $(MODEL) --max-cost $(MAX_COST)

wires: setup ## Try faults and answers on the wires of all providers, and print the tables (about an hour)
	$(PYTHON) tests/wire_table.py --write

lint: docs style types public-types ## Check format, style, imports, types, the lock file, the image and the documentation's links

style: $(SYNCED)
	$(UV) lock --check
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo --no-cache
	.venv/bin/hadolint deployments/docker/Dockerfile

types: $(SYNCED)
	.venv/bin/pyright

# Of every public name of the package, as the type checker of a user sees it. It finds the package by PATH.
public-types: $(SYNCED)
	PATH=$(CURDIR)/.venv/bin:$$PATH .venv/bin/pyright --verifytypes opencode_tasks --ignoreexternal | grep -A 2 'error:\|score'

format: $(SYNCED) ## Format the code and mend what can be mended by itself
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

lock-check: $(UV) ## Check that uv.lock fits pyproject.toml
	$(UV) lock --check

setup: $(SYNCED) ## Install the project, its tools and opencode
	.venv/bin/opencode-tasks setup

setup-local: $(SYNCED) ## The same, and the small local model
	.venv/bin/opencode-tasks setup --local

clean: ## Remove what the targets made in this checkout
	rm -rf .venv .venv-lowest .venv-newest .uv .cache site .durations .pytest_cache .ruff_cache .tolls.md demo/*.parquet demo/ledger.db* demo/page

$(SYNCED): pyproject.toml uv.lock | $(UV)
	$(UV) sync --locked --all-extras
# The first processes would do that at the same time.
	$(PYTHON) -m compileall -q -j 0 .venv/lib opencode_tasks >/dev/null || true
	@touch $@

.uv/bin/uv:
	python3 -m venv .uv
	@echo '*' > .uv/.gitignore
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv
