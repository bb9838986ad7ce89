# `make run` and `make test` set everything up on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin
MINUTES ?= 60
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: run test test-fast lint lock train precompute bench

run: .venv/.run
	$(BIN)/python app.py

test: .venv/.dev chromium
	$(BIN)/python -m pytest -q -n 2 --dist loadscope --no-loadscope-reorder

# No browser, no page and no cluster: less than two minutes.
test-fast: .venv/.dev
	$(BIN)/python -m pytest -q -n 2 --dist loadscope -m "not browser and not cluster and not slow"

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_architecture.py
	$(BIN)/python tests/audit.py

# After a change of requirements*.txt; `make lock UPGRADE=--upgrade` takes the newest versions.
lock: .venv/.dev
	$(BIN)/python tests/lock.py $(UPGRADE)

# Each continues from its last checkpoint, if there is one; the order matters.
train: .venv/.run
	for name in emoji-autoencoder emoji-clip emoji-judge emoji-unet emoji-dit emoji-ddpm \
			emoji-flux-teacher emoji-flux emoji-flux-turbo; do \
		$(BIN)/python -m explorer train $$name --minutes $(MINUTES) --resume || exit 1; \
	done
	for name in emoji-unet emoji-dit emoji-ddpm emoji-flux emoji-flux-turbo; do \
		$(BIN)/python -m explorer.training.evaluate --model $$name || exit 1; \
	done

precompute: .venv/.run
	$(BIN)/python -m explorer precompute

bench: .venv/.dev
	for file in tests/bench/*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

.venv/.venv:
	$(PYTHON) -m venv .venv
	touch $@

# All but torch comes from the lock: see tests/lock.py. The second step installs torch, and what its build needs.
.venv/.run: requirements.lock requirements.txt .venv/.venv
	$(INSTALL) --require-hashes --no-deps -r requirements.lock
	$(INSTALL) -r requirements.txt
	touch $@

.venv/.dev: requirements-dev.lock requirements-dev.txt .venv/.run
	$(INSTALL) --require-hashes --no-deps -r requirements-dev.lock
	$(INSTALL) -r requirements-dev.txt
	touch $@

# The browser of the page's tests. Installed where that is allowed; else a message says how.
.PHONY: chromium
chromium:
	@command -v chromium >/dev/null || { \
		{ [ "$$(id -u)" = 0 ] && apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } || \
		{ echo "Chromium is missing, which the tests of the page need: apt-get install chromium" >&2; exit 1; }; \
	}
