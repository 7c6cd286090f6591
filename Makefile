# Everything on a bare machine: `make train`, `make overnight`, `make test`, `make lab`. Needs Python 3.11+, make, git.

PYTHON ?= python3
EPOCHS ?= 6
MINUTES ?= 60
OF ?=
BIN := .venv/bin
READY := .venv/.ready
DATA := data/training_pairs
UNSEEN := data/validation_pairs
RUN := models/tree_lstm
ENGINE :=

.PHONY: train overnight night test lab preflight bench gallery speed own-trees scale torture soak fuzz gpu

# Without data/training_pairs a sample is made first; data that is there is left alone. Unseen pairs
# come from data/validation_pairs where it is there, else from a split.
train: $(READY)
	test -e $(DATA) || { $(BIN)/python -m treelstm sample --data-dir $(DATA) && \
		$(BIN)/python -m treelstm sample --data-dir $(UNSEEN) --seed 1 --unlike $(DATA); }
	mkdir -p $(RUN)
	$(BIN)/papermill notebooks/02_train.ipynb $(RUN)/02_train.ipynb --no-progress-bar --log-output $(ENGINE) \
		$$(test ! -e $(UNSEEN) || echo -p validation_dir $(UNSEEN)) -p epochs $(EPOCHS)

# The same, supervised: signals commit and stop, a kernel that dies is started again. For a night:
# tmux new-session -d -s night "make overnight EPOCHS=300"; docs/training-guide.md says more.
overnight: ENGINE := --engine treelstm
overnight: train

# Many runs, see docs/training-guide.md: make night PLAN=night.toml; the same command goes on.
night: $(READY)
	$(BIN)/python -m treelstm sweep --plan $(PLAN)

# With this variable pytest ends when make is killed. Without it pytest outlives its parent (nohup pytest).
test: export TREELSTM_TESTS_FOLLOW_PARENT := 1
test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest --numprocesses 3

# Speed of compiling and training, also beside busy processes; cost of commits and of resuming.
bench: $(READY)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/neighbours.py
	$(BIN)/python benchmarks/resume.py
	$(BIN)/python benchmarks/preflight.py
	$(BIN)/python benchmarks/pages.py

# Pictures of every page, to be looked at, in .screenshots/: light and dark, wide and narrow, by day and as
# HTML, on the sample and the real corpus. `make gallery OF="real 04"` is one page.
gallery: $(READY)
	$(BIN)/python benchmarks/gallery.py $(OF)

# The kernel beside other implementations and its floors (docs/speed.md, .png); bfloat16; growth.
speed: $(READY)
	$(BIN)/python benchmarks/contestants.py
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/growth.py

# On a machine with a GPU (docs/gpu.md): tests on it, the kernel beside others, the loop beside the CPU's.
gpu: export TREELSTM_TESTS_ON := cuda
gpu: $(READY)
	$(BIN)/pytest tests/test_gpu.py tests/model tests/checks tests/run/test_training.py tests/run/test_state.py \
		tests/test_evaluation.py tests/test_exports.py tests/test_tuning.py tests/test_notebooks.py
	$(BIN)/python benchmarks/contestants.py --device cuda
	$(BIN)/python benchmarks/gpu.py

# Two corpora from files to a verdict (docs/bring-your-own.md), about half an hour; pace of reading code.
own-trees: $(READY)
	$(BIN)/python benchmarks/own_trees.py functions 0 1
	$(BIN)/python benchmarks/own_trees.py treebank
	$(BIN)/python benchmarks/own_trees.py pace

# Several processes, corpora past memory (docs/scaling.md, .png): about an hour. `make scale OF=bits` is
# one section.
scale: $(READY)
	$(BIN)/python benchmarks/scale.py $(OF)

# 2,000 mutations each of a small corpus (preflight never crashes, what it passes can be trained on), of
# compiled corpora and of checkpoints (loaded as written, or refused by name); 500 of each format of trees.
fuzz: $(READY)
	$(BIN)/python benchmarks/fuzz_corpora.py 2000
	$(BIN)/python benchmarks/fuzz_checkpoints.py 2000
	$(BIN)/python benchmarks/fuzz_readers.py 500
	TREELSTM_FUZZ=2000 $(BIN)/pytest tests/checks/test_groups.py -k never_crashes -p no:cacheprovider

# Kills and disk faults by the hundred, and tests too long for `make test`: about 50 minutes; strace
# makes it thorough.
torture: $(READY)
	$(BIN)/python benchmarks/torture.py 200
	$(BIN)/python benchmarks/torture.py 60 --processes 2
	$(BIN)/python benchmarks/sweeps.py 16 4
	$(BIN)/pytest -m long --numprocesses 3

# An hour through the engine, with a kill of kernel, engine or both every 20 to 60 s, beside its
# undisturbed twin: about 70 minutes on two cores. make soak MINUTES=6 is a trial.
soak: $(READY)
	$(BIN)/python benchmarks/soak.py $(MINUTES)

preflight: $(READY)
	$(BIN)/python -m treelstm preflight $$(test ! -e $(UNSEEN) || echo --validation-dir $(UNSEEN))

lab: $(READY)
	$(BIN)/jupyter lab notebooks

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
