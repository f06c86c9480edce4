# RayDog. Every target sets up what it needs; `make` alone lists them.
.DEFAULT_GOAL := help
.PHONY: help setup demo check format test test-unit bench soak clean

PY := .venv/bin/python
# Real instances need root. Where we are not root, the commands that use them ask for it with sudo; without sudo, tests of
# real instances are skipped and the demo says what it needs.
ROOT := $(shell [ "$$(id -u)" -eq 0 ] || { command -v sudo >/dev/null && echo sudo -E env PATH="$$PATH"; })

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: ## system packages that are missing, and a virtual environment in .venv
	@bash scripts/setup

demo: setup ## the main job, for real, on this machine: up, submit, grow, shrink, down
	@$(ROOT) .venv/bin/raydog demo

check: setup ## lint, format, types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: setup ## mend what ruff can mend
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

test: ## all tests, end to end included (needs root for those; takes minutes)
	@bash scripts/setup --tests
	@$(ROOT) $(PY) -m pytest

test-unit: setup ## the tests of decisions: seconds, no root
	@$(PY) -m pytest tests/unit

bench: setup ## every figure that we state: a table, and benchmarks/results/latest.json
	@$(ROOT) $(PY) -m benchmarks

soak: setup ## jobs and random faults on real instances for MINUTES (30); SEED=N repeats a run
	@$(ROOT) $(PY) -m benchmarks.soak --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

clean: ## what `make` made
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
