#!/usr/bin/env bash
# Runs the benchmark and writes build/bench/result.json. `make bench` builds and calls it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"
mkdir -p "$root/build/bench"
if [ -e "$root/bench/run.py" ]; then
  exec "$venv/bin/python" "$root/bench/run.py" --build "$root/build/release" \
    --model "$("$root/scripts/fetch_model.sh" --print-path)" \
    --text-dir "$("$root/scripts/build_llama.sh" --print-source)/src" \
    --json "$root/build/bench/result.json" "$@"
fi
for program in "$root"/build/release/bench/*; do
  if [ -x "$program" ]; then "$program"; fi
done
