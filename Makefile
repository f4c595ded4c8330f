# make train   environment, then one training run on embedded data
# make test    environment, then the tests
# make kill-matrix   kill and resume 348 runs, and compare them bit by bit (10 minutes and more)
# make distributed   runs of two and three processes, two nodes, FSDP2, SLURM (emulated), signals
# make fault-cases   what goes wrong with a run, and the answer to each, as a table
# make gpu     speed and results on one GPU, in under eight minutes (tests/gpu.py)
#
# The environment is .venv, made from requirements.lock (uv if it is there, else pip). A second
# call installs nothing. Choose the interpreter with PYTHON=python3.12. On Linux the locked torch
# brings CUDA; TORCH=cpu takes torch's CPU build, TORCH=cu126 (or another) that CUDA; both need uv.

PYTHON ?= python3
TORCH ?=
BIN := .venv/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALLED := .venv/installed
# Else Windows reads and prints texts in another encoding.
export PYTHONUTF8 := 1

.PHONY: install train test test-slow distributed kill-matrix fault-cases gpu lint lock clean

train: install
	$(BIN)/python -m project.train $(ARGS)

test: install
	$(BIN)/python -m pytest -m "not slow" $(ARGS)

test-slow: install
	$(BIN)/python -m pytest $(ARGS)

distributed: install
	$(BIN)/python -m pytest tests/distributed $(ARGS)

kill-matrix: install
	$(BIN)/python tests/reliability/kill_matrix.py $(ARGS)

fault-cases: install
	$(BIN)/python tests/reliability/test_fault_cases.py

gpu: install
	$(BIN)/python tests/gpu.py $(ARGS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(INSTALLED)

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v < (3, 15))' || \
	  { echo "error: $(PYTHON) is not Python 3.11 to 3.14; name one: make PYTHON=python3.12"; exit 1; }
	@if command -v uv >/dev/null; then \
	  set -ex; \
	  uv venv --quiet --allow-existing --python $(PYTHON) .venv; \
	  if [ -n "$(TORCH)" ]; then \
	    uv pip install --python $(BIN)/python --torch-backend $(TORCH) --no-verify-hashes \
	      --constraints requirements.lock --editable '.[dev]'; \
	  else \
	    uv pip sync --python $(BIN)/python --require-hashes requirements.lock; \
	    uv pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .; \
	  fi; \
	else \
	  [ -z "$(TORCH)" ] || { echo "error: TORCH=$(TORCH) needs uv: pip install uv"; exit 1; }; \
	  set -ex; \
	  $(PYTHON) -m venv .venv; \
	  $(BIN)/python -m pip install --require-hashes --no-deps --requirement requirements.lock; \
	  $(BIN)/python -m pip install --no-deps --no-build-isolation --editable .; \
	fi
	@touch $@

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --quiet \
	  --extra dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv
