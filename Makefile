# Two commands: `make train` trains the small model and prints a sample, `make test` runs the tests.
# Both set up .venv from requirements.txt first; PYTHON chooses another interpreter (3.11 or newer).
# `make demo` writes text at once, by a C compiler alone; `make bundle` fills a folder for machines without network.
# `make sweep` trains each idea switched off in miniature, and reports it; SWEEP=ablation is all combinations.
# `make test-slow` runs the long tests, `make bench` times ours beside other implementations (3 GB of packages).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/lm.py:tiny
WORKDIR ?= runs/tiny
PROMPT ?= The American people
SWEEP ?= one_off
BUNDLE ?= bundle

PEERS := .venv-peers
SLURM := .slurm

# In a bundle the packages lie beside the repository, and nothing is asked of a network.
ifneq ($(wildcard ../wheels/jax-*.whl),)
export PIP_NO_INDEX := 1
export PIP_FIND_LINKS := $(abspath ../wheels)
endif

.PHONY: train demo sweep test test-slow test-slurm lint bench bundle clean

train: $(VENV)/installed
	$(BIN)/python -m experiments.train --config=$(CONFIG) --workdir=$(WORKDIR)
	$(BIN)/python -m experiments.generate --workdir=$(WORKDIR) --prompt="The American people" --max_tokens=600
	@echo
	@echo 'What to try next (README.md has more, docs/ has all of it):'
	@echo '  another prompt   $(BIN)/python -m experiments.generate --workdir=$(WORKDIR) --prompt="My fellow citizens"'
	@echo '  your own text    $(BIN)/python -m experiments.train --config=$(CONFIG) --workdir=runs/mine --config.data.path=my_texts/'
	@echo '  an idea off      $(BIN)/python -m experiments.train --config=$(CONFIG) --workdir=runs/mlp --config.model.ffn=mlp'

demo: build/mixkabrn
	@echo "$(PROMPT) ..."
	@build/mixkabrn mixkabrn_run/tiny.safetensors "$(PROMPT)"

build/mixkabrn: mixkabrn_run/main.c mixkabrn_run/runtime.c
	@mkdir -p build
	@$(CC) -O1 -std=c99 -ffp-contract=off -o $@ $< -lm

# So small and short that its figures say nothing: it shows what a sweep is.
sweep: $(VENV)/installed
	$(BIN)/python -m experiments.sweep --config=configs/lm.py:nano --sweep=$(SWEEP) --slots=2 --workdir=runs/$(SWEEP)-nano
	$(BIN)/python -m experiments.report --workdir=runs/$(SWEEP)-nano --out=runs/$(SWEEP)-nano/report

test: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not gpu"

# On Debian's Slurm, unpacked into a folder of this tree: nothing is installed, and no rights are needed.
test-slurm: $(VENV)/installed $(SLURM)/unpacked
	MIXKABRN_SLURM=$(CURDIR)/$(SLURM)/root $(BIN)/python -m pytest -m slurm

$(SLURM)/unpacked:
	mkdir -p $(SLURM)/packages/partial
	apt-get install --download-only --no-install-recommends -y -o Debug::NoLocking=1 \
	  -o Dir::Cache::Archives=$(CURDIR)/$(SLURM)/packages slurmctld slurmd slurm-client munge
	for package in $(SLURM)/packages/*.deb; do dpkg-deb -x $$package $(SLURM)/root || exit 1; done
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

bench: $(PEERS)/installed
	$(PEERS)/bin/python -W ignore -m benchmarks.run --peers

$(PEERS)/installed: benchmarks/requirements-peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $<
	touch $@

# For the Python and the processor of this machine; docs/offline.md says what to do on the other one.
bundle: $(VENV)/installed
	mkdir -p $(BUNDLE)
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --only-binary=:all: \
	  --dest $(BUNDLE)/wheels -r requirements.txt "setuptools>=77"
	if [ -d $(BUNDLE)/mixkabrn ]; then git -C $(BUNDLE)/mixkabrn pull --quiet --ff-only $(CURDIR) HEAD; \
	  else git clone --quiet --no-hardlinks . $(BUNDLE)/mixkabrn; fi
	cp docs/demo.html mixkabrn_run/tiny.safetensors $(BUNDLE)
	cp docs/offline.md $(BUNDLE)/README.md

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(SLURM) build .pytest_cache .ruff_cache .hypothesis
