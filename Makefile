# prescore: `make demo` on a fresh machine does everything; `make help` lists the rest.
# Set-up, options and environment variables: scripts/setup.sh. Build presets: CMakePresets.json.
.DEFAULT_GOAL := help
.PHONY: help setup dev demo build test bench fuzz asan ubsan tsan format tidy clean

help:  ## this list
	@awk -F ':.*## *' '/^[a-z ]+:.*##/ {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## system packages, build tools, llama.cpp, the default model
	@bash scripts/setup.sh

dev:  ## the same and clang 14
	@bash scripts/setup.sh dev

build: setup  ## the command build/release/prescore and the loadable backend
	@bash scripts/build.sh release

demo: build  ## perplexity and speed on a real model, then generation
	@bash scripts/demo.sh

test:  ## build and run the whole test suite
	@bash scripts/setup.sh test
	@bash scripts/build.sh release release-with-tests
	@bash scripts/test.sh release

bench:  ## the ratios of docs/performance.md
	@bash scripts/setup.sh bench
	@bash scripts/build.sh release
	@bash scripts/build.sh release bench
	@bash scripts/bench.sh

asan ubsan tsan: dev  ## the tests under a sanitizer
	@bash scripts/build.sh $@
	@bash scripts/test.sh $@

fuzz: dev  ## fuzz for FUZZ_SECONDS=600 a target
	@bash scripts/build.sh fuzz
	@bash scripts/fuzz.sh

format: dev  ## clang-format everything in place
	@git ls-files -co --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format-14 -i

tidy: dev  ## clang-tidy on the release build
	@bash scripts/build.sh release release-with-tests
	@run-clang-tidy-14 -quiet -p build/release '^$(CURDIR)/(src|hosts|cli)/'

clean:  ## remove build/; the cache folder and .venv stay
	rm -rf build
