#!/usr/bin/env bash
# Runs the benchmark and writes build/bench/result.json. `make bench` builds and calls it.
# Options go to bench/run.py: --quick, --skip-torch, --skip-llama.
# Usage: scripts/bench.sh [options]
#        scripts/bench.sh crossover [options]    dense against routed by number of keys, which
#                                                `auto` goes by; writes build/bench/crossover.json
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"
build=${PRESCORE_BUILD:-$root/build/release}
mkdir -p "$root/build/bench"
if [ "${1:-}" = crossover ]; then
  shift
  exec "$build/bench/crossover" --json "$root/build/bench/crossover.json" "$@"
fi
exec "$venv/bin/python" "$root/bench/run.py" --build "$build" \
  --model "$("$root/scripts/fetch_model.sh" --print-path)" \
  --text-dir "$("$root/scripts/build_llama.sh" --print-source)/src" \
  --torch-python "$venv/bench/bin/python" --json "$root/build/bench/result.json" "$@"
