# `make demo` and `make test` need nothing but Python >= 3.11: the environment is made on first use.
# All paths are relative, so the checkout may lie in a folder with spaces in its name.

PYTHON ?= python3
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.tta-ready

.PHONY: help demo test check format bench clean

help:
	@echo "make demo    watch a frozen model learn from three corrections"
	@echo "make test    run the tests (ARGS='-k memory' for some of them)"
	@echo "make check   format, lint, types, and what the wheel holds"
	@echo "make format  rewrite the files as 'make check' wants them"
	@echo "make bench   measure the bundled model"
	@echo "make clean   remove what building and testing left behind"

# An existing .venv is used as it is: only what is missing or pinned otherwise is installed.
$(READY): pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[offline,notebook,dev]'
	touch $(READY)

demo: $(READY)
	$(RUN) -m tta demo $(ARGS)

test: $(READY)
	$(RUN) -m pytest $(ARGS)

check: $(READY)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy
	$(RUN) -m pytest -q tests/test_packaging.py tests/test_layers.py

format: $(READY)
	$(RUN) -m ruff format .
	$(RUN) -m ruff check --fix .

bench: $(READY)
	$(RUN) -m benchmarks.micro $(ARGS)

# build/ holds the links of the editable install, so the next `make` has to install again.
clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(READY)
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
