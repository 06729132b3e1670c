# Everything a newcomer needs: `make run` and `make test` set themselves up from a clean clone.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
UV := UV_PROJECT_ENVIRONMENT=.venv VIRTUAL_ENV=.venv $(BIN)/uv
UV_VERSION := 0.13.9

.PHONY: run test test-crash check audit format generate bench eval default-model lock setup clean

run: setup
	@exec $(BIN)/sauda up $(ARGS)

test: setup .venv-kite/.installed
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# The trading path killed, frozen and starved at every step, judged by the broker's own count (docs/safety.md).
test-crash: setup
	$(BIN)/python -m tests.crash $(ARGS)

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/python -m sauda check

# Known flaws of the dependencies, risky code, secrets that were committed, and the bill of materials (docs/security.md).
audit: setup .venv-audit/.installed
	@.ci/audit $(ARGS)

# The tools of the audit, in an environment of their own: what they need is no part of the product.
.venv-audit/.installed: uv.lock $(BIN)/uv
	@$(BIN)/uv venv --quiet --clear .venv-audit
	@$(UV) export --quiet --frozen --only-group audit --no-emit-project --output-file .venv-audit/requirements.txt > /dev/null
	@$(BIN)/uv pip install --quiet --python .venv-audit/bin/python --require-hashes --requirement .venv-audit/requirements.txt
	@touch $@

# Zerodha's own Python client, which the tests let trade in the sandbox: its pins clash with ours.
.venv-kite/.installed: tests/kite_client/requirements.txt $(BIN)/uv
	@$(BIN)/uv venv --quiet --clear .venv-kite
	@$(BIN)/uv pip install --quiet --python .venv-kite/bin/python --require-hashes --requirement $<
	@touch $@

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Files written from the code: .env.example, data_service/reference/sessions.csv.
generate: setup
	$(BIN)/python -m sauda check --write

eval: setup
	$(BIN)/python -m tests.evaluation $(ARGS)

# The model that a fresh checkout trades on: train it anew after a change of features, labels or logic.
default-model: setup
	$(BIN)/python -m tests.evaluation.ship

bench: setup .venv-bench/.installed
	$(BIN)/python -m tests.bench $(ARGS)

# What the benchmarks compare the backtest with, in an environment of its own; without it they leave that out.
.venv-bench/.installed: tests/bench/peers/requirements.txt $(BIN)/uv
	@$(BIN)/uv venv --quiet --clear .venv-bench
	@$(BIN)/uv pip install --quiet --python .venv-bench/bin/python --requirement $< \
		|| echo "The libraries to compare with cannot be installed: the benchmarks leave them out."
	@touch $@

# The lock holds names, versions and hashes, and no download addresses: any index or mirror that pip is set up
# with serves it, and every file is checked against its hash.
lock: $(BIN)/uv
	$(UV) lock $(ARGS)
	sed -i -E 's#url = "[a-z]+://[^"]*/([^/"]+)"#filename = "\1"#; s#registry = "[^"]+"#registry = "index"#' uv.lock

setup: .venv/.installed

.venv/.installed: uv.lock pyproject.toml $(BIN)/uv
	@echo "Installing locked dependencies into .venv (first time only) ..."
	@$(UV) export --quiet --frozen --no-emit-project --output-file .venv/requirements.txt > /dev/null
	@$(UV) pip install --quiet --require-hashes --requirement .venv/requirements.txt
	@$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Sauda needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

clean:
	rm -rf .venv .venv-bench .venv-audit .venv-kite build/audit
