# `make demo` and `make test` make .venv and use it; `make demo PYTHON=python` uses an environment of your own.
PYTHON = .venv/bin/python

.PHONY: demo test install

demo: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements-demo.txt
	PYTHON=$(PYTHON) sh recipes/demo.sh

test: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements-demo.txt -r requirements-search.txt
	$(PYTHON) -m pip install --quiet -r requirements-test.txt
	$(PYTHON) -m pytest

install: $(filter .venv/bin/python,$(PYTHON))

.venv/bin/python:
	python3 -m venv .venv
