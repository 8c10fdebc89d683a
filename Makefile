# Every target sets itself up: it creates .venv and installs the package there when pyproject.toml changes.
PYTHON ?= python3
VENV ?= .venv
NEXT ?= .venv-next
PY = $(VENV)/bin/python
STAMP = $(VENV)/.installed
# most of a test's time is single-threaded tracing: two processes keep two cores busy
WORKERS ?= 2
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: demo test test-next test-slow test-all lint docs pictures benchmark clean

demo: $(STAMP)
	$(PY) examples/demo.py

test: $(STAMP)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal

# the same with the newest nightly of Keras, in an environment of its own
test-next:
	$(PYTHON) -m venv $(NEXT)
	$(NEXT)/bin/python -m pip install --quiet --upgrade pip
	$(NEXT)/bin/python -m pip install --quiet --editable ".[test]"
	$(NEXT)/bin/python -m pip uninstall --quiet --yes keras keras-nightly
	$(NEXT)/bin/python -m pip install --quiet --pre keras-nightly
	$(NEXT)/bin/python -m pytest -n $(WORKERS) --dist worksteal

# what make test leaves out
test-slow: $(STAMP)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m slow

test-all: $(STAMP)
	$(PY) -m pytest -n $(WORKERS) --dist worksteal -m ""

lint: $(STAMP)
	$(VENV)/bin/ruff check .

# warnings are errors; the pages are in build/docs
docs: $(STAMP)
	$(PY) -m sphinx -W --keep-going -q docs build/docs

# the pictures of the pages are committed: make them again after a change that shows in them
pictures: $(STAMP)
	$(PY) docs/pictures.py

benchmark: $(STAMP)
	$(PY) benchmarks/propagation.py

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) $(NEXT) out build dist *.egg-info
