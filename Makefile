# `make` alone says what there is. Everything runs in .venv, made from requirements.lock; nothing is installed outside.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test mutants coverage check format luaform bench experiment chaos lock clean
MAKEFLAGS += --no-print-directory
# Whatever stands in the caller's environment, these hold here. (Without bytecode every process that a test starts, and
# every one of pytest's, compiles all of our modules anew.)
export UV_PYTHON_DOWNLOADS := never
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  ARGS goes to the program: make test ARGS='tests/unit -k journal'. PYTHON names the interpreter for .venv."

setup: $(STAMP)  ## install into .venv what the rest needs (once; again when the lock changes)

demo: $(STAMP)  ## a fleet on this machine runs agents under fifo and fixed order, and shows what happened
	@$(BIN)/aios-dist demo $(ARGS)

test: $(STAMP)  ## all tests, on a Redis of their own
	@$(BIN)/python -m pytest $(or $(ARGS),$(IN_PARALLEL))

# Half of the time is waiting: five processes, file by file, those that wait longest first (tests/conftest.py). With
# ARGS, as pytest does it by itself.
IN_PARALLEL := --numprocesses 5 --dist loadfile --no-loadscope-reorder

mutants: $(STAMP)  ## small faults put into the code, one at a time: the tests must notice each (ARGS: numbers, words, --tenth)
	@$(BIN)/python -m tests.mutants $(ARGS)

coverage: $(STAMP)  ## what of the code the tests run, processes that they start included: a table
	@mkdir -p build/coverage && rm -f build/coverage/data*
	@$(BIN)/python -m coverage run -m pytest $(or $(ARGS),$(IN_PARALLEL)); status=$$?; \
	$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage report; exit $$status

check: $(STAMP)  ## format, lint, types, imports, Lua, compose file: exactly what CI checks
	@failed=0; \
	stage() { \
	  name=$$1; shift; \
	  if report=$$("$$@" 2>&1); then echo "ok      $$name"; \
	  else failed=1; echo "FAILED  $$name: $$*"; printf '%s\n' "$$report" | sed 's/^/        /'; fi; \
	}; \
	stage format $(BIN)/ruff format --check --output-format concise .; \
	stage lint $(BIN)/ruff check --output-format concise .; \
	stage types $(BIN)/mypy; \
	stage imports $(BIN)/lint-imports --no-logo; \
	stage shell bash -n .ci/run; \
	if command -v luacheck >/dev/null; then stage lua $(BIN)/python -m tests.lua; \
	else echo "skipped lua: luacheck is not installed (Debian: apt-get install lua-check)"; fi; \
	if ! command -v npm >/dev/null; then echo "skipped luaform: npm is not installed (Debian: apt-get install npm)"; \
	elif ! $(MAKE) $(STYLUA)/node_modules >/dev/null 2>&1; then echo "skipped luaform: npm could not install StyLua"; \
	else stage luaform $(MAKE) luaform FORM=--check; fi; \
	if [ -f docker-compose.yml ]; then \
	  stage yaml $(BIN)/yamllint --strict --config-data '$(YAMLLINT)' .; \
	  stage compose $(BIN)/docker-compose --file docker-compose.yml $(COMPOSE_ENV) --profile '*' config --quiet; \
	fi; \
	exit $$failed

YAMLLINT = {extends: default, ignore-from-file: .gitignore, rules: {document-start: disable, \
  line-length: {max: 120}, truthy: {check-keys: false}, comments: {min-spaces-from-content: 1}}}

# Settings that the compose file insists on (passwords) get the values of the example file.
COMPOSE_ENV = $(addprefix --env-file ,$(firstword $(wildcard deploy/compose.env.example .env.example)))

format: $(STAMP)  ## put the code in the project's form, and mend what can be mended mechanically
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format .
	@if command -v npm >/dev/null; then $(MAKE) luaform; fi

STYLUA := $(VENV)/stylua
$(STYLUA)/node_modules: tests/stylua/package-lock.json $(STAMP)
	@mkdir -p $(STYLUA) && cp tests/stylua/package.json tests/stylua/package-lock.json $(STYLUA)
	@cd $(STYLUA) && npm ci --silent --no-audit --no-fund --ignore-scripts --fetch-retries=1 --fetch-timeout=20000 && touch node_modules

luaform: $(STYLUA)/node_modules
	@NODE_PATH=$(STYLUA)/node_modules node tests/stylua/format.cjs $(FORM) aios_dist/journal/lua/*.lua

bench: $(STAMP)  ## the benchmarks, beside their bounds
	@$(BIN)/python -m benchmarks $(ARGS)

experiment: $(STAMP)  ## fifo, fixed, hybrid and agent-first on the same loads: figures and pictures into build/experiment
	@$(BIN)/python -m benchmarks.experiment $(ARGS)

chaos: $(STAMP)  ## kill workers and Redis under load, put Redis back, send nonsense: nothing is lost, wrong or paid twice (some 4 minutes)
	@$(BIN)/python -m tests.chaos $(ARGS)
	@$(BIN)/python -m tests.driver --seconds 60

lock:  ## write requirements.lock and those of the image anew from pyproject.toml (needs uv)
	@uv pip compile pyproject.toml --all-extras --group dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-header --quiet --output-file requirements.lock
	@uv pip compile pyproject.toml --extra worker --extra flower --extra prices --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --quiet \
	  --constraint requirements.lock --output-file deploy/docker/requirements.lock
	@echo hatchling | uv pip compile - --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-header --quiet --constraint requirements.lock --output-file deploy/docker/build.lock

clean:  ## remove .venv and everything else that was made here
	@rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# uv where it works (it may be on the PATH and not know this machine's package index), else plain pip. Both take only
# what the lock's hashes allow; the project itself is built with the locked hatchling.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "aios_dist needs Python 3.11 or newer, and '$(PYTHON)' is not: install it (Debian: apt-get install python3" \
	    "python3-venv) or name one, as in: make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12" >&2; exit 1; }
	@if uv --version >/dev/null 2>&1 && $(with_uv); then :; \
	else $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	    echo "'$(PYTHON)' cannot make virtual environments: install its venv module (Debian: apt-get install" \
	      "python3-venv)." >&2; exit 1; }; \
	  echo "Installing into $(VENV) with pip …"; $(with_pip); fi
	@touch $@

with_uv = echo "Installing into $(VENV) with uv …" \
	&& uv venv --quiet --clear --no-project --python "$$(command -v $(PYTHON))" $(VENV) \
	&& uv pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock \
	&& uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .

with_pip = $(PYTHON) -m venv --clear $(VENV) \
	&& $(BIN)/python -m pip install -qq --disable-pip-version-check --require-hashes -r requirements.lock \
	&& $(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --no-build-isolation --editable .
