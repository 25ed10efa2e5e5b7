# make demo         sets up .venv, exports the embedded checkpoint, tells a story
# make test         sets up .venv, lints, type-checks, runs all tests
# make test-arm     the golden tests on an emulated aarch64 (Debian or Ubuntu, installs qemu-user-static)
# make test-arm-lesser  products on an emulated Cortex-A53 and A72, which lack dot products; 4 minutes
# make bench-encoders  DeiT and MiniLM shapes against onnxruntime, float32 and int8
# make bench-peers  our speed against llama.cpp and onnxruntime; builds llama.cpp (cmake, g++)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CHECKPOINT := samples/stories-bitnet
BUNDLE := build/stories-bitnet
TYPING := build/typing

# What the processors without dot products run under qemu, which ends at an instruction they lack.
LESSER_ARM := "emulated or (compiled and neon and (BitLinear-random_1 or LogitsHead-random_1) \
  and not Gated and not Column and not Planar)"

.PHONY: demo test lint typecheck golden test-arm test-arm-lesser bench bench-encoders bench-peers clean

demo: $(VENV)/.run-ready
	$(BIN)/edgellm export $(CHECKPOINT) -o $(BUNDLE) --force
	$(BIN)/edgellm inspect $(BUNDLE)
	$(BIN)/edgellm run $(BUNDLE) -p "Once upon a time" -n 250 --temp 0.6 --top-p 0.9 --seed 2

# One process a core: the threads of NumPy's products would only wait for each other.
test: lint typecheck
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(VENV)/.test-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# mypy does not follow setuptools' package-dir, so it reads the packages through a tree of links.
typecheck: $(VENV)/.test-ready
	rm -rf $(TYPING) && mkdir -p $(TYPING)/edgellm
	cd $(TYPING)/edgellm && ln -s ../../../edgellm/* ../../../exporters ../../../runtime ../../../devices .
	cd $(TYPING) && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../mypy \
	  --num-workers auto -p edgellm

# The bundles of the golden tests, exported here to be run elsewhere.
golden: $(VENV)/.run-ready
	rm -rf build/golden && mkdir -p build/golden
	$(BIN)/edgellm export $(CHECKPOINT) -o build/golden/stories-bitnet
	for config in tests/golden/configs/*.json; do \
	  $(BIN)/edgellm export --random $$config -o build/golden/$$(basename $$config .json) || exit; \
	done

test-arm: $(VENV)/.test-ready golden
	tests/arm/setup_rootfs.sh $(BIN)/python
	EDGELLM_GOLDEN_BUNDLES="$$PWD/build/golden" tests/arm/run.sh $(ARGS)

test-arm-lesser: $(VENV)/.test-ready
	tests/arm/setup_rootfs.sh $(BIN)/python
	for cpu in cortex-a53 cortex-a72; do \
	  EDGELLM_QEMU_CPU=$$cpu tests/arm/run.sh tests/arm tests/conformance/test_kernels.py -k $(LESSER_ARM) || exit; \
	done

bench: $(VENV)/.test-ready
	$(BIN)/python tests/benchmarks/matmuls.py
	$(BIN)/python -m tests.benchmarks.low_bits

bench-encoders: $(VENV)/.test-ready
	$(BIN)/python -m tests.benchmarks.encoders $(ARGS)

bench-peers: $(VENV)/.peers-ready
	$(BIN)/python -m tests.benchmarks.peers $(ARGS)

$(VENV)/.run-ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "edgellm needs Python 3.11 or newer; try: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.test-ready: $(VENV)/.run-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

$(VENV)/.peers-ready: $(VENV)/.run-ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[peers]'
	touch $@

clean:
	rm -rf build $(VENV)
