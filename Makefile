# Everything that the README runs. The set-up goes into VENV, once.

PYTHON ?= python3
VENV ?= .venv
UV ?= uv
# Of the tests: processes, and further options such as --slow.
JOBS ?= 2
PYTEST ?=

RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
DEFAULT_CONFIG := configs/quickstart/sparsercnn.yaml
CONFIG := $(DEFAULT_CONFIG)
# Images, folders or globs that the quickstart draws on.
INPUT ?= $$(ls $${DETECTRON2_DATASETS:-datasets}/shapes/val/*.png | head -n 6)
# Another CONFIG has another folder: runs must not overwrite each other.
OUTPUT := output/$(if $(filter $(DEFAULT_CONFIG),$(CONFIG)),quickstart,$(basename $(notdir $(CONFIG))))

# The stamp is named after what the set-up is made from, and lies in the VENV that it is about.
SOURCES := requirements/build.txt requirements/lock.txt setup.py pyproject.toml \
	tools/install_detectron2.py $(wildcard tools/detectron2_wheel/*.*)
DIGEST := $(shell { pwd; cat $(SOURCES); } | sha256sum | cut -c 1-16)
STAMP := $(VENV)/.installed-$(DIGEST)

PYTHON_CHECK := import sys; found = sys.version_info[:2]; \
	sys.exit(None if sys.platform == "linux" and (3, 10) <= found <= (3, 12) else \
	"This needs Python 3.10, 3.11 or 3.12 on Linux, and %s is %d.%d on %s. " \
	"Name another one: make PYTHON=python3.11 VENV=new_folder ..." \
	% ((sys.executable,) + found + (sys.platform,)))

# Tools that look at the packages; in an environment of their own, so that they add none.
AUDIT := $(VENV)/audit
AUDIT_STAMP := $(AUDIT)/.installed-$(shell sha256sum requirements/audit.txt | cut -c 1-16)
SBOM := output/sbom.cdx.json

.PHONY: help env quickstart test lint bench audit sbom lock

help:
	@echo "make env         install into VENV=$(VENV), with PYTHON=$(PYTHON)"
	@echo "make quickstart  train, evaluate and draw on synthetic shapes, on the CPU"
	@echo "make test        run the tests in JOBS=$(JOBS) processes; with PYTEST=--slow, all of them"
	@echo "make lint        check style and formatting"
	@echo "make bench       measure speed and memory"
	@echo "make audit       look for known vulnerabilities in requirements/lock.txt"
	@echo "make sbom        write a bill of materials (CycloneDX) to $(SBOM)"
	@echo "make lock        renew requirements/*.txt from requirements/*.in, with UV=$(UV)"

env: $(STAMP)

$(STAMP):
	@if [ -x $(RUN) ]; then $(RUN) -c '$(PYTHON_CHECK)'; else $(PYTHON) -c '$(PYTHON_CHECK)'; fi
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(RUN) tools/install_detectron2.py --check-lock requirements/lock.txt
	@rm -f $(VENV)/.installed-*
	$(PIP) install --no-deps --require-hashes -r requirements/build.txt
	$(PIP) install --no-build-isolation --require-hashes -r requirements/lock.txt
	$(RUN) tools/install_detectron2.py
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

quickstart: env
	$(RUN) projects/SparseRCNN/train_net.py --num-gpus 0 --overwrite --config-file $(CONFIG) \
		OUTPUT_DIR $(OUTPUT)
	$(RUN) demo/demo.py --config-file $(CONFIG) \
		--input $(INPUT) --output $(OUTPUT)/demo --confidence-threshold 0.5 \
		--opts MODEL.WEIGHTS $(OUTPUT)/model_final.pth MODEL.DEVICE cpu

test: env
	OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n $(JOBS) --dist loadfile $(PYTEST) tests

lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

bench: env
	$(RUN) tools/benchmark.py

$(AUDIT_STAMP): $(STAMP)
	$(RUN) -m venv $(AUDIT)
	@rm -f $(AUDIT)/.installed-*
	$(AUDIT)/bin/python -m pip install --no-deps --require-hashes -r requirements/audit.txt
	@touch $@

# --strict: a package that could not be looked up is a failure, not a silent pass.
audit: $(AUDIT_STAMP)
	$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/lock.txt

sbom: $(AUDIT_STAMP)
	@mkdir -p $(dir $(SBOM))
	$(AUDIT)/bin/cyclonedx-py environment --output-reproducible --output-file $(SBOM) $(RUN)

# build.txt follows lock.txt: torch limits the version of setuptools.
COMPILE := pip compile --quiet --universal --python-version 3.10 --generate-hashes \
	--no-emit-index-url --no-python-downloads --custom-compile-command "make lock"
lock:
	$(UV) $(COMPILE) requirements/requirements.in requirements/build.in -o requirements/lock.txt
	$(UV) $(COMPILE) -c requirements/lock.txt requirements/build.in -o requirements/build.txt
	$(UV) $(COMPILE) requirements/audit.in -o requirements/audit.txt
