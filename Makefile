# The first target that runs makes .venv; later ones use it as it is.
#
#   make run                 train for about a minute; make run TRAIN_ARGS="--policy lstm --slots 16"
#   make networks            train a controller on real networks for about seven minutes, and compare it with fixed plans
#   make replay              replay the sample log      make replay LOG=path/to/log.jsonl RULES=esper-2025-11
#   make test                all tests                  make lint     format, lint and types
#   make matrix              all tests under each promised pair of Python and torch; downloads some gigabytes.
#                            make matrix MATRIX_ARGS="--pairs 3.12/2.11.0"
#   make docs                write what is generated: the tables of docs/rules.md and of results
#   make site                the documentation as a site, site/index.html; a link that leads nowhere is an error
#   make notebooks           execute notebooks/*.py into the .ipynb beside them; NOTEBOOKS="03 04" for some
#   make dist                wheel and sdist into dist/, each installed in a fresh environment and tried there
#   make bench               measure all groups of rows, in two and a quarter hours: benchmarks/results, their tables and pictures
#   make bench SUITES="masks dropin"            some groups, such as those that an interrupted run left over;
#                            BENCH_ARGS=--quick for a look, into runs/bench
#   make gpu                 all that a GPU can tell, in five minutes, with nothing installed; GPU_OUT=FOLDER GPU_ARGS="--only a,c"

PYTHON ?= python3
LOG    = esper_masks/data/sample.jsonl
RULES  = esper-2025-12
DEVICE = cpu
SUITES = $(if $(filter cuda,$(DEVICE)),scaling,scaling masks distributions dropin guards growth first-calls networks training learning)
GPU_OUT = runs/gpu
LOGDIR = runs/$(shell date +%Y-%m-%d-%H%M%S)

BIN   := .venv/bin
READY := .venv/ready

.PHONY: run networks replay test matrix lint docs site notebooks dist bench gpu clean

run: $(READY)
	@$(BIN)/python -m esper_masks train --rules "$(RULES)" --device $(DEVICE) --logdir "$(LOGDIR)" $(TRAIN_ARGS)

networks: $(READY)
	@$(BIN)/python -m esper_masks train --world networks --device $(DEVICE) --logdir "$(LOGDIR)" $(TRAIN_ARGS)

replay: $(READY)
	@$(BIN)/python -m esper_masks replay "$(LOG)" --rules "$(RULES)"

test: $(READY)
	@$(BIN)/python -m pytest --numprocesses auto --dist worksteal $(PYTEST_ARGS)

matrix:
	@$(PYTHON) tests/matrix.py $(MATRIX_ARGS)

lint: $(READY)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: $(READY)
	@$(BIN)/python docs/make_rules.py
	@$(BIN)/python -m docs.make_bench

# --quiet would keep warnings from --strict, too
site: $(READY)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "written to site/index.html"

notebooks: $(READY)
	@$(BIN)/python -m notebooks $(NOTEBOOKS)

dist:
	@set -e; scratch=$$(mktemp -d); trap 'rm -rf "$$scratch"' EXIT; rm -rf dist; \
	  install() { where=$$1; shift; $(PYTHON) -m venv "$$scratch/$$where"; \
	    "$$scratch/$$where/bin/python" -m pip install --quiet --disable-pip-version-check "$$@"; }; \
	  install build build; "$$scratch/build/bin/python" -m build --outdir dist .; \
	  for made in dist/*.whl dist/*.tar.gz; do install "$${made##*.}" -c constraints.txt "$$made"; \
	    (cd "$$scratch" && "$${made##*.}/bin/python" -I "$(CURDIR)/tests/smoke.py"); done

# with arguments a run is not what the docs show: its results go elsewhere, and no page is written
bench: $(READY)
	@set -e; if [ "$(DEVICE)" != cpu ] && [ -n "$(filter learning,$(SUITES))" ]; then \
	    echo "learning is measured on a CPU: leave out DEVICE=$(DEVICE), or learning"; exit 2; \
	  fi; folder=benchmarks/results/$$($(BIN)/python -c 'import esper_masks; print(esper_masks.__version__)'); \
	  if [ -n "$(BENCH_ARGS)" ]; then folder=runs/bench; \
	  elif [ -n "$$(git status --porcelain esper_masks benchmarks/learning.py 2>/dev/null)" ]; then \
	    echo "what is measured has changes that are in no commit: commit them first, or add BENCH_ARGS=--quick for a look"; \
	    exit 2; \
	  fi; mkdir -p $$folder; \
	  for suite in $(filter-out learning,$(SUITES)); do \
	    $(BIN)/python -m esper_masks bench $$suite --device $(DEVICE) $(BENCH_ARGS) -o $$folder/$$suite-$(DEVICE).json; \
	  done; \
	  if [ -n "$(filter learning,$(SUITES))" ]; then \
	    $(BIN)/python -m benchmarks.learning -o $$folder/learning-cpu.json \
	      $(if $(BENCH_ARGS),--steps 100000,--plot docs/learning-cpu.png); \
	  fi; \
	  if [ -n "$(BENCH_ARGS)" ]; then exit 0; fi; \
	  for suite in $(filter scaling growth,$(SUITES)); do \
	    $(BIN)/python -m esper_masks bench --from $$folder/$$suite-$(DEVICE).json --plot docs/$$suite-$(DEVICE).png; \
	  done; \
	  $(BIN)/python -m docs.make_bench

# with the environment if it is there, and else with the Python of a machine on which nothing can be installed
gpu: DEVICE = cuda
gpu:
	@$(if $(wildcard $(READY)),$(BIN)/python,$(PYTHON)) -m benchmarks.gpu -o "$(GPU_OUT)" --device $(DEVICE) $(GPU_ARGS)

# an environment whose Python has gone is made again
$(READY): pyproject.toml constraints.txt $(if $(shell $(BIN)/python -c 'print(1)' 2>/dev/null),,FORCE)
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else \
	  f"esper-masks needs Python 3.11 or newer, $(PYTHON) is {sys.version.split()[0]}: make PYTHON=python3.12 ...")'
	@echo "setting up .venv (once; torch is large, this can take some minutes)"
	@$(BIN)/python -c '' 2>/dev/null || rm -rf .venv
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(READY)

FORCE:

clean:
	rm -rf .venv .matrix dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis
