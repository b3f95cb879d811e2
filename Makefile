# Everything a fresh machine needs: Python 3.11, make and the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/warmfed
# ALL=1: the long tests too, and the share of branches that tests reach. SEED=N: in the random order of that number.
SHORT = $(if $(ALL),, and not long) and not proof
ORDER = $(if $(SEED),--randomly-seed=$(SEED),-p no:randomly)
MEASURED = --branch --source fedwarm --omit fedwarm/strategies.py,fedwarm/clients.py --json --out .coverage.json
COVER = $(if $(ALL), -m slipcover $(MEASURED))
COVERED = $(if $(ALL),$(BIN)/python -m slipcover --merge .coverage.json --out .coverage.json --skip-covered --fail-under 90)
CORES = -n auto --maxprocesses 8 --dist worksteal
# Only the files that have such tests: to read all of them takes each process as long as a test.
FEDERATIONS = -n auto --maxprocesses 4 --dist loadfile

.PHONY: run test docs test-gpu test-proofs test-docker test-lowest test-newest check clean
run: $(VENV)/.installed
	$(BIN)/fedwarm run warmfed --out $(OUT) --fresh

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/python$(COVER) -m pytest $(ORDER) $(CORES) -m "not processes and not alone$(SHORT)"
	$(COVERED)
	$(BIN)/python -m pytest -p no:randomly $(FEDERATIONS) -m "processes$(SHORT)" $$(grep -rl --include='*.py' mark.processes tests)

# The documentation as a site, in site/: pages of docs/, and the reference out of the code. A broken link fails it.
docs: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable ".[docs]"
	$(BIN)/mkdocs build --strict

# What happens to machines and sites: killed, paused, full, refused, twenty of them, upgraded, renewed. Minutes for each test.
test-proofs: $(VENV)/.installed
	$(BIN)/python -m pytest -p no:randomly -v -m proof tests/test_proofs.py tests/test_sites.py tests/test_site_states.py

# On a machine with a CUDA GPU: what only a GPU can show. Everything else is tested on the CPU, there as well.
test-gpu: $(VENV)/.installed
	FEDWARM_TEST_GPU=1 $(BIN)/python -m pytest -p no:randomly -v -m gpu

# On a machine with a Docker engine: builds the images (unless FEDWARM_IMAGE names one) and runs the federation of docker/.
test-docker: $(VENV)/.installed
	FEDWARM_TEST_DOCKER=1 $(BIN)/python -m pytest -p no:randomly -v tests/test_compose.py tests/test_systemd.py

# Some gigabytes and minutes each, so no part of `make test`: a fresh environment, imports, short runs of each kind, page, exports.
test-lowest test-newest: test-%: $(VENV)/.installed
	$(BIN)/python .ci/smoke.py .smoke/$* $(PYTHON) $*

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .smoke runs dist site
