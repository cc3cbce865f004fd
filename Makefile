# Each target does all of its own set-up, from a fresh clone on, as root or as an ordinary user.
#
#   ARGS=…     more arguments for pytest        make test ARGS='-k witness'
#   BACKEND=…  the backend to judge             make conformance BACKEND=docker
#   PYTHON=…   the Python to use                make test PYTHON=python3.13 VENV=.venv-3.13
#   VENV=…     where its environment lives
#   LOWEST=1   the oldest allowed versions       make test LOWEST=1 VENV=.venv-lowest

BACKEND ?= netns
VENV ?= .venv
PYTHON ?=
LOWEST ?=
ARGS ?=

export VENV PYTHON LOWEST
run := $(VENV)/bin/python -m

.PHONY: help conformance test lint benchmark setup setup-dev clean

help: ## Say what can be made
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

conformance: setup ## Judge a backend with the conformance suite (BACKEND=netns)
	$(run) pytest -p no:cacheprovider --pyargs pytest_bottle.conformance --bottle-backend=$(BACKEND) $(ARGS)

test: setup-dev ## Run the project's own tests
	$(run) pytest -n 2 --dist worksteal $(ARGS)

lint: setup-dev ## Check style and types
	$(run) ruff check .
	$(run) ruff format --check .
	$(run) mypy

benchmark: setup-dev ## Measure
	$(run) benchmarks $(ARGS)

setup:
	@tools/bootstrap

setup-dev:
	@tools/bootstrap --dev

clean: ## Remove what the other targets left in the checkout
	if [ -e $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
