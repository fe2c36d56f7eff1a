#!/usr/bin/env bash
# Builds, tests and benches the GPU backend on a machine with a GPU, and says at its end what it left out.
# An hour, most of it racecheck.
# Usage: scripts/gpu_check.sh [--binaries FOLDER]
#   --binaries FOLDER   take prescore_cuda_tests, libprescore.so and prescore from there instead of building
# PRESCORE_PYTHON: a Python whose PyTorch sees the GPU (default python3). Results: build/bench/cuda.json.
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"
cd "$root"
python=${PRESCORE_PYTHON:-python3}
skipped=() failed=()
step() {  # NAME COMMAND...
  local name=$1
  shift
  say "$name"
  "$@" || failed+=("$name")
}

nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.max.sm,memory.total --format=csv ||
  die "no GPU here: nvidia-smi fails"
if [ "${1:-}" = --binaries ]; then
  folder=${2:?a folder}
  tests=$folder/prescore_cuda_tests library=$folder/libprescore.so cli=$folder/prescore
  export LD_LIBRARY_PATH=$folder${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  skipped+=("the build: binaries were given")
else
  scripts/setup.sh && scripts/build.sh release || die "the build failed"
  "$cmake" --build build/release --target prescore_cuda_tests bench_c_api --parallel "$jobs" || die "the build failed"
  tests=build/release/tests/prescore_cuda_tests library=build/release/bench/libprescore.so cli=build/release/prescore
fi
step "the GPUs it finds" "$cli" info
step "bench attend" "$cli" bench attend --device cuda

log=$(mktemp)
trap 'rm -f "$log"' EXIT
run_tests() { "$tests" | tee "$log"; return "${PIPESTATUS[0]}"; }
step "tests" run_tests
while read -r name; do skipped+=("test $name"); done < <(sed -nE 's/^\[  SKIPPED \] (\S+)$/\1/p' "$log" | sort -u)
left_out='*NearTheOracle*:CudaHyper.Blocks*:CudaErrors.WhatTheGpuRefuses*'
race_left_out='*CudaContracts*'  # hours; the same kernels run in the others
if command -v compute-sanitizer >/dev/null; then
  # All but those whose oracle on the CPU takes most of the time, and the one that provokes errors of the runtime.
  for tool in memcheck racecheck initcheck synccheck; do
    filter=$left_out
    [ $tool = racecheck ] && filter+=":$race_left_out"
    step "compute-sanitizer $tool" compute-sanitizer --tool "$tool" --error-exitcode 1 "$tests" --gtest_filter="-$filter"
  done
  skipped+=("tests $left_out under compute-sanitizer, and $race_left_out under racecheck")
else
  skipped+=("compute-sanitizer: not installed")
fi
if "$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null; then
  mkdir -p build/bench
  PRESCORE_LIBRARY=$library step "bench" "$python" bench/attend_cuda.py --json build/bench/cuda.json
else
  skipped+=("bench: $python has no PyTorch that sees the GPU (PRESCORE_PYTHON names another)")
fi

if "$python" -c 'import pytest, prescore; assert prescore.gpus()' 2>/dev/null; then
  step "Python" "$python" -m pytest -q -m gpu tests/python
else
  skipped+=("Python: $python has no pytest, or no prescore built with CUDA")
fi
skipped+=("quality: bench/quality_cuda.py and bench/hf_cuda.py want a model and texts")

for line in "${skipped[@]}"; do say "skipped: $line"; done
for line in "${failed[@]}"; do say "FAILED: $line"; done
[ ${#failed[@]} -eq 0 ] && say "all that ran has passed"
