# `make demo` runs the example in a real ComfyUI, `make test` runs every test, `make serve` opens ComfyUI.
# Each installs what it needs into .venv; set COMFYUI_PATH to use your own ComfyUI, of any version since 0.3.75.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
EXTRAS := train,evaluate,captions,eightbit,wandb,dev
# Another COMFYUI_PATH than last time: its own requirements and front end have to be installed.
$(shell [ "$$(cat $(READY) 2>/dev/null)" = "$(COMFYUI_PATH)" ] || rm -f $(READY))
# Node.js comes with the Python packages: the tests do not depend on what the machine has.
NODE := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
JS_READY := tests/js/node_modules/.ready

.PHONY: demo serve test test-e2e attack lint measure bench bench-train bench-memory gpu parity clean

# --- the environment -------------------------------------------------------------------------
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; set PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV) || { echo "The venv module is missing: on Debian, apt install python3-venv"; exit 1; }
	$(PY) -m pip install -q --upgrade pip

$(READY): $(PY) pyproject.toml requirements.txt tests/support/comfyui.py
	@echo "Installing torch and the tools (about 8 GB once, $$(df -Ph . | awk 'NR == 2 {print $$4}') free here; progress in .venv/pip.log)"
	@$(PY) -m pip install torch torchvision > $(VENV)/pip.log 2>&1 || { tail -20 $(VENV)/pip.log; exit 1; }
	@$(PY) -m pip install -e ".[$(EXTRAS)]" > $(VENV)/pip.log 2>&1 || { tail -20 $(VENV)/pip.log; exit 1; }
	@$(PY) -c 'from tests.support.comfyui import install_requirements; install_requirements()'
	@printf '%s' "$(COMFYUI_PATH)" > $@

$(JS_READY): $(READY) tests/js/package.json tests/js/package-lock.json
	@cd tests/js && $(NODE) npm ci --silent --no-audit --no-fund || \
		{ echo "npm could not install the packages of tests/js; is its registry reachable? (npm ping)"; exit 1; }
	@touch $@

# --- the two commands ------------------------------------------------------------------------
demo: $(READY)
	@IMAGE="$(IMAGE)" $(PY) -m tests.tools.demo

test: $(READY) $(JS_READY)
	cd tests/js && $(NODE) npm run types && $(NODE) npm run unit
	$(PY) -m pytest tests/unit
	$(PY) -m pytest tests/nodes
	$(PY) -m pytest tests/attacks
	$(PY) -m pytest tests/server
	$(PY) -m pytest tests/e2e

# The attacks in their long form. `make test` runs the short one. Measured: tests/attacks/RESULTS.md
attack: $(READY)
	QUSR_ATTACK=long $(PY) -m pytest tests/attacks --timeout 14400
	$(PY) -m tests.attacks.long interrupts --count 100
	$(PY) -m tests.attacks.long images --count 5000

# Only the browser tests; QUSR_FRONTEND=latest runs them on the newest front end instead of the one that ComfyUI pins.
test-e2e: $(READY) $(JS_READY)
	$(PY) -m pytest tests/e2e

# --- more ------------------------------------------------------------------------------------
serve: $(READY)
	$(PY) -m tests.tools.serve

lint: $(READY) $(JS_READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy qusr_train nodes tests/support tests/tools
	PYTHONPATH=. $(VENV)/bin/lint-imports --no-cache
	cd tests/js && $(NODE) npm run lint

# Quality and time of the bundled model on pairs in DATA/lr and DATA/hr: make measure DATA=folder
measure: $(READY)
	@$(PY) -m tests.tools.measure "$(DATA)"

# Time and memory of SD 2.1's shapes against a plain diffusers pipeline: make bench SIZES="512 1024"
bench: $(READY)
	$(PY) -m tests.bench.inference --sizes $(or $(SIZES),512)

# Time and memory of a training step at SD 2.1's shapes: make bench-train ARGS="--batch 4 --patch 512 --steps 10"
bench-train: $(READY)
	@$(PY) -m tests.bench.training $(ARGS)

# Everything that only a GPU can tell, at most ten minutes; on a CPU a tiny form of each part. Writes tests/bench/gpu/DEVICE.md
gpu: $(READY)
	$(PY) -m tests.bench.gpu $(ARGS)

# Device memory of each step, whole and in tiles, counted without a device
bench-memory: $(READY)
	@$(PY) -m tests.bench.device_memory

# Differences to the reference implementation's own tensors, as a table
parity: $(READY)
	QUSR_PARITY=tests/golden/PARITY.md $(PY) -m pytest tests/nodes/test_parity.py

clean:
	rm -rf $(VENV) .comfyui demo-output tests/js/node_modules
