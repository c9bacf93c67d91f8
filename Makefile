# `make demo` trains, tests and scores a small network on generated data; `make test` runs the quick tests, and
# `make test-all` the slow ones after them.
# A virtual environment in .venv is made on first use.
# Tests run in processes of a single thread, three for two cores, since many wait for a process they started or for a
# browser: WORKERS=0 runs them in turn, THREADS=4 gives each process four threads.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
WORKERS ?= $(or $(shell cores=$$(nproc 2>/dev/null) && expr $$cores \* 3 / 2),auto)
THREADS ?= 1
PYTEST := OMP_NUM_THREADS=$(THREADS) $(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist worksteal

.PHONY: demo test test-all test-lowest lint browser clean

# Idle threads wait asleep: beside other work, threads that spin keep each other from the cores. The image pyramid is
# added and the 7x7 deformable branches are left out, which halves a step's time.
demo: export OMP_WAIT_POLICY := passive
demo: .venv/requirements datasets/Demo/.complete
	./sub.sh demo cpu cpu task=Demo bb_weights=none mul_scl_ipt=add deform_kernels=1,3 resume=auto
	$(BIN)/python gen_best_ep.py task=Demo
	$(BIN)/python -m demo.report --run demo -o demo.png

test: .venv/requirements-dev browser
	$(PYTEST) -m 'not slow'

# With the lowest releases that are allowed. NumPy 1.26 has wheels for Python 3.11 and 3.12 only.
test-lowest: export PATH := $(CURDIR)/.venv-lowest/bin:$(PATH)
test-lowest: .venv-lowest/requirements-dev browser
	$(subst $(BIN),.venv-lowest/bin,$(PYTEST)) -m 'not slow'

test-all: test .venv-rembg/requirements
	$(PYTEST) -m slow

lint: .venv/requirements-dev
	$(BIN)/ruff check .
	$(BIN)/python -m tools.contracts
	$(BIN)/python -m mypy

# The web page's tests run in it; without one they are skipped.
browser:
	@for name in "$$CHROMIUM" chromium chromium-browser google-chrome; do \
	    command -v "$$name" >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update && \
	    apt-get install --yes --no-install-recommends chromium fonts-dejavu-core; then exit 0; fi; \
	echo 'No Chromium: install it (Debian: apt-get install chromium) or name its executable in CHROMIUM.' \
	    "The web page's tests are skipped without it." >&2

datasets/Demo/.complete: demo/make_data.py demo/render.py demo/shapes.py demo/drawing.py | .venv/requirements
	$(BIN)/python -m demo.make_data
	touch $@

.PHONY: docs
docs: .venv/requirements-dev
	$(BIN)/python -m tools.config_page
	$(BIN)/python -m tools.published_page
	$(BIN)/python -m tools.zoo_page
	$(BIN)/python -m tools.architecture
	$(BIN)/python -m mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

# Stamps: installed again only when the list has changed.
.venv/requirements: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r $<
	touch $@

# Editable: the command `birefnet` in .venv runs what stands here.
.venv/requirements-dev: pyproject.toml requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

.venv-lowest/requirements-dev: constraints-lowest.txt pyproject.toml requirements.txt
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --editable '.[dev]' --constraint $<
	touch $@

# rembg reads our ONNX files in an environment of its own, as its users have it.
.venv-rembg/requirements: tests/requirements-rembg.txt
	$(PYTHON) -m venv .venv-rembg
	.venv-rembg/bin/python -m pip install --quiet -r $<
	touch $@

clean:
	rm -rf datasets/Demo ckpts/demo e_preds/demo--epoch_* demo.png
