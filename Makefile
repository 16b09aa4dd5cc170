# Two commands do everything on a machine with Python 3.11+ and make:
#   make demo   the main job, on the embedded bus
#   make test   formatting, types and all tests
# and `make faults` is the long form of tests/faults: the bus broken in every way.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What each part of `make test` took is noted as it goes and shown at the end: tests/times.py.
TIMES := TEST_TIMES="$(CURDIR)/$(VENV)/times.jsonl"

# The tests start `bus` hundreds of times; without bytecode each start compiles a hundred files.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test parts check unit faults lock clean

$(VENV)/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Schoolbus needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 …") if sys.version_info < (3, 11) else None'
	@echo "Installing Python packages into $(VENV), once; this takes a minute or two"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python deploy/install.py
	@$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation --quiet --editable .
	@touch $@

demo: $(VENV)/.ready
	@$(BIN)/bus demo

test: $(VENV)/.ready
	@$(TIMES) $(BIN)/python -m tests.times begin
	@$(MAKE) --no-print-directory parts; status=$$?; \
	$(TIMES) $(BIN)/python -m tests.times show; exit $$status

parts: check
	@$(TIMES) $(BIN)/python -m tests.times note check
	$(TIMES) HYPOTHESIS_PROFILE=full $(BIN)/pytest -n auto tests/unit tests/contract tests/cases
	$(TIMES) $(BIN)/pytest -n 5 --dist loadgroup tests/integration tests/upgrade
	$(TIMES) $(BIN)/pytest -n 3 --dist loadgroup tests/faults

check: $(VENV)/.ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy

unit: $(VENV)/.ready
	$(BIN)/pytest -n auto tests/unit tests/contract tests/cases -m "not slow"

faults: $(VENV)/.ready
	$(BIN)/pytest tests/faults --long

lock:
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --all-extras --output-file requirements.lock pyproject.toml build-requirements.in

clean:
	rm -rf $(VENV)
