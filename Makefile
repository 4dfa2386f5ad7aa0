# Every target sets up what it needs on a fresh machine: make, Python >= 3.11 and a C library are enough.
# PYTHON=… chooses the interpreter; the newest that works is taken otherwise.
WORKDIR ?= runs/quickstart
PYTHON ?=

.PHONY: quickstart test test-all check docs release-check clean

quickstart:  ## a real BERT to a 1-bit model, in minutes
	@sh launch/bootstrap.sh run "$(PYTHON)"
	.venv/bin/xtc compress --config=quickstart --workdir=$(WORKDIR)

test:  ## the fast tier of the test suite, in minutes
	@sh launch/bootstrap.sh test "$(PYTHON)"
	JAX_PLATFORMS=cpu .venv/bin/python -m pytest --numprocesses auto --dist worksteal -m "not slow" $(ARGS)

test-all:  ## the whole test suite
	@sh launch/bootstrap.sh test "$(PYTHON)"
	JAX_PLATFORMS=cpu .venv/bin/python -m pytest --numprocesses auto --dist worksteal $(ARGS)

check:  ## format, lint, types, layers
	@sh launch/bootstrap.sh test "$(PYTHON)"
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports

docs:  ## the documentation site, in build/docs; a warning is an error, and nothing is fetched
	@sh launch/bootstrap.sh docs "$(PYTHON)"
	JAX_PLATFORMS=cpu .venv/bin/python -m sphinx -W --keep-going -q -E -b html docs build/docs
	.venv/bin/python docs/_ext/check_links.py build/docs

release-check:  ## build sdist and wheel in dist/, check their metadata, try the wheel
	@sh launch/bootstrap.sh test "$(PYTHON)"
	PYTHON=.venv/bin/python sh launch/release_check.sh

clean:
	rm -rf .venv build dist *.egg-info
