# make demo   sets everything up, trains and evaluates a detector on the embedded data set, and shows the results
# make test   sets everything up and runs linter and tests
# make lint   the linter alone
# make clean  removes the environment and caches; results in output/ stay
#
# PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment. One that already exists is used as it is.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OURS := $(VENV)/.made-by-make

.DEFAULT_GOAL := demo
.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	$(BIN)/python datasets/prepare_quick.py
	$(BIN)/python -m defcn_ext.tools.demo

test: lint
	$(BIN)/python -m pytest -q

lint: $(VENV)/.installed-test
	$(BIN)/python -m ruff check .

clean:
	rm -rf .venv .ci-venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	mkdir -p $(VENV)
	touch $(OURS)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.py | $(BIN)/python
	@$(call install,.)

$(VENV)/.installed-test: setup.py | $(BIN)/python
	@$(call install,.[test])

# Installs again when setup.py is newer than the stamp.
define install
if [ -e $(OURS) ]; then \
	set -ex; $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '$(1)'; touch $@; \
else \
	echo 'Using $(VENV) as it is'; \
fi
endef
