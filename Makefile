# Two commands matter: `make nightly` runs the main job, `make test` runs the tests.
# Everything below sets itself up; nothing is installed outside .venv except by `make servers`.

PYTHON ?= python3
BIN := .venv/bin
LAKE ?= data/lake
OUT ?= data
PARAMS ?=

.PHONY: help nightly demo demo-traces test lab servers setup check lock schedule clean \
	bench-decode bench-import bench-query bench-ingest bench-baselines bench-gate bench-nab bench-business bench-slo \
	bench-overhead bench-peers fuzz e2e

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: .venv/ready ## make .venv from requirements.lock

.venv/ready: requirements.lock bootstrap.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found $$($(PYTHON) --version); try make PYTHON=python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ echo "python3 -m venv failed: install Debian's python3-venv and run make again"; exit 1; }
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r bootstrap.lock
	@echo "setting up .venv (about 20 s with a good network)"
	@$(BIN)/uv pip sync --quiet --require-hashes requirements.lock --python $(BIN)/python
	@$(BIN)/uv pip install --quiet --no-build-isolation --no-deps --editable . --python $(BIN)/python
	@touch $@

nightly: export APM_PARAMS := $(abspath $(PARAMS))
nightly: .venv/ready ## run the main job; with no lake yet, simulate a shop first
	@$(BIN)/apm simulate --lake $(LAKE) --if-missing
	@$(BIN)/apm nightly --lake $(LAKE) --out $(OUT)

test: .venv/ready ## run all tests
	@$(BIN)/python -m pytest -n 2 --dist loadfile

check: .venv/ready ## format, types, import order, notebooks without outputs
	@$(BIN)/ruff format --check apm_analytics pipelines demo tests bench
	@$(BIN)/ruff check apm_analytics pipelines demo tests bench
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/nbstripout --verify notebooks/*.ipynb

demo: .venv/ready ## run the demo shop for 3 minutes, with faults; writes data/demo/lake
	@$(BIN)/python -m demo.run --lake data/demo/lake

demo-traces: .venv/ready ## check 10,000 requests of the shop: one whole trace each, durations as clients measure
	@$(BIN)/python -m demo.completeness

lab: .venv/ready ## open the notebooks in JupyterLab on loopback
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --notebook-dir=notebooks \
		--LabApp.app_settings_dir=$(CURDIR)/deploy/jupyterlab \
		$(if $(filter 0,$(shell id -u)),--allow-root)

servers: ## install the Debian packages that the tests start (needs root)
	@missing=""; for p in prometheus prometheus-node-exporter chromium postgresql redis-server faketime; do \
		dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	test -z "$$missing" || { apt-get update -qq && \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing; }

.PHONY: plots
plots: .venv/ready ## write the plots of the training run as one offline page; WHAT="workspace an-experiment" compares
	@$(BIN)/apm plots $(WHAT)

schedule: .venv/ready ## run the main job every night at 02:00 UTC
	@$(BIN)/apm schedule --at 02:00 --lake $(LAKE) --out $(OUT)

bench-decode: .venv/ready ## measure decoding alone, scanner and protobuf library side by side
	@$(BIN)/python bench/bench_decode.py

bench-import: .venv/ready ## measure imports: spans and points per CPU second, peak memory
	@$(BIN)/python bench/bench_import.py

bench-query: .venv/ready ## measure common queries on 5 million spans
	@$(BIN)/python bench/bench_query.py

bench-ingest: bench-peers ## measure the receiver, rotel and the Collector side by side
	@$(BIN)/python bench/bench_ingest.py

bench-baselines: bench-peers ## measure a fleet of series, Prophet and statsforecast side by side
	@$(BIN)/python bench/bench_baselines.py

bench-nab: .venv/ready ## compute NAB scores of DATA=DIR; THRESHOLD=T scores at a given threshold
	@$(BIN)/python bench/bench_nab.py $(DATA) $(if $(THRESHOLD),--threshold $(THRESHOLD))

bench-business: bench-slo ## measure associations and losses against known truth; fails when a figure is missed
	@$(BIN)/python bench/bench_business.py

bench-slo: .venv/ready ## measure the SLO report and critical paths on a month of 5 million transactions
	@$(BIN)/python bench/bench_slo.py

bench-overhead: bench-peers ## measure a service instrumented by us, by plain OpenTelemetry and not at all
	@$(BIN)/python bench/bench_overhead.py

bench-gate: .venv/ready ## measure recall and false pages of the alerts on simulated shops with known incidents
	@$(BIN)/python bench/bench_gate.py

bench-peers: .venv/ready
	@$(BIN)/uv pip install --quiet --require-hashes -r bench.lock --python $(BIN)/python

fuzz: .venv/ready ## decode a million mutated requests, and JSON; compare with the library; forge stamps
	@$(BIN)/python tests/support/fuzz_columnar.py --requests 1000000
	@$(BIN)/python tests/support/fuzz_json.py --documents 200000
	@$(BIN)/python tests/support/fuzz_stamps.py --requests 120000

e2e: .venv/ready ## run the end-to-end tests with a real Collector and the JavaScript SDK (needs Go and Node)
	@$(BIN)/python -m pytest tests/e2e

lock: .venv/ready ## resolve pyproject.toml into requirements.lock
	@$(BIN)/uv pip compile --quiet --python-version 3.11.0 --extra dev --extra instrument --extra demo --generate-hashes --no-header --no-annotate \
		--no-emit-index-url --output-file requirements.lock pyproject.toml
	@$(BIN)/uv pip compile --quiet --python-version 3.11.0 --prerelease allow --extra bench --constraint requirements.lock \
		--generate-hashes --no-header --no-annotate --no-emit-index-url \
		--output-file bench.lock pyproject.toml
	@grep -A1000 '^uv==' requirements.lock | awk 'NR>1 && /^[a-z]/{exit} {print}' > bootstrap.lock

clean: ## remove lake, models and everything published
	@rm -rf data/lake data/simulated data/derived data/runs data/releases data/published models/*
