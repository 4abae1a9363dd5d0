# `make help` lists the targets. PYTHON picks the interpreter that .venv is made with.

PYTHON ?= python3

# dvc starts the stages as plain `python`, so the environment's own comes first.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# One name per content of the lock: a checkout that changes it sets up again, and
# one that only touches the file does not.
READY := .venv/.ready-$(shell git hash-object requirements.lock)

# What `make report` compares with.
BASE ?= main

# Runs at once; all recipes but `speed` take one thread.
JOBS ?= 2

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(READY) ## make .venv and install what requirements.lock names (once)

# What a step of the set-up says goes into a file, and is shown only where it fails.
LOG := .venv/setup.log
quietly = >> $(LOG) 2>&1 || { tail -n 15 $(LOG); echo "make setup: this step failed; $(LOG) has all that it said"; exit 1; }

# One package has no wheel, and is built with the locked setuptools: by default, pip would
# fetch another one for that, unchecked. What `dvc` is here: src/mnist_cnn_train/repro/dvc_command.py.
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
repro: $(READY) ## run the pipeline; only what changed runs again
	@dvc repro
	@python -P -m mnist_cnn_train.repro.verify --here

.PHONY: verify
verify: $(READY) ## run the last commit's pipeline elsewhere, and compare each byte (3 minutes)
	@python -P -m mnist_cnn_train.repro.verify

# DVC trusts a cached file that may not be written; it checks the others, and drops those that are
# not what they should be. What is then missing is made anew.
.PHONY: mend
mend: $(READY) ## after damage to the disk: check what the pipeline made, and make anew what is broken
	chmod -R u+w "$$(dvc cache dir)"
	rm -rf data/raw models/model.safetensors models/mnist_cnn.onnx models/mnist_cnn.int8.onnx
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
test-fast: $(READY) ## the tests that take seconds
	pytest -m "not slow"

.PHONY: faults
faults: $(READY) ## the tests that cause faults, with more kills (10 minutes)
	pytest -m fault --kills 20

.PHONY: fuzz
fuzz: $(READY) ## the tests that draw their input, with a hundred times as much (10 minutes)
	pytest -m fuzz --hypothesis-profile long

.PHONY: audit
audit: $(READY) ## compare the locked packages with the known vulnerabilities (asks an index)
	pip-audit --requirement requirements.lock --disable-pip --require-hashes --strict

.PHONY: seeds
seeds: robust ## all published recipes: ten seeds on the test images, and `make robust` (2.5 hours; resumes)
	python -m mnist_cnn_train seeds published --seeds 10 --jobs $(JOBS)

.PHONY: robust
robust: $(READY) ## the robust recipe over five seeds, on corrupted test images (half an hour; resumes)
	python -m mnist_cnn_train seeds robust --seeds 5 --jobs $(JOBS)

.PHONY: ablation
ablation: $(READY) ## what each part of the recipe is worth, on the validation images (resumes)
	python -m mnist_cnn_train seeds ablation --seeds 3 --jobs $(JOBS)

.PHONY: tables
tables: $(READY) ## write the tables of README and docs again from the files in metrics
	python -m mnist_cnn_train.experiments.tables

.PHONY: sweep
sweep: $(READY) ## search for better settings by what sweep.yaml says (five minutes; resumes)
	python -m mnist_cnn_train sweep --jobs $(JOBS)

.PHONY: pictures
pictures: repro ## how the reader does on people's pictures, and on pictures of no digit (2 minutes)
	python -m mnist_cnn_train evaluate

.PHONY: bench
bench: $(READY) ## speed, against baselines, into benchmarks/results.md (an hour, nothing beside)
	python benchmarks/bench.py

.PHONY: bench-scoring
bench-scoring: repro ## speed and memory of `mnist-cnn score` on up to a million images (minutes)
	python benchmarks/scoring.py

.PHONY: wheel
wheel: repro ## build dist/mnist_cnn-….whl: the reader with its model, without the pipeline
	python -m hatchling build --target wheel

.PHONY: lock
lock: $(READY) ## bring requirements.lock in line with pyproject.toml
	uv pip compile pyproject.toml --all-extras --group dev --quiet \
	    --universal --python-version 3.11 --generate-hashes \
	    --no-emit-index-url --no-emit-find-links \
	    --custom-compile-command "make lock" --output-file requirements.lock
