# make demo    stream text from the embedded model        make test    every test
# make lint    ruff and mypy                               make bench   the figures of benchmarks/README.md
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml platforms/cpu/pyproject.toml platforms/cpu/CMakeLists.txt constraints.txt \
           $(wildcard platforms/cpu/native/*/*)

.PHONY: demo test lint bench clean

demo: $(VENV)/.run
	@$(BIN)/anychip generate --model demo --device cpu --max-tokens 100 --seed 7 --stats "Return a list of"

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -q

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.dev
	@$(BIN)/anychip bench startup && $(BIN)/anychip bench host && $(BIN)/python benchmarks/compare_transformers.py

clean:
	rm -rf $(VENV) dist build

# The constraints keep torch at a version whose CPU build is small to fetch; users may take any torch >= 2.8.
$(VENV)/.run: $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e . -e platforms/cpu
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	@touch $@
