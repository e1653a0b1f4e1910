# Two commands, on a fresh clone with nothing but Python 3.11 and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs pages bench clean

demo: .venv/installed
	"$(BIN)/python" -m reference_models.demo

test: .venv/installed lint
	"$(BIN)/python" -m pytest -n 2 --dist loadfile tests README.md CONTRIBUTING.md docs cnnprobe reference_models

lint: .venv/installed
	"$(BIN)/ruff" check cnnprobe reference_models tests benchmarks
	"$(BIN)/ruff" format --check cnnprobe reference_models tests benchmarks
	"$(BIN)/mypy"
	"$(BIN)/lint-imports" --no-cache
	"$(BIN)/vulture"

docs: .venv/installed
	"$(BIN)/python" -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html

# Of the HTML page: how heavy it is and how fast it opens, and the pictures of it in the docs. Both need chromium.
pages: .venv/installed
	"$(BIN)/python" -m benchmarks.pages
	"$(BIN)/python" -m benchmarks.screenshots

# pip older than 25.1 does not know dependency groups, so the one in the environment is brought up to date first.
.venv/installed: pyproject.toml
	"$(PYTHON)" -m venv .venv
	"$(BIN)/python" -m pip install --quiet --upgrade "pip>=25.1"
	"$(BIN)/python" -m pip install --quiet --group test --editable .
	touch .venv/installed

clean:
	rm -rf .venv
