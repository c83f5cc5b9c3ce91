# Two commands matter: `make demo` and `make test`. Each sets up all that it needs.

PYTHON ?= python3
VENV := .venv
BARE := .venv-coordinator
FLOWER := .venv-flower
TORCH := .venv-torch
SITE := .venv-site
BIN := $(VENV)/bin
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -n)
PIP_FLAGS := --quiet --disable-pip-version-check --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo screenshots settings site heart-disease credit-default fashion-phones air-quality language-adapters \
	linear-regression bench bench-short plots experiments \
	chaos cluster fuzz soak property admin-crashes check test test-torch test-all long deployments test-rabbitmq4 lint types imports unit format clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

# TLS=1: everything encrypted. SECURE=1: masked updates, and a keeper.
demo: $(VENV)/.examples ## train on real patients of four clinics, over a private RabbitMQ node
	@$(BIN)/coordinator-worker demo $(if $(TLS),--tls) $(if $(SECURE),--secure)

heart-disease: $(VENV)/.examples ## the same for four real hospitals: make heart-disease DATA=FOLDER
	@$(BIN)/python -m warren_examples.heart_disease --data "$(DATA)"

credit-default: $(VENV)/.examples ## the same for four banks: make credit-default DATA=FOLDER
	@$(BIN)/python -m warren_examples.credit_default --data "$(DATA)"

fashion-phones: $(VENV)/.examples ## a hundred virtual phones: make fashion-phones DATA=FOLDER
	@$(BIN)/python -m warren_examples.fashion_phones --data "$(DATA)"

air-quality: $(VENV)/.examples ## twelve stations: make air-quality DATA=FOLDER
	@$(BIN)/python -m warren_examples.air_quality --data "$(DATA)"

language-adapters: $(VENV)/.examples ## low-rank adapters of a small language model at four sites
	@$(BIN)/python -m warren_examples.language_adapters

linear-regression: $(VENV)/.examples ## the algorithm in one process, in a few lines
	@$(BIN)/python -m warren_examples.linear_regression

