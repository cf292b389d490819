# Every target sets itself up from nothing: a virtual environment in .venv, made once, with the
# versions in constraints.txt. `make PYTHON=python3.12 test` takes another interpreter.
PYTHON ?= python3
INSTALLED := .venv/.installed
# Tests run in a process a core, and the demo's matrices are small: more threads only wait.
export OMP_NUM_THREADS := 1
# Compiled modules are kept, or every process of the tests would compile the package anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint docs notebooks dist

demo: $(INSTALLED)
	.venv/bin/python -m amortized.demo

test: $(INSTALLED)
	.venv/bin/python -m pytest --numprocesses auto --dist worksteal

lint: $(INSTALLED)
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

# The site, in site/; it needs no network, neither to be built nor to be read.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 .venv/bin/python -m mkdocs build --strict --quiet

# The pages of the notebooks, with their outputs; run it after a change of a notebook.
notebooks: $(INSTALLED)
	.venv/bin/python docs/rendered_notebooks.py

# Wheel and sdist, in dist/; tests/test_packaging.py checks what is in them.
dist: $(INSTALLED)
	.venv/bin/python -m build --no-isolation

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Expected Python 3.11 or later; got " + sys.version.split()[0] + ". Name one: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
