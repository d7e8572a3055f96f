# Two commands: `make run` (the call) and `make test`. Everything else is a detail of these.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
PY     := $(VENV)/bin/python

.PHONY: run test check bench certs setup setup-test clean help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | column -t -s '	'

$(VENV)/.ready: requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --progress-bar on -r requirements.txt
	touch $@

$(VENV)/.ready-test: $(VENV)/.ready tests/requirements.txt
	$(PY) -m pip install --quiet -r tests/requirements.txt
	touch $@

setup: $(VENV)/.ready
setup-test: $(VENV)/.ready-test

certs: $(VENV)/.ready  ## create the local CA and the server's certificate if they are missing or expired
	$(PY) -m app.certs

run: $(VENV)/.ready  ## set up and run the call
	$(PY) -m app

test: $(VENV)/.ready-test  ## set up and run the tests
	$(PY) -m pytest

check: $(VENV)/.ready-test  ## ruff and mypy
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

bench: $(VENV)/.ready  ## speed, as ratios measured in one run
	$(PY) -m engine.bench

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
