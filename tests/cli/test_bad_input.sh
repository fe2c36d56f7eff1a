#!/usr/bin/env bash
# Bad input: one sentence on stderr that names the mistake, exit code 2, nothing on stdout, no file.
# Usage: test_bad_input.sh PROGRAM
set -uo pipefail
program=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
model=$(bash "$root/scripts/fetch_model.sh" --print-path)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# refuse WORDS ARGS...: PROGRAM ARGS must fail with a sentence that contains WORDS.
refuse() {
  local words=$1; shift
  "$program" "$@" >"$work/out" 2>"$work/err"
  local status=$?
  local lines; lines=$(wc -l <"$work/err")
  if [ $status != 2 ] || [ -s "$work/out" ] || [ "$lines" != 1 ] ||
     ! grep -q "^prescore: .*$words" "$work/err" || [ -e "$work/result.json" ]; then
    echo "FAILED: prescore $*"
    echo "  exit code $status, want 2; stderr, want one line 'prescore: ... $words ...':"
    cat "$work/err" "$work/out"
    failures=$((failures + 1))
  fi
}

printf 'no model' >"$work/text"
printf 'GGUF but no more' >"$work/broken.gguf"
ppl=(ppl --text "$work/text" --json "$work/result.json")

refuse "subcommand is required"
refuse "model is required" ppl --text "$work/text"
refuse "bogus" "${ppl[@]}" --model "$work/text" --bogus
refuse "cannot read $work/none: No such file" "${ppl[@]}" --model "$work/none"
refuse "$work is a folder" "${ppl[@]}" --model "$work"
refuse "is not a GGUF model" "${ppl[@]}" --model "$work/text"
refuse "cannot load $work/broken.gguf" "${ppl[@]}" --model "$work/broken.gguf"
refuse 'got "magic", want one of auto, dense' "${ppl[@]}" --model "$work/text" --methods dense,magic
refuse 'budget, got "0"' "${ppl[@]}" --model "$work/text" --budget 0
refuse 'budget, got "-7"' "${ppl[@]}" --model "$work/text" --budget -7
refuse 'budget, got "4294967296"' "${ppl[@]}" --model "$work/text" --budget 4294967296
refuse 'threads, got "0"' "${ppl[@]}" --model "$work/text" --threads 0
refuse "abc" "${ppl[@]}" --model "$work/text" --ctx abc
refuse 'ctx, got "1"' "${ppl[@]}" --model "$work/text" --ctx 1
refuse "tile" "${ppl[@]}" --model "$work/text" --tile 17
refuse "standins" "${ppl[@]}" --model "$work/text" --standins some
refuse "score" "${ppl[@]}" --model "$work/text" --score all
refuse 'tail, got "magic", want one of dense, strict' "${ppl[@]}" --model "$work/text" --tail magic
refuse "half has no tail" "${ppl[@]}" --model "$work/text" --score half --tail strict
refuse "want one of ridge, exact, sketched" "${ppl[@]}" --model "$work/text" --leverage approximate
refuse "want one of features, distance" "${ppl[@]}" --model "$work/text" --kernel cubic
refuse "degree, got 3" "${ppl[@]}" --model "$work/text" --degree 3
refuse "features, got 513" "${ppl[@]}" --model "$work/text" --features 513
refuse "iterations, got -1" "${ppl[@]}" --model "$work/text" --iterations -1
refuse "sketch rows, got -1" "${ppl[@]}" --model "$work/text" --sketch-rows -1
refuse "sigma, got" "${ppl[@]}" --model "$work/text" --sigma nan
refuse "ridge, got" "${ppl[@]}" --model "$work/text" --ridge -1
refuse "a share above 0" "${ppl[@]}" --model "$work/text" --eps 0
refuse "there is no folder" ppl --text "$work/text" --model "$work/broken.gguf" --json "$work/a/b.json"
refuse "cannot read" run --model "$work/broken.gguf" --prompt-file "$work/none"
refuse 'device, got "abacus"' bench attend --device abacus
refuse "a multiple of --kv-heads" bench attend --heads 7 --kv-heads 2
refuse 'got "magic", want one of auto, dense' bench attend --keys 64 --methods dense,magic
refuse "there is no folder" bench attend --keys 64 --json "$work/a/b.json"
PRESCORE_ISA=abacus refuse "PRESCORE_ISA" info
if [ -e "$model" ]; then
  refuse "tokens, want at least 8192" "${ppl[@]}" --model "$model"
  : >"$work/empty"
  refuse "is empty" run --model "$model" --prompt-file "$work/empty"
else
  echo "no model at $model: texts that are too short are not tested"
fi

[ "$failures" = 0 ] && echo "all refused as they should be"
exit $((failures > 0))
