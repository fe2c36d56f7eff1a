#!/usr/bin/env bash
# prescore ppl: what it writes names its protocol; a dense method has the same tail either way; the end of a text.
# Usage: test_ppl.sh PROGRAM
set -uo pipefail
program=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"
model=$(bash "$root/scripts/fetch_model.sh" --print-path)
if [ ! -e "$model" ]; then
  echo "no model at $model: ppl is not tested"
  exit 0
fi

seq -s " " 1 200 >"$work/a.txt"
seq -s " " 300 500 >"$work/b.txt"
seq -s " " 900 999 >"$work/end.txt"
ppl() { "$program" ppl -m "$model" --ctx 256 --json "$work/r.json" --svg "$work/r.svg" "$@" >"$work/out" 2>"$work/err"; }
# number METHOD NAME: of a method's row of the JSON
number() { python3 -c 'import json, sys; print(next(r[sys.argv[3]] for r in json.load(open(sys.argv[1]))["rows"] if r["method"] == sys.argv[2]))' "$work/r.json" "$1" "$2"; }
# close A B: within a thousandth
close() { python3 -c 'import sys; a, b = map(float, sys.argv[1:]); sys.exit(abs(a / b - 1) > 1e-3)' "$1" "$2"; }

methods=(--methods dense,window --budget 64 --window 16 --sinks 4 --tile 16)
ppl -f "$work/a.txt" "${methods[@]}"
expect "it succeeds" '[ $? = 0 ]'
expect "the table, the JSON and the picture name the protocol" \
  'grep -q "(tail dense)" "$work/out" && grep -q "\"protocol\": \"tail dense\"" "$work/r.json" && grep -q "(tail dense)" "$work/r.svg"'
dense=$(number dense ppl) window=$(number window ppl)
ppl -f "$work/a.txt" "${methods[@]}" --tail strict
expect "so they do with a strict tail" \
  'grep -q "(tail strict)" "$work/out" && grep -q "\"protocol\": \"tail strict\"" "$work/r.json"'
expect "dense is dense either way" 'close "$dense" "$(number dense ppl)"'
expect "a window is not" '! close "$window" "$(number window ppl)"'
ppl -f "$work/a.txt" "${methods[@]}" --tail-tokens 32
expect "fewer tokens are scored" 'grep -q "\"scored_tokens\": 31" "$work/r.json" && grep -q "last 32 tokens" "$work/out"'

cat "$work/a.txt" "$work/end.txt" >"$work/a_end.txt"
cat "$work/b.txt" "$work/end.txt" >"$work/b_end.txt"
ppl -f "$work/a_end.txt" --methods stock --from-end
last=$(number stock ppl)
ppl -f "$work/b_end.txt" --methods stock --from-end
expect "what is before the end does not count" '[ "$last" = "$(number stock ppl)" ]'
ppl -f "$work/b_end.txt" --methods stock
expect "and the beginning is something else" '[ "$last" != "$(number stock ppl)" ]'

[ "$failures" = 0 ] && echo "ppl measures what it says"
exit $((failures > 0))
