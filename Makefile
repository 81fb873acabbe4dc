# xbench: `make benchmark` and `make test` set up what is missing and then do their job.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# `make setup TORCH=cpu` installs the CPU builds of torch, which are 20 times smaller: the light way for laptops.
TORCH  ?= default
ifeq ($(TORCH),cpu)
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
endif

.DEFAULT_GOAL := help
.PHONY: help setup benchmark gate baseline test lint types docs speed reference validation constraints clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install xbench with everything it needs into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "xbench needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH_INDEX) -c constraints.txt setuptools -e '.[all,dev]'
	@touch $(STAMP)

benchmark: setup ## Run the suite quick and leave its leaderboard in results/runs/quick
	$(BIN)/xbench run quick --workers 2 --out results/runs/quick

test: setup ## Run all tests
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

lint: setup ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## Check types, in the tree that a wheel installs: the families too
	rm -rf build/types
	$(BIN)/python -m pip wheel -q --no-deps --no-build-isolation -w build/types .
	cd build/types && ../../$(BIN)/python -m zipfile -e *.whl tree
	$(BIN)/mypy --config-file pyproject.toml build/types/tree/xbench

docs: setup ## Build the pages of docs/ into docs/_build/html; a warning is an error
	$(BIN)/sphinx-build -W -q -b html docs docs/_build/html

speed: setup ## Measure speed, as ratios within one run
	$(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/cams.py
	$(BIN)/python benchmarks/localization.py
	$(BIN)/python benchmarks/methods.py
	$(BIN)/python benchmarks/clip.py
	$(BIN)/python benchmarks/convis.py
	$(BIN)/python benchmarks/scenes.py
	$(BIN)/python benchmarks/leaderboard.py

gate: setup ## Did explanations get worse? The suite gate against the committed baseline in results/gate
	$(BIN)/xbench run gate --workers 2 --out results/runs/gate
	$(BIN)/xbench gate results/gate results/runs/gate --junit results/runs/gate/junit.xml --summary results/runs/gate/summary.md

baseline: setup ## Accept the explanations of today as the baseline in results/gate, which is committed
	$(BIN)/xbench run gate --workers 2 --out results/runs/gate
	rm -rf build/baseline
	$(BIN)/xbench submit results/runs/gate --name baseline --by "the xbench project" --out build/baseline
	rm -rf results/gate
	mv build/baseline results/gate

reference: setup ## Finish the run of the suite quick and submit it as results/quick, which is committed
	$(BIN)/xbench run quick --workers 2 --out results/runs/quick
	rm -rf build/reference
	$(BIN)/xbench submit results/runs/quick --name reference --by "the xbench project" --out build/reference
	rm -rf results/quick
	mv build/reference results/quick
	$(BIN)/python tools/readme.py

validation: setup ## Put all metrics to the test anew; the table is committed beside the results
	$(BIN)/xbench validate-metrics --workers 2 --out results/runs/validate \
		--json results/validation.json --markdown results/validation.md || test $$? = 1  # some metrics fail, and the table says so

constraints: setup ## Resolve constraints.txt anew
	$(BIN)/python -m pip install -q uv
	mkdir -p build
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' > build/pins.txt
	$(BIN)/uv pip compile pyproject.toml --all-extras --upgrade --python-version 3.11 -c build/pins.txt \
		--no-annotate --no-header -q -o constraints.txt

clean: ## Remove what builds and tests leave
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .coverage* *.egg-info
