# xbench: `make benchmark` and `make test` set up what is missing and then do their job.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
BASE   ?= origin/main
PINS   ?= constraints.txt

# `make setup TORCH=cpu` installs the CPU builds of torch, which are 20 times smaller: the light way for laptops.
TORCH  ?= default
ifeq ($(TORCH),cpu)
TORCH_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
endif

.DEFAULT_GOAL := help
.PHONY: help setup benchmark gate baseline test matrix lowest changed lint types docs speed reference validation constraints clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(STAMP) ## Install xbench with everything it needs into .venv

$(STAMP): pyproject.toml $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "xbench needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q $(TORCH_INDEX) -c $(PINS) setuptools -e '.[all,dev]'
	@touch $(STAMP)

benchmark: setup ## Run the suite quick and leave its leaderboard in results/runs/quick
	$(BIN)/xbench run quick --workers 2 --out results/runs/quick

test: setup ## Run all tests
	$(BIN)/python -m pytest -n auto --dist loadfile $(PYTEST_ARGS)

# A venv of its own below build/ for every other interpreter and for the lowest versions, with a part of the tests: PART=tests is all.
PYTHONS ?= python3.11 python3.12 python3.13
PART    ?= tests/xbench tests/metrics

matrix: ## Run a part of the tests under each of PYTHONS: make matrix PYTHONS="python3.12 python3.13"
	set -e; for python in $(PYTHONS); do \
		$(MAKE) test PYTHON=$$python VENV=build/$$(basename $$python) PYTEST_ARGS="$(PART)"; \
	done

lowest: ## Run a part of the tests with the lowest versions that pyproject.toml states
	$(MAKE) test VENV=build/lowest PINS=constraints-lowest.txt PYTEST_ARGS="$(PART)"

# Of a clone that lacks the commit or what led from it to here, nothing can be said.
changed: setup ## Ask that tests ran 90 % of the lines changed since the commit BASE; make test PYTEST_ARGS=--cov comes first
	@mkdir -p build
	@if git merge-base $(BASE) HEAD > build/base 2> /dev/null; then \
		$(BIN)/coverage xml -q -o build/coverage.xml && \
		$(BIN)/diff-cover build/coverage.xml --compare-branch $$(cat build/base) --fail-under 90; \
	else echo "coverage of changed lines: this clone has no commit $(BASE) to compare with"; fi

lint: setup ## Check style, spelling, and that docstrings list the arguments and errors that there are
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

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
	$(BIN)/uv pip compile pyproject.toml --extra all --extra dev --resolution lowest-direct --upgrade --python-version 3.11 \
		--no-annotate --no-header -q -o constraints-lowest.txt

clean: ## Remove what builds and tests leave
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache .coverage* *.egg-info
