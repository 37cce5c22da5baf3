# Two commands on a fresh machine do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: help demo test check lint docs bench faults mutants clean

help:
	@echo "make demo      the main job, end to end, on this machine (ONCE=1: one round, then stop)"
	@echo "make test      install what is missing, then the whole suite against real servers"
	@echo "make check     lint, types, floors, docs, and make test"
	@echo "make bench     every figure in the docs, beside its peers"
	@echo "make mutants   break each provider in one place after another, and see its tests notice"
	@echo "make faults    seeded random kills of workers, of web processes, of Celery's workers"
	@echo "               (SEED=n KILLS=500 MESSAGES=20000 WEB=300 DATABASE=sqlite BROKER=redis;"
	@echo "               Celery's on PostgreSQL alone, with DATABASE=all on each, too)"

$(STAMP): pyproject.toml
	$(PYTHON) tools/python_is_new_enough.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "pip>=25.1"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --group dev --editable .
	touch $@

demo: $(STAMP)
	$(BIN)/python examples/signup/demo.py $(if $(ONCE),--once)

test: $(STAMP)
	$(BIN)/python tools/provide_servers.py
	$(BIN)/python -m pytest -n 3 --dist worksteal $(ARGS)

lint: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pyright

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --quiet

check: lint docs test

bench: $(STAMP)
	$(BIN)/python tools/provide_servers.py
	$(BIN)/python bench/compose.py
	$(BIN)/python bench/check.py
	$(BIN)/python bench/dkim.py
	$(BIN)/python bench/smtp.py
	$(BIN)/python bench/send_later.py
	$(BIN)/python bench/under_load.py
	$(BIN)/python bench/outbox.py
	$(BIN)/python bench/celery_choices.py
	$(BIN)/python bench/million.py
	$(BIN)/python bench/rates.py

faults: $(STAMP)
	$(BIN)/python tools/provide_servers.py
	$(BIN)/python tests/faults/random_kills.py $(if $(SEED),--seed $(SEED)) \
		--kills $(or $(KILLS),500) --messages $(or $(MESSAGES),20000) \
		--database $(or $(DATABASE),all)
	$(BIN)/python tests/faults/web_kills.py $(if $(SEED),--seed $(SEED)) \
		--kills $(or $(WEB),300) --database $(or $(DATABASE),all)
	$(BIN)/python tests/faults/engine_kills.py $(if $(SEED),--seed $(SEED)) \
		--kills $(or $(KILLS),500) --messages $(or $(MESSAGES),20000) \
		--broker $(or $(BROKER),all) --database $(or $(DATABASE),postgresql)
	CROWDS=full $(BIN)/python -m pytest -q tests/faults/test_crowds.py tests/faults/test_many_workers.py

mutants: $(STAMP)
	$(BIN)/python tools/mutants.py $(ONLY)

clean:
	rm -rf $(VENV) site build dist