# Each benchmark is a separate command: one that fails does not cost the others' results.
bench: $(VENV)/.bench $(FLOWER)/.installed ## measure it all, with Flower beside it
	@failed=; for name in round fold aggregation scale start straggler recovery endurance protection compression \
	  privacy flood joining regions; do \
	  $(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; done; \
	$(BIN)/python -m benchmarks.reporting.readme; \
	[ -z "$$failed" ] || { echo "failed:$$failed" >&2; exit 1; }

bench-short: $(VENV)/.bench ## the same in three minutes, small and without Flower, into runs/bench
	@for name in "round --no-peers" "fold --no-peers" aggregation scale "start --no-peers" straggler \
	  recovery endurance protection compression privacy "flood --kinds tiny" joining regions; do \
	  $(BIN)/python -m benchmarks.$$name --short --out runs/bench || exit 1; done

plots: $(VENV)/.bench ## draw the results of the benchmarks, beside their JSON files
	@$(BIN)/python -m benchmarks.reporting.draw

# Half an hour in all; `make experiments DATA=FOLDER ONLY=robust` is one of them.
experiments: $(VENV)/.bench $(TORCH)/.installed ## what the algorithms learn, beside published figures: DATA=FOLDER
	@for name in $(or $(ONLY),fedavg_rounds asynchronous biased optimizers robust hospitals hospitals_private pooled compression private privacy_audit inversion frameworks trees); do \
	  OMP_NUM_THREADS=1 $(BIN)/python -m experiments.$$name --data "$(DATA)" || exit 1; done

# RABBITMQ=4 for that of Debian 13 instead of this machine's own, RABBITMQ=4.3 for that of the next.
DEBIAN = $(if $(filter 4.3,$(RABBITMQ)),forky,$(if $(filter 4,$(RABBITMQ)),trixie))
NEWER = $(if $(DEBIAN),$(CURDIR)/tests/rabbitmq4/bin$(if $(filter forky,$(DEBIAN)),-forky):)
UNPACKED = [ -z "$(DEBIAN)" ] || tests/rabbitmq4/unpack $(DEBIAN)

chaos: $(VENV)/.dev $(BARE)/.installed ## break a federation at random: make chaos MINUTES=10 SEED=7
	@$(UNPACKED)
	@PATH="$(NEWER)$$PATH" \
	  TEST_COORDINATOR_WORKER=$(CURDIR)/$(BARE)/bin/coordinator-worker $(BIN)/python -m tests.chaos \
	  --minutes $(or $(MINUTES),10) $(if $(SEED),--seed $(SEED))

# Each run is a minute. LOSSES=300 loses nodes at random instead. PARTITIONS: ignore, pause_minority, autoheal, khepri (with RABBITMQ=4).
cluster: $(VENV)/.dev $(BARE)/.installed $(VENV)/.programs ## three nodes, one cut off: make cluster RUNS=10 PARTITIONS=ignore
	@$(UNPACKED)
	@PATH="$(NEWER)$$PATH" \
	  TEST_COORDINATOR_WORKER=$(CURDIR)/$(BARE)/bin/coordinator-worker $(BIN)/python -m tests.cluster \
	  --runs $(or $(RUNS),1) --partitions $(or $(PARTITIONS),ignore) $(if $(LOSSES),--losses $(LOSSES))

# Two minutes go by before the first act: until then an honest federation grows, too.
soak: $(VENV)/.dev $(BARE)/.installed ## every hostile act at once, what has grown?: make soak SECONDS=600
	@$(UNPACKED)
	@PATH="$(NEWER)$$PATH" OMP_NUM_THREADS=1 \
	  TEST_COORDINATOR_WORKER=$(CURDIR)/$(BARE)/bin/coordinator-worker $(BIN)/python -m tests.soak \
	  --seconds $(or $(SECONDS),600)

# make test takes 30 of them.
property: $(VENV)/.dev ## random Keras models against Keras's own fit: make property EXAMPLES=500
	@OMP_NUM_THREADS=1 WARREN_TEST_EXAMPLES=$(or $(EXAMPLES),500) $(BIN)/python -m pytest \
	  tests/unit/client_worker/models/test_random_models.py -q --timeout 0

# make test takes half of them.
admin-crashes: $(VENV)/.dev ## kill broker-config before each of its effects, on a real node
	@WARREN_TEST_CRASH_POINTS=all $(BIN)/python -m pytest \
	  tests/integration/test_admin_crash_points.py -q --timeout 0

# What is new in runs/fuzz/TARGET afterwards and worth keeping belongs into tests/fuzz/corpus.
fuzz: $(VENV)/.fuzz ## hostile bytes, led by coverage: make fuzz SECONDS=600 TARGET=decoder
	@for target in $(or $(TARGET),decoder step codes); do \
	  $(BIN)/python -m tests.fuzz $$target --seconds $(or $(SECONDS),600) || exit 1; done

screenshots: $(VENV)/.dev $(VENV)/.programs ## take the pictures of docs/monitoring.md again
	@$(BIN)/python tools/screenshots.py

settings: $(VENV)/.dev ## write what is written from the code: settings, metrics, Grafana's dashboard
	@$(BIN)/python tools/settings_reference.py > docs/settings.md
	@$(BIN)/python tools/api_reference.py > docs/reference.md
	@$(BIN)/python tools/metrics_reference.py --write
	@$(BIN)/python deploy/grafana/dashboard.py
	@$(BIN)/python tools/completions.py

# -E: all pages, since a warning about one that is not built again would not be seen. To look at it with
# excerpts in its search: python3 -m http.server -d site.
site: $(SITE)/.installed ## the documents as a site with search, in English and Chinese: site/index.html
	@$(if $(OUT),,rm -rf site)
	@$(SITE)/bin/sphinx-build --quiet -E -n -W --keep-going -c tools/site -d $(SITE)/doctrees . $(or $(OUT),site)

# Which are all slow: not even to be imported.
WITH_TENSORFLOW := test_keras test_random_models test_labels test_export test_public_names

check: lint types imports ## before each commit: format, types, rooms, and the fast unit tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/unit -q -m "not slow" -n 2 $(WITH_TENSORFLOW:%=--ignore-glob='*%*')

test: lint types imports unit test-torch ## everything that has to pass

test-all: test long deployments test-rabbitmq4 ## the same, benchmarks, documents that train, deployments, RabbitMQ 4

# Root, and a systemd: they boot one in its own namespaces.
deployments: $(VENV)/.dev $(VENV)/.programs ## the units as systemd runs them, compose as an engine does
	$(SUDO) $(BIN)/python -m pytest tests/deployments

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

# Files are run by several processes, each with a RabbitMQ node of its own. One more than there are
# processors, since most tests wait for others. JOBS=1 for one after another.
JOBS ?= $(shell expr $$(nproc) + 1)
# A process that crashes fails the run: another one in its place would wait for tests that are done.
AT_ONCE = $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0)

# The workers under test are real processes; their coordinator comes from an environment that has
# no TensorFlow in it, so that it cannot come to need it.
unit: $(VENV)/.dev $(BARE)/.installed $(SITE)/.installed $(VENV)/.programs
	TEST_COORDINATOR_WORKER=$(CURDIR)/$(BARE)/bin/coordinator-worker \
	  $(BIN)/python -m pytest -m "not long" $(AT_ONCE)

# In an environment without TensorFlow, so that neither framework can come to need the other.
test-torch: $(TORCH)/.installed ## the tests of PyTorch, Hugging Face and JAX models
	OMP_NUM_THREADS=1 $(TORCH)/bin/python -m pytest tests/torch

# One after another: some of them measure.
long: $(VENV)/.dev $(BARE)/.installed $(VENV)/.programs
	TEST_COORDINATOR_WORKER=$(CURDIR)/$(BARE)/bin/coordinator-worker $(BIN)/python -m pytest -m long

