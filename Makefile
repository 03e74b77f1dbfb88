# make demo   train, evaluate and compare a RIM and an LSTM (minutes on two cores)
# make test   everything that must hold
# make lint   style, types, and the direction of imports

VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEMO   := runs/demo
SEED   ?= 1

.PHONY: demo test test-fast lint format clean

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/rimrl train distractors/lstm --seed $(SEED) --run-dir $(DEMO)/lstm
	$(BIN)/rimrl train distractors/rim --seed $(SEED) --run-dir $(DEMO)/rim
	$(BIN)/rimrl evaluate $(DEMO)/lstm $(DEMO)/rim --episodes 200
	$(BIN)/rimrl compare $(DEMO)/lstm $(DEMO)/rim --plot $(DEMO)/comparison.png

test: $(READY)
	$(BIN)/pytest

test-fast: $(READY)
	$(BIN)/pytest -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rimrl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)
