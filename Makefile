# pofx: `make demo` is the thing to try; `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Threads that spin while another job computes cost up to 40x on two cores.
export OMP_WAIT_POLICY := PASSIVE

# The first interpreter of at least 3.11; `make install PYTHON=/path/to/python` chooses another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	if "$$p" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then command -v "$$p"; break; fi; done)

.PHONY: help install demo test test-slow check format readme figures site wheel constraints clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## .venv with pofx and all that the tests need; quick when nothing changed
	@:

$(STAMP): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then \
		echo "pofx needs Python 3.11 or newer, with venv; found none. Install one (e.g. apt install python3.11-venv), or: make install PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@if ! [ -x $(BIN)/python ] || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "Making $(VENV) with $$("$(PYTHON)" --version)"; "$(PYTHON)" -m venv --clear $(VENV); fi
	@echo "Installing pofx and what it needs (a few minutes the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: install ## train a PixelCNN, a VAE and a GAN on 1,797 real digits and write demo/report.html (about 5 minutes)
	@$(BIN)/python -m pofx.workflows.demo --out demo

# One torch thread per worker, two workers.
test test-slow: export OMP_NUM_THREADS := 1

test: install ## all tests that take seconds
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: install ## the tests that take minutes
	$(BIN)/python -m pytest -n 2 -m slow

check: install ## ruff, pyright and the import contracts: what a change must pass
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: install ## let ruff format and fix what it can
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

readme: install ## write the tables of README.md and of docs/ anew, from `pofx models` and results/
	$(BIN)/python tests/test_readme.py
	$(BIN)/python docs/tables.py

figures: demo ## draw the pictures of README.md anew and renew results/demo.json, from the runs of `make demo`
	@mkdir -p docs/pictures
	cp demo/results.json results/demo.json
	$(BIN)/pofx data digits -o docs/pictures/digits.png --quiet >/dev/null
	for model in pixelcnn vae gan; do $(BIN)/pofx sample demo/$$model -n 64 -o docs/pictures/$$model.png --quiet; done
	rm -f docs/pictures/trace.gif && $(BIN)/pofx sample demo/pixelcnn --trace -n 4 -o docs/pictures/trace.gif --quiet
	for run in results/weights/*/; do $(BIN)/pofx sample "$$run" -n 64 -o docs/pictures/$$(basename "$$run").png --quiet; done
	$(BIN)/python docs/figures.py --out docs/pictures
	$(BIN)/python docs/latents.py --threads 1
	$(BIN)/python docs/bound.py
	$(BIN)/python docs/equilibrium.py
	$(BIN)/python docs/course.py
	$(BIN)/pofx mass -o docs/pictures/course/mass.png --quiet >/dev/null
	$(BIN)/pofx chain demo/pixelcnn digits:test#3 -o docs/pictures/course/chain.png --quiet >/dev/null

site: install ## docs/ as a site of pages, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: install ## dist/pofx-*.whl
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .

constraints: ## write constraints.txt anew: the newest of everything, from a clean environment
	@dir=$$(mktemp -d) && trap 'rm -rf "$$dir"' EXIT && "$(PYTHON)" -m venv "$$dir" \
	&& "$$dir/bin/pip" install --quiet '.[dev]' $(TORCH) \
	&& { sed -n '/^#/p' constraints.txt; "$$dir/bin/pip" freeze --all | sed -E '/^(pip|pofx)( |=)/d; s/\+cpu$$//'; } > constraints.new && mv constraints.new constraints.txt
TORCH := torch==2.13.0

clean: ## remove what was built; .venv stays
	rm -rf dist build demo site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
