# `make help` lists the targets. PYTHON is the interpreter that creates .venv.

PYTHON ?= python3

# DVC starts the stages as plain `python`, so .venv comes first on PATH.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Named after the hash of requirements.lock: setup runs again only if its content changes.
READY := .venv/.ready-$(shell git hash-object requirements.lock)

# The commit that `make report` compares with.
BASE ?= main

# Number of parallel runs; all recipes except `speed` use one thread.
JOBS ?= 2

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## create .venv and install requirements.lock (once)

# The output of a setup step goes to a log file, and is shown only if the step fails.
LOG := .venv/setup.log
quietly = >> $(LOG) 2>&1 || { tail -n 15 $(LOG); echo "make setup: this step failed; $(LOG) has all that it said"; exit 1; }

# One package has no wheel and is built with the locked setuptools: by default, pip would
# download another version without a hash check. For the `dvc` wrapper, see
# src/mnist_cnn_train/repro/dvc_command.py.
$(READY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mnist-cnn needs Python 3.11 or newer; name one: make PYTHON=python3.11 …")'
	@git rev-parse --verify --quiet HEAD > /dev/null || { echo "make setup: this is no git repository with a commit, which DVC needs; clone it, or run: git init && git add . && git commit -m Start"; exit 1; }
	@echo "setup 1/3: an environment in .venv"
	@$(PYTHON) -m venv .venv
	@echo "setup 2/3: the packages of requirements.lock, of some 6 GB (minutes; $(LOG) grows)"
	@awk '/^[a-z]/ {wanted = /^setuptools==/} wanted' requirements.lock > .venv/setuptools.lock
	@python -m pip install --require-hashes --requirement .venv/setuptools.lock $(quietly)
	@python -m pip install --require-hashes --no-build-isolation --requirement requirements.lock $(quietly)
	@echo "setup 3/3: this project"
	@python -m pip install --no-deps --no-build-isolation --editable . $(quietly)
	@printf '%s\n' '#!/bin/sh' 'exec "$(CURDIR)/.venv/bin/python" -P -m mnist_cnn_train.repro.dvc_command "$$@"' > .venv/bin/dvc
	@rm -f .venv/.ready-*
	@touch $@

.PHONY: repro
repro: $(READY) ## run the pipeline; stages without changes are skipped
	@dvc repro
	@python -P -m mnist_cnn_train.repro.verify --here

.PHONY: verify
verify: $(READY) ## run the last commit's pipeline in a clone, and compare all bytes (3 minutes)
	@python -P -m mnist_cnn_train.repro.verify

# DVC trusts read-only files in its cache. Once they are writable, it checks them and drops the
# corrupted ones, and `dvc repro` rebuilds what is missing.
.PHONY: repair
repair: $(READY) ## check the pipeline's outputs, and rebuild corrupted ones
	chmod -R u+w "$$(dvc cache dir)"
	rm -rf data/raw data/synthetic models/model.safetensors models/mnist_cnn.onnx models/mnist_cnn.int8.onnx
	-dvc checkout
	dvc repro

.PHONY: report
report: $(READY) ## compare settings, metrics and plots with BASE (main), into dvc_plots/report.md
	@.github/report.sh "$(BASE)"

.PHONY: check
check: $(READY) ## lint, format and types
	ruff check .
	ruff format --check .
	mypy

.PHONY: test
test: check ## check, then every test, on all cores
	pytest --numprocesses auto --dist worksteal

.PHONY: test-fast
test-fast: $(READY) ## the tests that take seconds each
	pytest -m "not slow"

.PHONY: faults
faults: $(READY) ## the tests that inject faults, with more kills (10 minutes)
	pytest -m fault --kills 20

.PHONY: fuzz
fuzz: $(READY) ## the tests with random input, a hundred times as much (10 minutes)
	pytest -m fuzz --hypothesis-profile long

.PHONY: audit
audit: $(READY) ## check the locked packages for known vulnerabilities (queries an index)
	pip-audit --requirement requirements.lock --disable-pip --require-hashes --strict

.PHONY: seeds
seeds: reader ## all published recipes: ten seeds on the test images, and `make reader` (2.5 hours; resumes)
	python -m mnist_cnn_train seeds published --seeds 10 --jobs $(JOBS)

.PHONY: reader
reader: $(READY) ## the reader's recipe over five seeds, on other digits and on non-digits (an hour; resumes)
	python -m mnist_cnn_train seeds reader --seeds 5 --jobs $(JOBS)

.PHONY: release
release: $(READY) ## train the reader's model; if it passes all gates, evaluate, describe and package it
	python -m mnist_cnn_train run reader --name reader --force
	dvc get . models/mnist_cnn.onnx --rev reader --out src/mnist_cnn/reader.onnx --force
	python -m mnist_cnn_train touching
	$(MAKE) pictures tables dist

.PHONY: ablation
ablation: $(READY) ## measure what each part of both recipes contributes, on the validation images (resumes)
	python -m mnist_cnn_train seeds ablation --seeds 3 --jobs $(JOBS)
	python benchmarks/reader_ablation.py --seeds 3 --jobs $(JOBS)

.PHONY: tables
tables: $(READY) ## rewrite the tables in README, docs and the model card from the files in metrics
	python -m mnist_cnn_train.experiments.tables

.PHONY: sweep
sweep: $(READY) ## search for better settings as defined in sweep.yaml (five minutes; resumes)
	python -m mnist_cnn_train sweep --jobs $(JOBS)

.PHONY: pictures
pictures: $(READY) ## evaluate the reader on everyday pictures and on corrupted ones (4 minutes)
	python -m mnist_cnn_train evaluate
	python -m mnist_cnn_train evaluate --suite

.PHONY: bench
bench: $(READY) ## compare speed with baselines, into benchmarks/results.md (an hour on an idle machine)
	python benchmarks/bench.py

.PHONY: bench-scoring
bench-scoring: repro ## measure `mnist-cnn score` on up to a million images: speed, memory (minutes)
	python benchmarks/scoring.py

.PHONY: dist
dist: $(READY) ## build the reader with its model, without the pipeline, into dist: wheel, sdist, SHA-256
	rm -rf dist
	python -m hatchling build
	cd dist && sha256sum *.whl *.tar.gz > SHA256SUMS

.PHONY: lock
lock: $(READY) ## update requirements.lock from pyproject.toml
	uv pip compile pyproject.toml --all-extras --group dev --quiet \
	    --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" --output-file requirements.lock
