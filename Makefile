# Every target makes the environment that it needs in .venv, from the hashed locks in requirements/.
# Wanted: a Python >= 3.11 with pip, and make. make PYTHON=/path/to/python3.12 ... chooses one.

BIN := .venv/bin
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help demo serve browser localstack localstack-down package test lint format bench oracle lock clean runtime dev

help: ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' Makefile

demo: runtime ## a small generated world, from scenes to a page of pictures: demo/
	$(BIN)/landpatch demo --to demo

serve: runtime ## STAC Browser and STAC API of the demo's patches, at http://127.0.0.1:8080/
	@test -f demo/dataset/items.parquet || $(BIN)/landpatch demo --to demo
	$(BIN)/landpatch serve demo/dataset

browser: runtime ## get and build STAC Browser, once: needs Node.js and the npm registry
	$(BIN)/landpatch browser

localstack: dev ## the cloud on this machine: the stack on LocalStack, a scene through it; left running
	@requirements/separate localstack
	@$(BIN)/python localstack/scene.py up

localstack-down: dev ## end what `make localstack` started
	@$(BIN)/python localstack/scene.py down

package: dev ## what the functions' image holds, by size, checked against Lambda's limits: build/package
	@$(BIN)/python infra/package.py

# Tests use no network: what they need of STAC Browser is built before. Where it cannot be, they say so themselves.
test: lint ## lint, types and all tests
	-@requirements/components
	-@[ -z "$$CI" ] || for name in localstack sam checkov; do requirements/separate $$name; done
	@$(BIN)/python -m compileall -q catalog functions
	-$(BIN)/landpatch browser >/dev/null
	$(BIN)/pytest --numprocesses=auto --dist=loadfile --durations=15

lint: dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy catalog/landpatch functions/landpatch

format: dev ## bring the code into ruff's form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: dev ## CPU time, memory and ratios on a generated full-size tile
	$(BIN)/python tests/benchmarks/run.py

oracle: dev ## CPU time and memory of Sentinel-1 GRD beside sarsen: make oracle SAFE=folder
	@requirements/separate oracle
	$(BIN)/python -W ignore tests/benchmarks/sar_grd.py $(SAFE)

# What `make demo` and `make serve` install has all extras. Versions stay as they are unless pyproject.toml asks
# for others; make lock UPGRADE=--upgrade takes the newest.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --custom-compile-command "make lock"
lock: dev ## write requirements/*.txt anew from pyproject.toml
	$(COMPILE) $(UPGRADE) --group test --all-extras pyproject.toml requirements/build.in -o requirements/dev.txt
	cp requirements/dev.txt requirements/runtime.txt
	$(COMPILE) --all-extras pyproject.toml requirements/build.in -o requirements/runtime.txt
	$(COMPILE) $(UPGRADE) --group oracle -o requirements/oracle.txt
	$(COMPILE) $(UPGRADE) --group pgstac -o requirements/pgstac.txt
	$(COMPILE) $(UPGRADE) --group localstack -o requirements/localstack.txt
	$(COMPILE) $(UPGRADE) --group sam -o requirements/sam.txt
	$(COMPILE) $(UPGRADE) --group checkov -o requirements/checkov.txt
	echo uv | $(COMPILE) $(UPGRADE) - -o requirements/uv.txt

clean: ## remove .venv, demo/ and every cache
	rm -rf .venv .venv-* demo build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find catalog functions tests -name __pycache__ -type d -prune -exec rm -rf {} +

runtime dev:
	@requirements/bootstrap $@
