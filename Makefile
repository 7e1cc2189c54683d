# Everything runs in .venv, built from nothing but Python 3.11. `make help` lists the targets.
PYTHON ?= python3.11
# Where pip finds torch's CPU build, on machines where it does not find one by itself, for example
#   make demo TORCH_INDEX=https://your.index/whl/cpu
TORCH_INDEX ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ARGS ?=
# Fast tests at a time: each process loads torch.
JOBS ?= 2
KILLS ?= 50

.DEFAULT_GOAL := help
.PHONY: help setup demo lint test test-slow fuzz chaos bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort | expand -t 14

setup: $(STAMP)  ## build .venv (once; again only when the constraints change)

# torch first and alone, so that nothing installed later can pull another build of it.
$(STAMP): constraints.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,report,dicom,onnx]'
	touch $@

demo: $(STAMP)  ## a federation on phantom volumes: encrypted sockets, both frameworks, a report
	$(BIN)/fedsecure demo $(ARGS)

lint: $(STAMP)  ## ruff, mypy --strict, the import contracts
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

test: lint  ## lint and the fast tests
	$(BIN)/python -m pytest -m 'not slow' -n $(JOBS) --dist loadfile $(ARGS)

test-slow: $(STAMP)  ## the tests that take minutes (real data, whole federations)
	$(BIN)/python -m pytest -m slow --timeout 3600 $(ARGS)

chaos: $(STAMP)  ## kill -9 of every node at every phase boundary, step of a sum, and at KILLS random instants
	$(BIN)/python -m sim.chaos --kills $(KILLS)
	$(BIN)/python -m sim.chaos --kills $(KILLS) --sums
	$(BIN)/python -m sim.instants

fuzz: $(STAMP)  ## COUNT mutated inputs (200000 if not given) against the decoders of both nodes
	PYTHONPATH=. $(BIN)/python tests/fuzz/mutate.py $(or $(COUNT),200000) $(ARGS)

bench: $(STAMP)  ## training speed beside a bare PyTorch loop, and the channel beside bare CURVE
	$(BIN)/fedsecure bench train $(ARGS)
	$(BIN)/fedsecure bench channel

clean:  ## remove what was built; runs and caches stay
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
