# Two commands: `make run` (the call) and `make test`. Both do all the set-up that they need.
# Options are make variables or environment variables, e.g. `make run PORT=9443 RECORD=recordings`; see README.md.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
PY     := $(VENV)/bin/python
PAGE_TOOLS := tests/js/node_modules
CONSTRAINTS ?= constraints.txt
PINNED := $(if $(CONSTRAINTS),-c $(CONSTRAINTS))

# Debian's names. The call itself needs none of them: the wheels bring their own libraries.
TEST_PACKAGES  := chromium firefox-esr iproute2 libnss3-tools
TRAIN_PACKAGES := espeak-ng libespeak-ng1 flite festival festvox-kallpc16k festvox-us-slt-hts \
                  asterisk-core-sounds-en-g722 klettres-data fonts-dejavu-core fonts-liberation fonts-freefont-ttf \
                  fonts-lato fonts-humor-sans fonts-ecolier-court fonts-quicksand fonts-roboto-unhinted fonts-inconsolata
MORE_VOICES    := rhvoice rhvoice-english libttspico-utils  # in Debian's contrib and non-free

.PHONY: help run test test-fast check bench bench-gpu certs setup setup-test clean train-mini

help:  ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /: /' | sort

$(VENV)/.ready: requirements.txt constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this is " + sys.version if sys.version_info < (3, 11) else 0)'
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { echo "Creating $(VENV) failed. On Debian: apt-get install python3-venv"; exit 1; }
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt $(PINNED)
	@touch $@

$(VENV)/.ready-small: $(VENV)/.ready engine/requirements-small.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r engine/requirements-small.txt $(PINNED)
	@touch $@

$(VENV)/.ready-test: $(VENV)/.ready tests/requirements.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt $(PINNED)
	@touch $@

# Installs Debian packages when that is possible, and otherwise names them: $(call system-packages,names,what for)
define system-packages
	@missing=""; for p in $(1); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then :; \
	elif command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; \
	else echo "Not installed, and not installable by this user:$$missing. $(2)"; fi
endef

$(VENV)/.ready-system: $(VENV)/.ready
	$(call system-packages,$(TEST_PACKAGES),The browser tests are skipped without them.)
	@touch $@

setup: $(VENV)/.ready
setup-test: $(VENV)/.ready-test $(VENV)/.ready-system

certs: $(VENV)/.ready  ## create the local CA and the server's certificate, if missing or expired
	$(PY) -m app.server.certs

run: $(VENV)/.ready $(if $(filter small,$(MODEL)),$(VENV)/.ready-small)  ## set up and run the call; ends with "ready https://localhost:8443"
	@$(PY) -m app

# One file after the other on each core: fixtures that load a model are shared within a file. Browsers come last and
# alone, since they take all the machine has.
PARALLEL := -n auto --dist loadfile

test: setup-test  ## set up and run the tests
	$(PY) -m pytest $(PARALLEL) --durations 20 -m "not browser"
	$(PY) -m pytest --durations 20 -m browser

test-fast: setup-test  ## the tests that take neither a browser nor long
	$(PY) -m pytest $(PARALLEL) -m "not browser and not slow and not train"

check: $(VENV)/.ready-test check-js  ## ruff, mypy --strict, and the page's types and lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy

# The page needs no Node.js to run, only to be checked.
$(PAGE_TOOLS)/.ready: tests/js/package-lock.json
	cd tests/js && npm ci --silent
	@touch $@

.PHONY: check-js
check-js:
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory check-js-with-npm; \
	else echo "Not checked: static/js, for want of npm (Debian: apt-get install npm)."; fi

.PHONY: check-js-with-npm
check-js-with-npm: $(PAGE_TOOLS)/.ready
	$(PAGE_TOOLS)/.bin/tsc -p tests/js
	$(PAGE_TOOLS)/.bin/eslint --config tests/js/eslint.config.js static/js

train-mini: $(VENV)/.ready-test  ## train mini, or go on with it; TRAIN="--device cuda --batch 256 --workers 12"
	$(call system-packages,$(TRAIN_PACKAGES),Mini then trains only from speech packed elsewhere: python -m engine.mini --pack N.)
	-$(call system-packages,$(MORE_VOICES),Mini then hears four voices fewer.)
	@# Large pages for the heap (glibc 2.35): training spends much of its time on memory that is used for the first time.
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(PY) -m engine.mini $(TRAIN)

bench: $(VENV)/.ready  ## speed, as ratios measured in one run
	$(PY) -m engine.bench

bench-gpu: $(VENV)/.ready  ## the official size on one GPU, in ten minutes: GPU="--smoke" first, GPU="--plan" without one
	PYTHONUNBUFFERED=1 $(PY) -m engine.bench.gpu $(GPU)

clean:  ## remove the virtual environment and the caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
