# `make demo` trains, tests and scores a small network on generated data; `make test` runs the test suite.
# A virtual environment in .venv is made on first use.

PYTHON ?= python3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test fast lint clean

demo: .venv/requirements datasets/Demo/.complete
	./sub.sh demo cpu cpu task=Demo resume=auto
	$(BIN)/python gen_best_ep.py task=Demo
	$(BIN)/python -m demo.report --run demo -o demo.png

test: .venv/requirements-dev
	$(BIN)/python -m pytest

fast: .venv/requirements-dev
	$(BIN)/python -m pytest -m 'not slow'

lint: .venv/requirements-dev
	$(BIN)/ruff check .

datasets/Demo/.complete: demo/make_data.py demo/render.py demo/shapes.py | .venv/requirements
	$(BIN)/python -m demo.make_data
	touch $@

.PHONY: docs
docs: .venv/requirements-dev
	$(BIN)/python -m tools.config_page
	$(BIN)/python -m tools.architecture
	$(BIN)/python -m mkdocs build --strict

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

# Stamps: installed again only when the list has changed.
.venv/%: %.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r $<
	touch $@

.venv/requirements-dev: requirements.txt requirements-predict.txt

clean:
	rm -rf datasets/Demo ckpts/demo e_preds/demo--epoch_* demo.png
