# `make quickstart`, `make test` and `make test-all` do all the set-up themselves.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder

# Tests start dozens of processes; none compiles the package anew.
export PYTHONDONTWRITEBYTECODE :=

# Large pages, with which commands start themselves (capjax/cli/pages.py).
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: quickstart test test-all lint format install bench clean

# Trains the embedded default, shows captions and says how far they are true: minutes on two cores.
quickstart: $(VENV)/.installed
	$(RUN) -m experiments.quickstart

# Lint, format, types, and the tests that every change asks for: minutes on two cores.
test: $(VENV)/.installed-test lint
	$(PYTEST)

# Those marked slow, too: broad sweeps, a notebook, a browser, whole command lines.
test-all: $(VENV)/.installed-test lint
	$(PYTEST) --slow

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check --no-cache .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(VENV)/.installed-test
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --upgrade pip
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[test]"
	touch $@

# Measures capjax beside its peers, and writes the table of benchmarks/README.md: hours on two cores,
# minutes with QUICK=1.
bench: $(VENV)/.installed-benchmark
	$(RUN) -m benchmarks.all $(if $(QUICK),--quick)

$(VENV)/.installed-benchmark: $(VENV)/.installed
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable ".[benchmark,parity]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
