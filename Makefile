# The commands of the project. `make demo` and `make test` work from a fresh clone with Python 3.11 to 3.13.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help demo test test-vision slow lint docs bench emoji clean

help:  ## list the commands
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | sort

$(VENV)/.base: pyproject.toml constraints.txt
	@echo "Creating the environment in $(VENV) (about two minutes: torch is the largest part) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) torch
	@$(INSTALL) -e ".[studio,api,text,speech]"
	@touch $@

$(VENV)/.dev: $(VENV)/.base
	@echo "Adding what the tests need ..."
	@$(INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/.docs: $(VENV)/.base
	@$(INSTALL) -e ".[docs]"
	@touch $@

demo: $(VENV)/.base  ## train CLIP on the emoji set, judge it, write the report, open the search page
	@$(BIN)/intermodal demo $(DEMO)

test: $(VENV)/.dev  ## the whole suite, as CI runs it
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -q -n 2 --dist loadfile  # two workers, a core each

slow: $(VENV)/.dev  ## train the recipes to their expected results (minutes each)
	@$(BIN)/python -m pytest -q -m slow

# open_clip, timm and torchvision pull another torch unless they are installed in one command with ours.
.venv-vision/.done: pyproject.toml constraints.txt
	@$(PYTHON) -m venv .venv-vision
	@.venv-vision/bin/python -m pip install --quiet -c constraints.txt torch torchvision==0.28.0 timm==1.0.31 open_clip_torch==3.3.0 lightly==1.6.0 pytorch-metric-learning transformers sacrebleu==2.6.0 pytest pytest-timeout hypothesis
	@.venv-vision/bin/python -m pip install --quiet --no-deps torchscale==0.3.0 fairscale==0.4.13 einops==0.8.2  # torchscale wants an older timm
	@.venv-vision/bin/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

test-vision: .venv-vision/.done  ## the comparisons with open_clip, in an environment of their own
	@.venv-vision/bin/python -m pytest -q -m vision $$(grep -rl "mark.vision" tests --include="*.py")

bench: $(VENV)/.dev  ## benchmarks side by side with their peers; BENCH="name ..." for some
	@$(BIN)/python benchmarks/run.py $(BENCH)

docs: $(VENV)/.docs  ## build the handbook into site/ and check its links
	@$(BIN)/python docs/build.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The handbook is in site/index.html"

emoji: $(VENV)/.base  ## build the emoji set anew (needs npm)
	@$(INSTALL) -e ".[emoji]"
	@$(BIN)/python tools/build_emoji.py --out src/intermodal/data/assets --cache .cache/npm

clean:  ## remove the environments and everything that was built
	rm -rf $(VENV) .venv-vision site build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
