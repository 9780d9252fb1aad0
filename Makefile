# Two commands are all a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

# Drawn pedestrians in CUHK-PEDES's format, trained and evaluated on the CPU; results in log/demo.
demo: $(VENV)/installed
	$(BIN)/t2ireid prepare synthetic data/synthetic --train-ids 2000
	$(BIN)/python tools/train_net.py --config-file configs/t2i_synthetic_cpu.yaml

test: $(VENV)/installed
	$(BIN)/python -m pytest

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Installed once, and again only when the declared dependencies change.
$(VENV)/installed: setup.cfg pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) log data
