# make demo   sets everything up in .venv and runs the main job once
# make test   sets everything up and runs lint, types and tests
# make docs   builds the pages of docs/ into site/, in an environment of its own
# make lab    shows anycast, drains and lost regions on real BGP (Linux, root, bird2)
# TORCH_INDEX=<url of a CPU wheel index>   optional: on Linux the default build of torch carries CUDA (several GB)

PYTHON ?= python3
TORCH_VERSION := 2.13.0
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
DOCS_VENV := .venv-docs
ROOMS := wire edge regions weights_cache inference storage deploy bench examples

.PHONY: setup demo test lint types unit evidence lab bench docs clean

# A test run starts some 200 processes: compiling our modules anew in each takes more processor time than any test.
unexport PYTHONDONTWRITEBYTECODE

setup: $(VENV)/.ready

$(VENV)/.ready: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV). To download once: about 250 MB of pinned packages, and torch $(TORCH_VERSION)"
	@echo "$(if $(TORCH_INDEX),(from $(TORCH_INDEX)).,(about 200 MB as a CPU build; on Linux the default build carries CUDA, several GB: TORCH_INDEX=<CPU index> avoids it).)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r constraints.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH_VERSION) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX),)
	@PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

demo: setup
	@$(BIN)/nearfield demo

# the types are one process' work: beside the tests they fill the time in which those wait
test: lint
	@$(MAKE) --no-print-directory -j2 types unit

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup
	$(BIN)/mypy

unit: setup
	$(BIN)/pytest --workers 4

# one test after another, since some of it is time; SHARE=0.01 makes a hundredth of each count, to see that all of it runs
SHARE ?= 1
evidence: setup
	NEARFIELD_EVIDENCE=$(SHARE) $(BIN)/pytest --timeout 1800

# real BGP anycast and our real processes in network namespaces, as root; LAB_REPORT=<path> gets the figures as JSON
LAB_REPORT ?= lab.json
lab: setup
	NEARFIELD_LAB_REPORT=$(LAB_REPORT) $(BIN)/pytest -s -m lab $(LAB_OPTIONS) tests/lab

bench: setup
	$(BIN)/python -m bench cold
	$(BIN)/python -m bench handoff
	$(BIN)/python -m bench overhead
	$(BIN)/python -m bench storage
	$(BIN)/python -m bench weights

# what builds them is no part of the package; a link that leads nowhere fails
docs: $(DOCS_VENV)/.ready
	$(DOCS_VENV)/bin/openapi-spec-validator docs/openapi.json
	$(DOCS_VENV)/bin/mkdocs build --strict
	@echo "site/index.html"

$(DOCS_VENV)/.ready: constraints-docs.txt
	@$(PYTHON) -m venv $(DOCS_VENV)
	@$(DOCS_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r constraints-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) $(DOCS_VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info .demo
