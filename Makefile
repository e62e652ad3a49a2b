# `make demo` and `make test` are all the set-up there is: each makes .venv, installs and does its work.
# Needed beforehand: Python >= 3.10 with venv, gcc, make. pip's own settings (index, wheel directory)
# apply, so a machine may prefer torch's CPU wheel; any 2.13.0 build will do.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NATIVE := CMakeLists.txt $(shell find plugins -type f -not -path '*/tests/*')
WORKERS ?= 2

# Threads that spin while they wait make a busy machine several times slower.
export OMP_WAIT_POLICY ?= passive

# Python files are compiled once, where they are first imported: not all of torch's at installation,
# and not again in each of the hundreds of processes that tests start.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test test-long plugin emulated wheel wheel-cuda sass sass-model lint types format abi-check clean

help:
	@echo "make demo       calibrate, export and run the included video model; pictures in out/demo"
	@echo "make test       the test suite (some minutes); needs no GPU and no TensorRT"
	@echo "make test-long  the tests that are too long for every change"
	@echo "make plugin     the CUDA kernels and TensorRT plugin (PRESET=plugin-local: this GPU's alone;"
	@echo "                CUDA_MAJOR=12: for drivers from 525 on; default: what the driver here runs)"
	@echo "make emulated   the CUDA kernels, run on the CPU: impl=\"emulated\""
	@echo "make wheel      a wheel for other machines, in dist/: CPU backend and ONNX Runtime op"
	@echo "make wheel-cuda the same with the TensorRT plugin, for drivers of one CUDA"
	@echo "make sass       the compiled kernels against their budgets (some minutes; needs nvcc)"
	@echo "make sass-model the speed that a scheduler model of the compiled kernels forecasts"
	@echo "make lint       ruff: rules and formatting"
	@echo "make types      mypy on the package"
	@echo "make format     let ruff rewrite the files"
	@echo "make abi-check HEADERS=dir  the plugin's declarations against TensorRT's headers"
	@echo "make clean      remove .venv, caches and out/"

$(INSTALLED): pyproject.toml constraints.txt $(NATIVE)
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	  sys.exit(None if v >= (3, 10) else f"Python >= 3.10 is needed, this is {v.major}.{v.minor}; set PYTHON=")'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	$(INSTALL) --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	$(BIN)/python samples/demo/run.py

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not long"

test-long: $(INSTALLED)
	$(BIN)/python -m pytest -m long

# Neither needs the Python package: what lacks on the machine is fetched into .venv.
PRESET ?= plugin
plugin:
	plugins/cmake/build_preset.sh $(PRESET) $(VENV) $(PYTHON) $(CMAKE_OPTIONS)

emulated:
	plugins/cmake/build_preset.sh emulated $(VENV) $(PYTHON) $(CMAKE_OPTIONS)

wheel:
	plugins/cmake/build_wheel.sh $(VENV) $(PYTHON)

wheel-cuda: plugin
	plugins/cmake/build_wheel.sh $(VENV) $(PYTHON) $(PRESET)

sass:
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m plugins.kernels.sass.check

sass-model:
	$(firstword $(wildcard $(BIN)/python) $(PYTHON)) -m plugins.kernels.sass.forecast

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Needs no set-up: Python and g++ alone. HEADERS may name several include directories.
abi-check:
	$(PYTHON) plugins/tensorrt/abi/check.py $(HEADERS)

clean:
	rm -rf $(VENV) out .pytest_cache .mypy_cache .ruff_cache .hypothesis
