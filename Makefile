# Every target sets up what it needs on a fresh machine with Python >= 3.11 and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup quickstart test test-cluster test-all torture cluster-demo gpu-check paper bench check format lint types

help:  ## Print the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## Make .venv and install the project and its tools.

# torch first and alone: its pin decides which build everything after it accepts.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)

quickstart: $(READY)  ## Run a small sweep on real digits: a leaderboard and a picture in minutes.
	$(BIN)/meansweep run sweeps/quickstart.yaml

torture: $(READY)  ## Kill a driver fifty times a method: the sweep must end as if it had not been.
	$(BIN)/python scripts/torture.py

cluster-demo: $(READY)  ## Sweep on a local Ray cluster while its parts are killed, one by one.
	$(BIN)/python -m scripts.cluster_demo

paper: $(READY)  ## Repeat the paper's tables on digits and MNIST, and write docs/paper.md (an hour on 2 cores; resumable).
	$(BIN)/python scripts/paper_tables.py

bench: $(READY)  ## Measure the step's and the sweep's own cost, as ratios.
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/overhead.py

# Each file in one process: what it starts (Ray, MLflow) it starts once. Three of them for two cores, since those that wait
# for Ray leave theirs to the others. In the order of the tree, whose longest files are not at its end.
IN_PROCESSES := -q -n 3 --dist loadfile --no-loadscope-reorder

test: $(READY)  ## Run all tests that need neither a GPU nor a cluster of several nodes.
	$(BIN)/python -m pytest $(IN_PROCESSES) -m "not cluster"

test-cluster: $(READY)  ## Run those on a cluster: its nodes, MLflow, the driver and workers are killed, one by one.
	$(BIN)/python -m pytest $(IN_PROCESSES) -m cluster

test-all: $(READY)  ## Run both at once, as CI does.
	$(BIN)/python -m pytest $(IN_PROCESSES)

gpu-check: $(READY)  ## Prove on a GPU what only a GPU can prove, in at most six minutes.
	$(BIN)/python -m scripts.gpu_check

check: $(READY) lint types  ## Check format, lint and types.

format: $(READY)  ## Format and mend what can be mended by itself.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(READY)  ## Check the format and lint.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(READY)  ## Check the types (mypy, strict).
	$(BIN)/mypy
