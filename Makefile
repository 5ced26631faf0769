# `make run` and `make test` set up what they need in .venv, from python3 (3.11 to 3.13) alone.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= quickstart
REAL ?= build/real
LABELLED ?=
JOBS ?= 2
# A further extra of pyproject.toml beside the test tools: cuda or tpu, for JAX's plugin.
EXTRAS ?=
COMMA := ,
DEV := $(VENV)/.dev$(addprefix -,$(EXTRAS))
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c requirements.lock

.PHONY: run test test-slow test-parity test-tpu test-recipes test-t5x test-real lint bench bench-gpu bench-attention sweep-attention lock clean

run: $(VENV)/.run
	@$(BIN)/ja-llm quickstart --out $(OUT)

# Two workers; tests/conftest.py says what stays together.
test: $(DEV)
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile

# Minutes to an hour of two cores: twenty kills, four processes, a whole run in a bucket.
test-slow: $(DEV)
	@$(BIN)/python -m pytest -m slow

# The TPU kernels and the loss compiled ahead of time for TPUs that are not there: minutes; installs the extra tpu (libtpu) as well.
test-tpu: $(VENV)/.dev
	@$(PIP) -e '.[tpu]'
	@$(BIN)/python -m pytest -m tpu

# Every recipe: its step compiled for the TPU slices that it names, its small twin trained. An hour; installs the extra tpu as well.
test-recipes: $(VENV)/.dev
	@$(PIP) -e '.[tpu]'
	@$(BIN)/python -m pytest -m recipes

# Our engine and adapter against lm-evaluation-harness and its own backend: installs the extra eval-oracles beside the test tools.
test-parity: $(VENV)/.dev
	@$(PIP) -e '.[eval-oracles]'
	@$(BIN)/python -m pytest tests/evaluation/test_lm_eval.py

# The real t5x, unmodified, on our parts; docs/t5x.md says how it is installed into the same environment.
test-t5x: $(VENV)/.dev
	@$(BIN)/python -c 'import t5x, airio.core, jestimator' 2>/dev/null || { echo "make: t5x, airio or jestimator is not installed in $(VENV); docs/t5x.md says how"; exit 2; }
	@$(BIN)/python -m benchmarks.t5x
	@$(BIN)/python -m benchmarks.readme_tables
	@$(BIN)/python -m pytest tests/train/test_t5x.py tests/train/test_t5x_names.py

# Debian's documentation: the corpus job measured on it and on its damaged twin (LABELLED: a labelled WARC set besides), then the main job.
# Hours of two cores the first time, what is finished is kept in $(REAL).
test-real: $(DEV)
	@$(BIN)/python -m benchmarks.corpus_quality --workers $(JOBS) --out $(REAL) $(addprefix --labelled ,$(LABELLED))
	@$(BIN)/python -m benchmarks.education_classifier --documents $(REAL)/quality/debian_docs-swallow_v2
	@$(BIN)/python -m benchmarks.debian_docs --repeat --out $(REAL)
	@REAL=$(abspath $(REAL)) $(BIN)/python -m pytest -m real

lint: $(DEV)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: $(DEV)
	@$(BIN)/python -m benchmarks.step_speed
	@$(BIN)/python -m benchmarks.readme_tables

# Whole steps of 1B and of 8B's layers on one GPU, beside PyTorch's: minutes; in a fresh clone with EXTRAS=cuda.
bench-gpu: $(DEV)
	@$(BIN)/python -m benchmarks.step_speed_gpu

# Implementations x shapes on the device that is there. On a new kind of device `make sweep-attention` first: it checks the numbers,
# measures tile lengths, writes them into ja_llm/attention/block_sizes.json, and ends in the same table. In a fresh clone on a GPU
# `make sweep-attention EXTRAS=cuda`, on a TPU EXTRAS=tpu. A step that fails does not stop the others (the machine may be yours for an
# hour only); the end names it.
bench-attention: $(DEV)
	@$(BIN)/python -m benchmarks.attention

sweep-attention: $(DEV)
	@failed=; try() { "$$@" || failed="$$failed$${failed:+, }$$*"; }; \
	try env JAX_DISABLE_MOST_OPTIMIZATIONS=0 $(BIN)/python -m pytest -m gpu tests/attention/test_native.py; \
	try $(BIN)/python -m benchmarks.attention --quick --repeats 2; \
	try $(BIN)/python -m benchmarks.attention_sweep; \
	try $(BIN)/python -m benchmarks.attention; \
	test -z "$$failed" || { echo "make: these steps failed: $$failed" >&2; exit 1; }

# Resolve pyproject.toml with all its extras anew (nothing is installed) and write the versions that were found.
lock: $(BIN)/python
	@mkdir -p build && $(BIN)/python -m pip --disable-pip-version-check install --quiet --dry-run --ignore-installed --report build/lock.json '.[dev,tpu,cuda,gcp,wandb]'
	@{ head -n 1 requirements.lock; $(BIN)/python -c 'import json; found = [i["metadata"] for i in json.load(open("build/lock.json"))["install"]]; print(*sorted(m["name"].lower().replace("_", "-") + "==" + m["version"].split("+")[0] for m in found if m["name"] != "ja_llm"), sep="\n")'; } > build/requirements.lock
	@mv build/requirements.lock requirements.lock

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) is not installed; install Python 3.11, 3.12 or 3.13, or name one with make PYTHON=..."; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { echo "make: $$($(PYTHON) --version) can't run ja_llm; install Python 3.11, 3.12 or 3.13, or name one with make PYTHON=python3.11"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { echo "make: the virtual environment $(VENV) can't be made; on Debian: apt install python3-venv"; rm -rf $(VENV); exit 2; }

$(VENV)/.run: pyproject.toml requirements.lock | $(BIN)/python
	@echo "setting up $(VENV): JAX, TensorFlow, Beam and their kin, two to four minutes once"
	@$(PIP) -e '.[data,beam,eval]'
	@touch $@

$(DEV): pyproject.toml requirements.lock | $(BIN)/python
	@echo "setting up $(VENV) with the test tools, three to six minutes once"
	@$(PIP) -e '.[$(subst $() ,$(),dev $(addprefix $(COMMA),$(EXTRAS)))]'
	@touch $@ $(VENV)/.dev $(VENV)/.run

clean:
	rm -rf $(VENV) build
