# `make demo` and `make test` make .venv and use it; `make demo PYTHON=python` uses an environment of your own.
PYTHON = .venv/bin/python

.PHONY: demo test test_peers bench install

demo: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements-demo.txt
	PYTHON=$(PYTHON) sh recipes/demo.sh

test: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements-demo.txt -r requirements-search.txt
	$(PYTHON) -m pip install --quiet -r requirements-speed.txt -r requirements-test.txt
	$(PYTHON) -m pytest

# In an environment of its own: Open Metric Learning wants an older numpy.
test_peers:
	test -x .venv-peers/bin/python || python3 -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r requirements.txt -r requirements-peers.txt -r requirements-test.txt
	.venv-peers/bin/python -m pytest tests/test_peers.py tests/test_postprocess.py

# All lanes of benchmarks/ in 20 minutes on 2 idle cores; longer runs of a lane: --help of its file.
bench: install
	$(PYTHON) benchmarks/search_speed.py --rounds=3 --widths=512 --curve=10000,30000
	$(PYTHON) benchmarks/images.py
	$(PYTHON) benchmarks/step.py
	$(PYTHON) benchmarks/head.py --rounds=3
	$(PYTHON) benchmarks/pairs.py
	$(PYTHON) benchmarks/inference.py
	$(PYTHON) benchmarks/against_peers.py --seconds=30
	$(PYTHON) benchmarks/ranks.py
	$(PYTHON) benchmarks/collect.py

install: $(filter .venv/bin/python,$(PYTHON))

.venv/bin/python:
	python3 -m venv .venv
