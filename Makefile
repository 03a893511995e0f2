# make console   set everything up and open the cockpit on a live stack
# make demo      the cockpit without an engine: a real recording, over and over (ARGS=cpu: another)
# make test      set up and run the tests
# make check     linters, types, import rules
# make audit     ask a public service for known holes in what is pinned (needs the network)
# make faults    provoke every fault for real (long) and print what became of each
PYTHON ?= $(shell for p in python3.12 python3.13 python3.11 python3; do \
  $$p -c 'import sys; sys.exit(not ((3,11) <= sys.version_info < (3,14)))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: console demo test faults audit check setup wheel clean
console: $(VENV)/.ready
	@$(BIN)/spark-serve engine install --if-missing
	@$(BIN)/spark-serve console $(ARGS)

demo: $(VENV)/.ready
	@$(BIN)/spark-serve demo $(ARGS)

test: $(VENV)/.ready-dev
	@$(BIN)/spark-serve engine install --if-missing
	@$(BIN)/python -m tests.web.browser
ifeq ($(strip $(ARGS)),)
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile -m "not faults and not engine"
	$(BIN)/python -m pytest -q -m "not faults and engine"  # one engine at a time, and nothing beside it
else
	$(BIN)/python -m pytest $(ARGS)
endif

faults: $(VENV)/.ready-dev
	@$(BIN)/spark-serve engine install --if-missing
	@rm -f faults.jsonl
	SPARK_SERVE_LEDGER=$(CURDIR)/faults.jsonl $(BIN)/python -m pytest tests/faults -m "faults or not faults" $(ARGS); \
	  $(BIN)/python -m tests.faults.ledger faults.jsonl

check: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(VENV)/audit/bin/pip-audit
	@$< --strict --requirement constraints.txt --no-deps --disable-pip --progress-spinner off || { \
	  echo "Nothing is shown to be clean: a hole is named above, or the service could not be asked (that needs the network)."; \
	  exit 1; }

$(VENV)/audit/bin/pip-audit: $(VENV)/bin/python
	@$(PYTHON) -m venv $(VENV)/audit
	@$(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check 'pip-audit>=2.9,<3' || { \
	  rm -rf $(VENV)/audit; echo "pip-audit cannot be installed: make audit needs the network."; exit 1; }

wheel: $(VENV)/.ready-dev
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

setup: $(VENV)/.ready-dev

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "spark-serve needs Python 3.11, 3.12 or 3.13 on the PATH; install one and run make again."; exit 1; }
	@echo "[1/2] making a Python environment in $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.ready: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "[2/2] installing spark-serve"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	@echo "      installing what the tests need"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
