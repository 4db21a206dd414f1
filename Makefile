# The first `make demo` or `make test` sets up .venv from the hash-pinned locks; after that nothing here needs the network.

PYTHON ?= python3
UV_VERSION := 0.13.8
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
PIP := $(BIN)/python -m pip --quiet --no-input --disable-pip-version-check

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL: # two pips in one environment would race
.PHONY: help demo test test-all test-extras check fmt bench bench-peers bench-growth bench-privacy bench-secure bench-federation docs lock clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-18s %s\n' "$$name" "$$text"; done

demo: $(STAMPS)/package ## Run the demonstration: one federated run, offline, in a few seconds
	@$(BIN)/fedloom demo $(ARGS)

test: $(STAMPS)/dev $(STAMPS)/package ## Run the tests, the slow ones left out
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-all: $(STAMPS)/dev $(STAMPS)/package ## Run every test
	$(BIN)/python -m pytest -n 2 $(ARGS)

test-extras: $(STAMPS)/dev $(STAMPS)/extras $(STAMPS)/package ## Run the tests of the extras; installs PyTorch, Ray and others first
	$(BIN)/python -m pytest -n 2 -m "not slow" tests/learners tests/engines/test_ray_*.py tests/data/test_parquet_file.py \
		tests/store/test_rounds.py tests/conformance tests/benchmarks tests/docs $(ARGS)

check: $(STAMPS)/dev $(STAMPS)/package ## Check style, format, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict
	$(BIN)/mypy --strict attacks
	$(BIN)/lint-imports

fmt: $(STAMPS)/dev ## Format the code and apply the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMPS)/extras $(STAMPS)/package ## Measure speed and memory against the plain loops
	$(BIN)/python benchmarks/bench.py $(ARGS)

bench-peers: $(STAMPS)/extras $(STAMPS)/package ## Measure other frameworks beside it, each in an environment of its own
	$(BIN)/python benchmarks/peers/run.py --output benchmarks/results $(ARGS)

bench-growth: $(STAMPS)/package ## Measure how rounds grow with cohort, population and parameters
	$(BIN)/python benchmarks/growth.py --output benchmarks/results $(ARGS)

bench-privacy: $(STAMPS)/package ## Measure what privacy costs in accuracy, on MNIST and hospital data
	$(BIN)/python benchmarks/privacy/utility.py $(ARGS)

bench-secure: $(STAMPS)/package ## Measure what a secure sum costs: seconds and bytes over clients, numbers and drop-outs
	$(BIN)/python benchmarks/secure/costs.py --output benchmarks/results $(ARGS)

bench-federation: $(STAMPS)/package ## Measure a federation on this host: memory, rounds, and the line between its parties
	@missed=0; for part in footprint rounds transport; do \
		$(BIN)/python benchmarks/federation/$$part.py --output benchmarks/results/federation-$$part.json || missed=1; \
	done; exit $$missed

docs: $(STAMPS)/docs $(STAMPS)/package ## Build the documentation into build/docs; a warning is an error
	$(BIN)/python -m sphinx -q -n -W --keep-going -b html -d build/doctrees docs build/docs $(ARGS)
	@echo "build/docs/index.html"

# `make lock` keeps the versions that still fit; `make lock ARGS=--upgrade` takes the newest ones. It needs the network.
COMPILE = UV_CUSTOM_COMPILE_COMMAND="make lock" .venv-lock/bin/uv --no-config pip compile --quiet --universal \
	--fork-strategy fewest --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links $(ARGS)
lock: ## Write the pinned requirements/*.txt again
	$(PYTHON) -m venv --clear .venv-lock
	.venv-lock/bin/python -m pip --quiet --disable-pip-version-check install uv==$(UV_VERSION)
	$(COMPILE) pyproject.toml requirements/run.in -o requirements/run.txt
	$(COMPILE) --extra testing -c requirements/run.txt pyproject.toml requirements/run.in requirements/dev.in \
		-o requirements/dev.txt
	$(COMPILE) --extra testing -c requirements/dev.txt pyproject.toml requirements/run.in requirements/docs.in \
		-o requirements/docs.txt
	rm -rf .venv-lock

clean: ## Remove what make has built, .venv included; runs/ stays
	rm -rf $(VENV) .venv-lock build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './runs/*' -prune -exec rm -rf {} +

# ---- Set-up: each step leaves a stamp, so it runs once, and again when its file changes -------------------------------

$(STAMPS)/venv:
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' here. Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: '$(PYTHON)' is $$($(PYTHON) --version 2>&1); fedloom needs Python 3.11 or newer. Name one: make PYTHON=python3.11" >&2; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/run: requirements/run.txt $(STAMPS)/venv
	@echo "Installing requirements/run.txt (once; needs the network)"
	@$(PIP) install --require-hashes -r requirements/run.txt
	@touch $@

$(STAMPS)/dev: requirements/dev.txt $(STAMPS)/run
	@echo "Installing requirements/dev.txt (once; needs the network)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

# Not in a lock: which build of PyTorch is right depends on the machine. The versions are those that the tests run with;
# PyTorch comes first, so that nothing else brings another build of it.
$(STAMPS)/extras: requirements/extras.txt $(STAMPS)/dev
	@echo "Installing requirements/extras.txt (once; needs the network)"
	@$(PIP) install $$(grep '^torch==' requirements/extras.txt)
	@$(PIP) install -r requirements/extras.txt
	@touch $@

$(STAMPS)/docs: requirements/docs.txt $(STAMPS)/run
	@echo "Installing requirements/docs.txt (once; needs the network)"
	@$(PIP) install --require-hashes -r requirements/docs.txt
	@touch $@

$(STAMPS)/package: pyproject.toml $(STAMPS)/run
	@echo "Installing fedloom from this checkout"
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@
