# Every target sets up what it needs on a fresh machine: make, Python >= 3.11 and a C library are enough.
# PYTHON=… chooses the interpreter; the newest that works is taken otherwise.
WORKDIR ?= runs/quickstart
PYTHON ?=

.PHONY: quickstart test test-all check clean

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

clean:
	rm -rf .venv build dist *.egg-info
