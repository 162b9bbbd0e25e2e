# Two commands do everything on a machine with nothing but python3 (3.11 or newer) and a package
# index: `make demo` and `make test`. The environment they share is made once, in .venv.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint bench clean

demo: .venv/ready
	$(BIN)/python -m demo

# Three processes, also on two cores: a third of the time the tests wait for time to pass.
test: lint
	$(BIN)/python -m pytest -n 3 --dist worksteal

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python -m benchmarks.llm_cache
	$(BIN)/python -m benchmarks.llamaindex
	$(BIN)/python -m benchmarks.maps
	$(BIN)/python -m benchmarks.semantic_cache
	$(BIN)/python -m benchmarks.sessions
	$(BIN)/python -m benchmarks.vectors

.venv/ready: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "python3 >= 3.11 is needed, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
