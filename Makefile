# `make demo` and `make test` are all a newcomer needs: each builds .venv first.
SHELL := /bin/sh
# A Python that sdxs runs on; on a Mac, one for Apple silicon under macOS 14 or later.
FITS := import sys, venv, platform; \
	mac = sys.platform == "darwin"; \
	fits = (3, 11) <= sys.version_info[:2] <= (3, 13); \
	fits = fits and not (mac and platform.machine() != "arm64"); \
	fits = fits and not (mac and int(platform.mac_ver()[0].split(".")[0]) < 14); \
	sys.exit(not fits)
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c '$(FITS)' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
DEMO_PROMPTS := --prompt "a pencil sketch" --prompt "neon cyberpunk city" --prompt "dark fantasy" \
	--prompt "impressionist painting" --prompt "ukiyo-e woodblock print" --prompt "pop art"

.PHONY: demo live test test-slow test-all test-faults test-macos-shape parity bench bench-gpu mac-check lint clean

demo: .venv/run.stamp
	mkdir -p demo
	$(BIN)/sdxs live --backend mlx --model demo --source docs/demo/clip.mp4 --headless --side-by-side \
		--out demo/demo.mp4 --contact-sheet demo/contact_sheet.png $(DEMO_PROMPTS)

live: .venv/run.stamp
	$(BIN)/sdxs live --backend mlx

# Two workers, each with one thread of BLAS: more would wait for each other on two cores.
ONE_THREAD := OPENBLAS_NUM_THREADS=1 $(BIN)/python
TWO_WORKERS := -m pytest -n 2 --dist worksteal
PYTEST := $(ONE_THREAD) $(TWO_WORKERS)
FAST := not slow and not thorough

test: .venv/test.stamp
	$(PYTEST) -m "$(FAST)"

test-slow: .venv/test.stamp
	$(PYTEST) -m "slow and not thorough"

test-all: .venv/test.stamp
	$(PYTEST)

# A share of one minute of the faults of docs/faults.md.
test-faults: .venv/run.stamp
	$(ONE_THREAD) -m sdxs.experiments faults --share 60

# Linux in the shape of macOS. The first line leaves out the files that only compute, which ask a system
# nothing; those that ask what other files ask, too; and those of the second line, where MLX goes its ways
# on a GPU.
COMPUTING := aa at_once averaging bench_counts bench_page bench_pictures bench_report bench_runner \
	bench_statistics bench_terms bench_unified controlnet conv_gradient conv_products coreai_backend \
	coreai_commands coreai_faults coreai_parity coreai_private coreml_control coreml_faults \
	coreml_forms coreml_limits coreml_parity coreml_placement coreml_program coreml_variants distill \
	docs energy evaluate experiments faults film_files film_roads foreign_bytes interpreter layouts \
	like_terms lora lora_parity mac_check_answers mac_check_conv mac_check_ways midi operations packaging \
	pad page_browser photographs reach shapes size sketch sound start styles submission teachers \
	third_backend timeline torch_peer torch_slots
ON_A_GPU := api backend camera control_live conv doctor fold kernels lanes levers lora_live ops \
	parity steps still temporal
SHAPE := $(ONE_THREAD) tests/macos_shape
ASKED_ALREADY := film_writing live mac_check_coreai no_picture records
ELSEWHERE := $(patsubst %,--ignore=tests/test_%.py,$(COMPUTING) $(ASKED_ALREADY) $(ON_A_GPU))

test-macos-shape: .venv/test.stamp
	$(SHAPE) $(TWO_WORKERS) -m "$(FAST)" $(ELSEWHERE)
	$(SHAPE) --gpu $(TWO_WORKERS) -m "$(FAST)" $(ON_A_GPU:%=tests/test_%.py)

parity: .venv/parity.stamp
	$(BIN)/python -m sdxs.experiments diffusers --json results/parity.json

bench: .venv/parity.stamp
	mkdir -p results
	$(BIN)/sdxs bench --backend mlx --backend torch --contention --json results/bench.json --html results/bench.html
	$(BIN)/python -m sdxs.experiments loop --json results/loop.json
	$(BIN)/python -m sdxs.experiments coreml-build --json results/coreml-build.json

# MLX and PyTorch on a CUDA GPU, side by side on equal terms. All stay loaded, in about 100 GB of its memory by
# an estimate; a smaller GPU takes a shorter list: make bench-gpu GPU_MLX=lanes=1:depth=2 GPU_TORCH=depth=2
MODEL := sdxs-512-0.9
MODE := compile+graph
GPU_MLX := lanes=1:depth=1 lanes=1:depth=2 lanes=4:depth=4 lanes=2:batch=4:depth=12 \
	lanes=2:batch=8:depth=24 lanes=2:batch=16:depth=48
GPU_TORCH := depth=1 depth=2 depth=4 batch=4:depth=12 batch=8:depth=24 batch=16:depth=48

bench-gpu: .venv/parity.stamp
	mkdir -p results
	$(BIN)/sdxs bench --model $(MODEL) --dtype float16 --quick --rounds 6 --keep \
		$(GPU_MLX:%=--backend mlx:%) $(GPU_TORCH:%=--backend torch:mode=$(MODE):%) \
		--json results/bench-gpu.json --html results/bench-gpu.html

mac-check: .venv/test.stamp .venv/pyobjc.stamp .venv/screen.stamp
	$(BIN)/sdxs mac-check

lint: .venv/lint.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .venv/types && ln -sfn ../.. .venv/types/sdxs
	$(BIN)/mypy

clean:
	rm -rf .venv demo results build *.egg-info

.venv/run.stamp: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 to 3.13 with venv found; install one, or run make PYTHON=/path/to/python3.12"; \
		test "$$(uname)" != Darwin || echo "on a Mac it takes Apple silicon, macOS 14 or later, and a Python of its own kind (an Intel one runs under Rosetta): brew install python@3.13"; exit 1; }
	@"$(PYTHON)" -c '$(FITS)' || { echo "error: $(PYTHON) is not what sdxs runs on: Python 3.11 to 3.13 with venv and, on a Mac, Apple silicon and macOS 14 or later"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || \
		{ rm -rf .venv; echo "error: $(PYTHON) cannot make a virtual environment; on Debian: apt install python3-venv"; exit 1; }
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[web]"
	@touch $@

# Apple's Core AI where its wheel fits: pip has no marker for a version of glibc or macOS.
.venv/test.stamp .venv/parity.stamp: .venv/coreai.stamp

.venv/coreai.stamp: .venv/run.stamp
	@why="$$($(BIN)/python -c 'from sdxs.coreai_backend.prepare import obstacle_here; print(obstacle_here())')"; \
		test -n "$$why" || $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[coreai]" || \
			why="coreai-core cannot be installed"; \
		test -z "$$why" || echo "make goes on without Core AI, and skips its tests: $$why"
	@touch $@

.venv/%.stamp: .venv/run.stamp
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[$*]"
	@touch $@
