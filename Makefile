# Three commands, on a fresh clone with nothing but Python 3.11 and make: `make demo`, `make check` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

# Of every room a file of tests that takes few seconds.
QUICK := cli_graph cli_compare comparison_numbers diagnosis engines healthy_loops histories layout least_input map_crashes \
	messages neutrality notebook one_answer operations package recorder render_markup render_text report schema stats targets

.PHONY: demo check test tests lint docs pages bench clean

demo: .venv/installed
	"$(BIN)/python" -m reference_models.demo

check: .venv/installed lint
	"$(BIN)/python" -m pytest -q -n 2 --dist loadfile -m "not slow" $(QUICK:%=tests/test_%.py)

# Beside each other: mypy keeps one core busy for a minute where it has no cache.
test: .venv/installed
	"$(MAKE)" --no-print-directory -j 2 lint tests

tests: .venv/installed
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
