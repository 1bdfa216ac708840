# Everything here sets itself up: a machine with Python 3.10–3.13 and make needs nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready

# The recipe has an environment of its own: PyTorch is no part of a worker.
RECIPE = deploy/recipes/yolact
TORCH = $(CURDIR)/.venv-recipe/bin/python
RECIPE_READY = .venv-recipe/.ready
RESNET = deploy/recipes/yolact-resnet50
# So has the conversion to int8: TensorFlow is no part of a worker either.
EDGE = deploy/recipes/yolact-edge
TENSORFLOW = $(CURDIR)/.venv-edge/bin/python
EDGE_READY = .venv-edge/.ready
RUN ?= runs/new

# The interpreter that boards ship fails under numpy 2, which the newest OpenCV wants.
TFLITE = .venv-tflite
TFLITE_TESTS = tests/contract/test_runtimes.py tests/contract/test_delegates.py tests/integration/test_tflite.py \
	tests/integration/test_demo.py::test_both_interpreters_find_the_same_with_the_int8_build

.DEFAULT_GOAL := help
.PHONY: help setup demo fleet-demo test test-tflite arm64-test chaos lint format bench recipe-setup recipe-shapes recipe-test recipe-resnet50 fullsize edge-setup edge-shapes edge-test lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY) ## the project's own virtual environment, with everything pinned
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[worker,test]'
	@touch $@

demo: $(READY) ## annotate the bundled images with the bundled model and judge the result
	$(BIN)/maskmill demo -o demo-out

fleet-demo: $(READY) ## a broker, an S3 store, two workers and beat as plain processes; then the same job alone
	$(BIN)/python deploy/fleet_demo.py

test: $(READY) ## all tests; they start the services that they need
	$(BIN)/python -m pytest -n 3 --dist worksteal
	@$(MAKE) --no-print-directory test-tflite

test-tflite: $(READY) ## those of TFLite once more, with both of its interpreters and numpy 1 (Python 3.10 and 3.11)
	@if $(BIN)/python -c 'import sys; sys.exit(sys.version_info >= (3, 12))'; then \
		$(MAKE) --no-print-directory $(TFLITE)/.ready && $(TFLITE)/bin/python -m pytest -n 3 $(TFLITE_TESTS); \
	else echo "tflite-runtime has no wheels for this Python: its tests run on 3.10 and 3.11 only"; fi
$(TFLITE)/.ready: pyproject.toml constraints.txt deploy/docker/edge.txt
	$(PYTHON) -m venv $(TFLITE)
	$(TFLITE)/bin/python -m pip install --quiet --disable-pip-version-check -c deploy/docker/edge.txt \
		-e '.[worker,tflite]' $$(grep -hE '^(pytest|pytest-xdist|onnx)==' constraints.txt)
	@touch $@

arm64-test: $(READY) ## the int8 demo model in an arm64 userland under emulation (root, debootstrap, qemu-user-static)
	BIN=$(CURDIR)/$(BIN) deploy/imx/arm64-test

chaos: $(READY) ## every fault of the list, and a soak that kills anything at any time (CHAOS_MINUTES, CHAOS_KILLS)
	$(BIN)/python -m pytest tests/chaos
	$(BIN)/python -m tests.chaos.soak

lint: $(READY) ## formatter, linter and strict types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## put the code into its one format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(READY) ## speed and memory, as ratios within one run
	$(BIN)/python -m tests.bench.postprocess
	$(BIN)/python -m tests.bench.memory
	$(BIN)/python -m tests.bench.edge
	$(BIN)/python -m tests.bench.video
	$(BIN)/python -m tests.bench.ledger

recipe-setup: $(RECIPE_READY) ## the environment of the training recipe, with PyTorch for the CPU
recipe-shapes: $(RECIPE_READY) ## train the demo model from nothing and judge it: an hour (RUN=runs/new)
	cd $(RECIPE) && $(TORCH) train.py --shapes --out $(RUN) \
		&& $(TORCH) scenes.py $(RUN)/held-out --count 500 --seed 2 \
		&& $(TORCH) publish.py $(RUN)/best.pt --data $(RUN)/held-out/instances.json --name shapes --out $(RUN)

recipe-test: $(RECIPE_READY) ## the tests of the recipe, in its own environment
	cd $(RECIPE) && $(TORCH) -m pytest -q -c /dev/null --rootdir . test_recipe.py
	cd $(RESNET) && $(TORCH) -m pytest -q -c /dev/null --rootdir . test_convert.py

recipe-resnet50: $(RECIPE_READY) ## the original YOLACT weights to ONNX and OpenVINO IR (WEIGHTS=file.pth, else random ones; OUT=out)
	cd $(RESNET) && $(TORCH) convert.py $(or $(WEIGHTS),--random 3) --out $(or $(OUT),out)

fullsize: $(RECIPE_READY) ## full-size graphs with random weights, for benchmarks: build/edge.onnx, build/resnet50.onnx
	mkdir -p build
	cd $(RECIPE) && $(TORCH) fullsize.py edge $(CURDIR)/build/edge.onnx
	cd $(RECIPE) && $(TORCH) fullsize.py resnet50 $(CURDIR)/build/resnet50.onnx

edge-setup: $(EDGE_READY) ## the environment of the int8 conversion, with TensorFlow and Vela (Python 3.10 to 3.12)
edge-shapes: $(EDGE_READY) ## the demo model as int8 TFLite, and for the Ethos-U65: build/edge/
	$(TENSORFLOW) $(RECIPE)/scenes.py build/edge/seen --count 1000 --seed 1
	$(TENSORFLOW) $(EDGE)/convert.py tasks/zoo/shapes.toml --images build/edge/seen --out build/edge

edge-test: $(EDGE_READY) ## the tests of the int8 conversion, in its own environment
	cd $(EDGE) && $(TENSORFLOW) -m pytest -q -c /dev/null --rootdir . test_convert.py

$(EDGE_READY): $(EDGE)/requirements.txt
	$(PYTHON) -m venv .venv-edge
	$(TENSORFLOW) -m pip install --quiet --disable-pip-version-check -r $(EDGE)/requirements.txt
	$(TENSORFLOW) -m pip install --quiet --disable-pip-version-check --no-deps tf-keras==2.19.0
	@touch $@

$(RECIPE_READY): $(RECIPE)/requirements.txt $(RESNET)/requirements.txt
	$(PYTHON) -m venv .venv-recipe
	$(TORCH) -m pip install --quiet --disable-pip-version-check -r $(RESNET)/requirements.txt
	@touch $@

lock: $(READY) ## constraints.txt anew, for every supported Python
	$(BIN)/python -m pip install --quiet uv
	sed -n '/^#/p' constraints.txt > constraints.new
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra worker --extra test \
		--no-header --no-annotate pyproject.toml >> constraints.new
	mv constraints.new constraints.txt

clean: ## remove what the targets made
	rm -rf $(VENV) $(TFLITE) .venv-recipe .venv-edge demo-out fleet-demo-out build *.egg-info
