# make demo    stream text from the embedded model        make test    the tests
# make test-slow       those that take minutes: wheels in empty environments, every GPU kernel compiled, seeded bugs
# make lint    ruff and mypy                               make bench   the figures of benchmarks/README.md
# make tpu-check       whole steps compiled for TPUs by their own compiler; TPU_STEPS=MODEL@CHIP-COUNT names some of them
# make gpu-check       what is to be proved on a machine with a card, its torch and transformers
# make bench-peers     other engines beside this one, on the same work (ARGS="--pairs 1 --peers transformers", --help)
# make test-ipex       the provider ipex, in an environment of its own with torch 2.8 (several GB, fetched once)
# make test-sanitize   the kernels' tests under AddressSanitizer and UBSan (needs g++ and cmake)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml platforms/cpu/pyproject.toml platforms/cpu/CMakeLists.txt constraints.txt \
           $(wildcard platforms/cpu/native/*/*)

.PHONY: demo test test-slow test-sanitize test-ipex tpu-check gpu-check lint bench bench-peers clean

demo: $(VENV)/.run
	@$(BIN)/anychip generate --model demo --device cpu --max-tokens 100 --seed 7 --stats "Return a list of"

# Tests run in a process for each core, and kernels in a thread for each: who waits is not to spin. OpenBLAS always does,
# so that it gets one thread.
test test-slow test-sanitize: export OMP_WAIT_POLICY := passive
test test-slow test-sanitize: export OPENBLAS_NUM_THREADS := 1

test: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev
	@$(BIN)/python -m pytest -q -n auto --dist worksteal -m slow

# The kernels of the cpu platform that this processor runs, built with sanitizers. Python itself leaks at exit, so leaks
# are not looked for.
SANITIZED := build/sanitize
test-sanitize: $(VENV)/.dev
	@isas=$$($(BIN)/python -c 'from anychip_cpu import native; print(*native.isas(), sep=";")') && \
	 cmake -S platforms/cpu -B $(SANITIZED) -DANYCHIP_SANITIZE=ON -DANYCHIP_ISAS="$$isas" > /dev/null && \
	 cmake --build $(SANITIZED) -j 2 > /dev/null
	@LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	 ASAN_OPTIONS=detect_leaks=0 ANYCHIP_CPU_LIBRARY=$(SANITIZED)/_kernels.so \
	 $(BIN)/python -m pytest -q -n auto --dist worksteal -m "not slow" -p no:cacheprovider tests/cpu_kernels

# Intel Extension for PyTorch works with torch 2.8 alone, whose wheels bring CUDA's libraries; they are not used. The
# kernels of our own are left out.
IPEX := build/ipex
IPEX_AREAS := discovery,ops,attention,kv_write,executor
test-ipex: $(IPEX)/.made
	@$(IPEX)/bin/python -m pytest -q -p no:cacheprovider tests/ipex
	@$(IPEX)/bin/anychip conformance --device cpu --provider ipex --quick --areas $(IPEX_AREAS) --out $(IPEX)/report

$(IPEX)/.made: pyproject.toml platforms/cpu/pyproject.toml constraints-ipex.txt
	@test -x $(IPEX)/bin/python || $(PYTHON) -m venv $(IPEX)
	@$(IPEX)/bin/python -m pip install -q --disable-pip-version-check -c constraints-ipex.txt torch \
	 intel_extension_for_pytorch transformers -e ".[conformance]"
	@$(IPEX)/bin/python -m pip install -q --disable-pip-version-check -c constraints-ipex.txt \
	 -C wheel.cmake=false -e platforms/cpu
	@touch $@

# Compiles whole steps for TPUs with their own compiler, which needs no TPU.
tpu-check: $(VENV)/.dev
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt libtpu
	@PYTHONPATH=platforms/tpu/src $(BIN)/python tools/tpu_check.py $(TPU_STEPS)

gpu-check:
	@$(PYTHON) benchmarks/gpu_check.py

lint: $(VENV)/.dev
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(VENV)/.dev
	@$(BIN)/anychip bench startup && $(BIN)/anychip bench host && $(BIN)/python benchmarks/compare_transformers.py

# Builds an environment for each peer, in ANYCHIP_PEERS_DIR (build/peers). Nothing else should run meanwhile.
bench-peers: $(VENV)/.dev
	@PYTHONPATH=benchmarks $(BIN)/python -m peers $(ARGS)

clean:
	rm -rf $(VENV) dist build

# The constraints keep torch at a version whose CPU build is small to fetch; users may take any torch >= 2.8.
$(VENV)/.run: $(SOURCES)
	@echo "installing anychip and torch into $(VENV); this takes a minute or more, the first time" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e . -e platforms/cpu
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@echo "installing what the tests need into $(VENV)" >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
	@touch $@
