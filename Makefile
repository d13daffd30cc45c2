# Everything runs in $(VENV), which the first use makes and fills; nothing else is touched.
PYTHON ?= python3
VENV ?= $(if $(filter gpu-compile,$(MAKECMDGOALS)),.venv-gpu,.venv)
WORKERS ?= 2

BIN := $(VENV)/bin
KERNEL := rnnscan/scan/cuda_kernel/launcher.cc \
	$(wildcard $(addprefix rnnscan/scan/cpu_kernel/,sources.py */*.h */*.cc))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.DELETE_ON_ERROR:
.PHONY: help quickstart claims accelerator test gpu-compile lint typecheck notebooks lab clean

help: ## show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo "  Variables: PYTHON=$(PYTHON) (3.11 or newer), VENV=$(VENV), WORKERS=$(WORKERS), ARGS= (for what"
	@echo "  test, gpu-compile, lab and accelerator run)."

quickstart: $(VENV)/.with-experiments ## the whole toolkit in three minutes: one report to open
	$(BIN)/python -m experiments run quickstart

claims: $(VENV)/.with-experiments ## every claim of the article put to the test: one table of verdicts
	$(BIN)/python -m experiments claims

accelerator: $(VENV)/.with-test ## measure a machine that one has for minutes: make accelerator OUT=folder
	PYTHON=$(BIN)/python bash scripts/accelerator.sh "$(or $(OUT),$(error OUT= is missing))" $(ARGS)

test: $(VENV)/.with-test ## all tests and docstring examples; make test ARGS="-k reset -x"
	$(BIN)/python -m pytest -n $(WORKERS) $(ARGS)

# The platform is said, or the plugin would look for a GPU and complain that there is none.
gpu-compile: $(VENV)/.with-test-gpu-compile ## compile what a GPU visit runs for an H100, on any machine
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -rs $(ARGS) tests/gpu_compile

lint: $(VENV)/.with-dev ## style and formatting, by ruff
	$(BIN)/ruff check
	$(BIN)/ruff format --check

typecheck: $(VENV)/.with-dev ## types, by basedpyright
	$(BIN)/basedpyright --pythonpath $(BIN)/python

notebooks: $(VENV)/.with-test ## run every notebook from its .py source and store its outputs
	$(BIN)/python scripts/make_notebooks.py

lab: $(VENV)/.with-lab ## JupyterLab in notebooks/; on a machine without a screen ARGS=--no-browser
	$(BIN)/jupyter lab notebooks $(ARGS)

clean: ## remove the environment and every cache; runs/ stays
	rm -rf .venv .venv-newest .venv-gpu $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	rm -f rnnscan/scan/cpu_kernel/*.so rnnscan/scan/cpu_kernel/*.so.*
	find rnnscan experiments tests scripts notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp per extra; a change of what is installed or compiled installs again.
$(VENV)/.with-%: pyproject.toml hatch_build.py $(KERNEL) | $(BIN)/python
	@echo "Installing rnnscan[$*] into $(VENV): from nothing, a download of about 400 MB and a minute"
	@echo "or two to compile the CPU kernel ..."
	@$(PIP) --editable ".[$*]"
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rnnscan needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { \
	  echo "'$(PYTHON)' cannot make virtual environments (Debian and Ubuntu: apt install python3-venv)." >&2; \
	  exit 1; }
