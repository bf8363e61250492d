# make demo   set up, export a model, watch the demo stream to its end
# make test   set up, run the tests
# make lint   ruff and mypy
# make architectures   measure every architecture (an hour), write docs/architectures.md; an
#                      interrupted run goes on, delete build/architectures.jsonl to start anew
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c .ci/constraints.txt
TENSORRT_RTX := tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings nvidia-cuda-runtime
DEMO_BUNDLE := bundles/efficientnet_lite0

.PHONY: demo test lint architectures clean

demo: $(VENV)/.demo
	$(BIN)/edgewf export --model efficientnet_lite0 --output $(DEMO_BUNDLE) --force
	$(BIN)/edgewf monitor $(DEMO_BUNDLE) --source demo

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/types
	$(PIP_INSTALL) --no-deps --target build/types .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml -p edgewf

architectures: $(VENV)/.dev
	$(BIN)/python -m pytest tests/test_architectures.py --architectures all --table docs/architectures.md

clean:
	rm -rf $(VENV) build bundles *.egg-info

$(BIN)/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/pip pyproject.toml .ci/constraints.txt
	$(PIP_INSTALL) -e '.[export,demo]'
	touch $@

$(VENV)/.dev: $(BIN)/pip pyproject.toml .ci/constraints.txt
	$(PIP_INSTALL) -e '.[dev]'
	@# Parses our graphs without a GPU; a test skips where there is no wheel for the platform.
	-$(PIP_INSTALL) --no-deps $(TENSORRT_RTX)
	touch $@
