# The commands of this project. Each sets up .venv by itself; none needs root or the environment.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := $(shell find csrc cmake -type f 2>/dev/null) CMakeLists.txt pyproject.toml

CHECKS := tests/kernel_checks

.PHONY: demo test test-cuda bench lint format generate wheel cuda fuzz matrix clean
.PHONY: simt-sanitize simt-mutate sass docs

demo: $(STAMP)
	$(BIN)/gradkern demo

test: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# On a machine with a GPU: the whole suite on it, compute-sanitizer, the benchmarks.
test-cuda: $(STAMP)
	$(BIN)/python tests/gpu_run/run_on_gpu.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tools/generate_activations.py --check
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs $(BIN)/clang-format -i

# Writes what follows from the table of activations: functions, modules, documentation.
generate: $(STAMP)
	$(BIN)/python tools/generate_activations.py

wheel: $(STAMP)
	$(BIN)/pip wheel -q --no-build-isolation --no-deps --wheel-dir dist .
	@ls dist

# Compiles the CUDA kernels with nvcc, for all GPUs it knows or for those of CUDA_ARCHITECTURES. They
# need no GPU and no torch with CUDA to be built. What `make sass` reads is kept; -lineinfo changes no
# instruction.
CUDA_ARCHITECTURES ?=
cuda: $(STAMP)
	mkdir -p build/cuda/kept
	$(BIN)/cmake -S . -B build/cuda -G Ninja -DGRADKERN_CUDA=ON \
	  $(if $(CUDA_ARCHITECTURES),"-DCMAKE_CUDA_ARCHITECTURES=$(CUDA_ARCHITECTURES)") \
	  -DCMAKE_CUDA_FLAGS="-lineinfo --keep --keep-dir=$(abspath build/cuda/kept)" \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)
	$(BIN)/cmake --build build/cuda --target gradkern_cuda
	find build/cuda/kept -type f ! -name '*.ptx' ! -name '*.cubin' -delete

# The CUDA kernels' source on the CPU under ThreadSanitizer and Address+UBSanitizer.
simt-sanitize: $(STAMP)
	$(BIN)/python $(CHECKS)/sanitizers.py

# Whether the sanitizers notice each barrier that is deleted, and each loop that goes one too far.
simt-mutate: $(STAMP)
	$(BIN)/python $(CHECKS)/mutation.py

# What nvcc makes of the kernels: vector accesses, spills, occupancy; docs/cuda-kernels.md up to date.
sass: $(STAMP)
	$(BIN)/python $(CHECKS)/compiled.py check

docs: $(STAMP)
	$(BIN)/python $(CHECKS)/compiled.py write

# Ten thousand random argument combinations under AddressSanitizer.
fuzz: $(STAMP)
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation --no-deps --upgrade \
	  --target build/asan -C build-dir=build/asan-objects -C cmake.define.GRADKERN_CUDA=OFF \
	  -C "cmake.define.CMAKE_CXX_FLAGS=-fsanitize=address -fno-omit-frame-pointer" .
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 $(BIN)/python tests/run_with_package.py build/asan \
	  tests/fuzz_arguments.py --count 10000

# Trains sick and healthy networks in full, and says what the monitor found: about 15 minutes.
matrix: $(STAMP)
	$(BIN)/python tests/monitor/matrix.py --seeds 0,1

clean:
	rm -rf $(VENV) build dist

# The CPU build of torch is what tests and benchmarks are pinned to. The package index has it under a
# local version for some machines and platforms only; any torch >= 2.10 works.
$(VENV)/.dependencies: constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt torch numpy
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt \
	  "scikit-build-core>=0.10" "pybind11>=2.13" "pythran==0.18.1" "setuptools>=77" ninja "cmake>=3.25"
	touch $@

$(STAMP): $(VENV)/.dependencies $(SOURCES)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[dev]"
	touch $@
