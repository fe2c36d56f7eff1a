#!/usr/bin/env bash
# The main job, on what the set-up has put on this machine: perplexity and time of every method on
# llama.cpp's own source code, then generation after a long prompt. `make demo` builds and calls it.
#
# Environment: CTX (context, default 8192), THREADS (default: the command's own choice),
# PRESCORE_BUILD (build folder, default build/release) and those of scripts/setup.sh.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"

prescore=${PRESCORE_BUILD:-$root/build/release}/prescore
model=$("$root/scripts/fetch_model.sh" --print-path)
sources=$("$root/scripts/build_llama.sh" --print-source)/src
out=$root/build/demo
threads=(${THREADS:+--threads "$THREADS"})

mkdir -p "$out"
# In one fixed order, so that every machine reads the same text.
(export LC_ALL=C; cat "$sources"/*.cpp) >"$out/text.txt"
# 18,000 bytes of one file are about 7,000 tokens: as long as the model's context allows.
head -c 18000 "$sources/llama-kv-cache.cpp" >"$out/prompt.txt"

say "reading ${CTX:-8192} tokens of C++ with each method"
"$prescore" ppl --model "$model" --text "$out/text.txt" --ctx "${CTX:-8192}" "${threads[@]}" \
  --methods stock,dense,window,routed --json "$out/result.json" --svg "$out/result.svg"

say "generating after a long prompt"
"$prescore" run --model "$model" --prompt-file "$out/prompt.txt" -n 64 --method routed \
  "${threads[@]}"
say "results: build/demo/result.json, build/demo/result.svg"