# First on the PATH, its rabbitmq-server is what every node of the run starts, those of examples and
# README too; erl and epmd beside it are of the same age.
test-rabbitmq4: RABBITMQ := $(or $(RABBITMQ),4)
test-rabbitmq4: $(VENV)/.dev $(BARE)/.installed $(VENV)/.programs ## the tests that need a broker, on RabbitMQ 4 (RABBITMQ=4.3)
	@$(UNPACKED)
	PATH="$(NEWER)$$PATH" WARREN_TEST_RABBITMQ_VERSION=$(RABBITMQ) \
	  TEST_COORDINATOR_WORKER=$(CURDIR)/$(BARE)/bin/coordinator-worker \
	  $(BIN)/python -m pytest -m "not long" $(AT_ONCE) tests/integration tests/acceptance

format: $(VENV)/.dev ## bring the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove what was installed and produced here
	rm -rf $(VENV) $(BARE) $(FLOWER) $(TORCH) $(SITE) .rabbitmq4 .engine runs site .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info

# --- environments: made again when what they are made from changes ---------------------------------

$(VENV)/.examples: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Warren with TensorFlow into $(VENV): a minute or two, once" >&2
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[demo]'
	@touch $@

# An environment's own pip may be too old for --group.
$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Warren with what draws its benchmarks into $(VENV): a minute or two, once" >&2
	@$(BIN)/python -m pip install $(PIP_FLAGS) --upgrade pip
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[demo,xgboost]' --group bench
	@touch $@ $(VENV)/.examples

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing Warren with its tests' tools into $(VENV): a minute or two, once" >&2
	@$(BIN)/python -m pip install $(PIP_FLAGS) --upgrade pip
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[demo,tensorboard,traces,mlflow,wandb,xgboost]' --group dev
	@mkdir -p $(VENV)/mypy && for name in shared examples; do ln -sfn ../../$$name $(VENV)/mypy/warren_$$name; done
	@touch $@ $(VENV)/.examples $(VENV)/.bench

# What some tests drive or ask: a browser, network namespaces, systemd's own judgement of units, kustomize.
$(VENV)/.programs: | $(BIN)/python
	@missing=; \
	command -v chromium >/dev/null || missing="$$missing chromium fonts-dejavu-core"; \
	command -v kubectl >/dev/null || missing="$$missing kubernetes-client"; \
	command -v ip >/dev/null || missing="$$missing iproute2"; \
	command -v systemd-analyze >/dev/null || missing="$$missing systemd"; \
	[ -z "$$missing" ] || { echo "installing$$missing, for the tests" >&2; \
	  $(SUDO) apt-get update -qq >&2; \
	  $(SUDO) apt-get install -qq -y --no-install-recommends $$missing >&2; } \
	  || { echo "cannot install$$missing: do that first, then make test" >&2; exit 1; }
	@touch $@

$(VENV)/.fuzz: pyproject.toml constraints.txt | $(BIN)/python
	@$(BIN)/python -m pip install $(PIP_FLAGS) --upgrade pip
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[demo,tensorboard,traces,mlflow,wandb,xgboost]' --group dev --group fuzz
	@touch $@ $(VENV)/.dev $(VENV)/.examples $(VENV)/.bench

$(BARE)/.installed: pyproject.toml constraints.txt | $(BARE)/bin/python
	@echo "installing the coordinator alone into $(BARE)" >&2
	@$(BARE)/bin/python -m pip install $(PIP_FLAGS) --editable .
	@touch $@

# Of its own, for Flower pins what TensorFlow does not get along with, and without Warren: what
# measures Flower is started here and needs nothing but Flower.
$(FLOWER)/.installed: pyproject.toml benchmarks/peers/flower-constraints.txt | $(FLOWER)/bin/python
	@echo "installing Flower, to measure it beside Warren, into $(FLOWER): a minute or two, once" >&2
	@$(FLOWER)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --constraint benchmarks/peers/flower-constraints.txt 'flwr[simulation]>=1.41'
	@touch $@

# Where there is no graphics card, have pip find the CPU wheel (--find-links, --extra-index-url).
$(TORCH)/.installed: pyproject.toml constraints.txt | $(TORCH)/bin/python
	@echo "installing PyTorch, JAX and transformers into $(TORCH): a minute or two, once" >&2
	@$(TORCH)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip
	@$(TORCH)/bin/python -m pip install $(PIP_FLAGS) --editable '.[torch]' --group torch
	@touch $@

# Without Warren: pages need the documents alone, docs/reference.md has the docstrings.
$(SITE)/.installed: pyproject.toml constraints.txt | $(SITE)/bin/python
	@echo "installing Sphinx into $(SITE)" >&2
	@$(SITE)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip
	@$(SITE)/bin/python -m pip install $(PIP_FLAGS) --group site
	@touch $@

# Debian ships python3 without the part that makes environments.
%/bin/python:
	@$(PYTHON) -m venv $* || { rm -rf $*; $(SUDO) apt-get install -y python3-venv >&2 \
	  && $(PYTHON) -m venv $*; } \
	  || { echo "cannot make a virtual environment: install python3-venv" >&2; exit 1; }
