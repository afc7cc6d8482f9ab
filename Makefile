# Two commands do all on a fresh machine:
#   make plan    sets up .venv and answers the main question
#   make test    sets up .venv and passes the tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
# Processors whose kernels torch and oneDNN would pick: what a step holds may not depend on them.
PROCESSORS := ATEN_CPU_CAPABILITY=default ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2

MODEL ?= llama-3-70b
CLUSTER ?= 64x8xh100-sxm-80gb
SEQUENCE ?= 8192
BATCH ?= 512
TOKENS ?= 15T

.PHONY: plan test lint fit silicon validate scoreboard rankings conform conform-full mutation documents docs bench clean

plan: $(VENV)/.installed
	$(BIN)/llmsim plan train --model $(MODEL) --cluster $(CLUSTER) --sequence $(SEQUENCE) --global-batch $(BATCH) --tokens $(TOKENS)

test: $(VENV)/.developing
	$(BIN)/python -m pytest -n 2
	for processor in $(PROCESSORS); do \
	  env $$processor $(BIN)/python -m pytest -n 2 tests/test_conformance_memory.py -k holds_in_backward || exit 1; \
	done

lint: $(VENV)/.developing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Refits run in two processes; linear algebra that takes every core as well would only wait for itself.
fit silicon validate scoreboard rankings: export OPENBLAS_NUM_THREADS = 1

# The constants that ship, fitted anew: kernels to published tables, then all that runs move to the committed split of
# measured runs.
fit: $(VENV)/.installed
	$(BIN)/python -m llmsim.calibration.kernels published
	$(BIN)/python -m llmsim.calibration
	$(BIN)/python -m llmsim.calibration --serving

# Kernels fitted anew to the tables inside a public package, which this downloads. `make fit` goes on from there.
silicon: $(VENV)/.silicon
	$(BIN)/python -m llmsim.calibration.kernels silicon

# Predictions against measured runs that no constant has seen, with baselines beside.
validate: $(VENV)/.installed
	$(BIN)/llmsim validate validation/training_runs.csv --refit-without framework-model

# The same for every split, with tables and a figure in validation/RESULTS.md; of servers in validation/SERVING.md.
scoreboard: $(VENV)/.installed
	$(BIN)/python validation/scoreboard.py
	$(BIN)/python validation/serving_scoreboard.py

# Measured alternatives in order, with baselines and what noise allows: validation/rankings.md.
rankings: $(VENV)/.installed
	$(BIN)/python validation/rankings.py

# Every cell, those that `make test` leaves out included.
conform: $(VENV)/.developing
	$(BIN)/python -m pytest -n 2 tests -k conformance -m "not full"

# Published models at full depth and thousands of ranks besides.
conform-full: $(VENV)/.publishing
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 tests -k conformance -m "full or not full"

# Small faults of the counting code, one at a time: how many do the tests catch?
mutation: $(VENV)/.developing
	$(BIN)/python tools/mutation.py

# What README and docs show, put in again as it is printed, the table of conformance cells, the index of formulas, the
# list of constants.
documents: $(VENV)/.developing
	$(BIN)/python tools/documents.py --write
	$(BIN)/python -m llmsim.measure.document --write
	$(BIN)/python tools/formulas.py --write
	$(BIN)/python tools/constants.py --write

# The site, in site/. Its search needs a server: $(BIN)/python -m http.server -d site
docs: $(VENV)/.documenting
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/spaces.py
	$(BIN)/python benchmarks/pruning.py
	$(BIN)/python benchmarks/serving.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet -e .
	touch $@

$(VENV)/.silicon: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[silicon]"
	touch $@

# torch first and by itself: its CPU build is all that the conformance tests need.
$(VENV)/.developing: $(VENV)/.installed
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -e ".[dev]"
	touch $@

$(VENV)/.documenting: $(VENV)/.installed
	$(BIN)/pip install --quiet -e ".[docs]"
	touch $@

# transformers builds the published models; torch stays as it is.
$(VENV)/.publishing: $(VENV)/.developing
	$(BIN)/pip install --quiet -e ".[transformers]"
	touch $@

clean:
	rm -rf $(VENV) dist build site .pytest_cache .mypy_cache .ruff_cache .hypothesis
