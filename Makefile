# make demo   sets everything up, trains and evaluates a detector on the embedded data set, and shows the results
# make test   sets everything up and runs linter, type checker and tests
# make lint   ruff and mypy alone
# make clean  removes the environment and caches; results in output/ stay
#
# PYTHON=python3.12 chooses the interpreter, VENV=DIR the environment. One that already exists is used as it is,
# and must hold what is needed.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OURS := $(VENV)/.made-by-make
COMMA := ,

.DEFAULT_GOAL := demo
.PHONY: demo test lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/.installed
	@$(call run,datasets/prepare_quick.py,.)
	@$(call run,-m defcn_ext.tools.demo,.)

test: lint
	@$(call run,-m pytest -q -n 2 --dist loadfile,.[test])

lint: $(VENV)/.installed-test
	@$(call run,-m ruff check .,.[test])
	@$(call run,-m mypy,.[test])

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
	set -ex; $(BIN)/python -m pip install --disable-pip-version-check -e '$(1)'; touch $@; \
else \
	echo 'Using $(VENV) as it is'; \
fi
endef

# A failure in an environment that was not made here may only mean that something is not installed in it.
define run
echo '$(BIN)/python $(1)'; $(BIN)/python $(1) || { \
	status=$$?; \
	[ -e $(OURS) ] || $(BIN)/python -c 'import defcn_ext$(if $(findstring test,$(2)),$(COMMA) hypothesis$(COMMA) mypy$(COMMA) pytest$(COMMA) ruff$(COMMA) xdist)' 2>/dev/null || \
		echo "$(VENV) lacks packages. Install them: $(BIN)/python -m pip install -e '$(2)'" >&2; \
	exit $$status; }
endef
