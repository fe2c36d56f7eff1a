#!/usr/bin/env bash
# An experiment writes its files, goes on from its rows, refuses rows of other settings, and does not take
# rows of another text or model for its own.
# Usage: test_experiment.sh PROGRAM
set -uo pipefail
program=$1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"

run() { "$program" experiment planted --quick --out "$work/r" "$@" >"$work/out" 2>"$work/err"; }

run
expect "the first run succeeds" '[ $? = 0 ]'
for kind in json md svg jsonl; do expect "planted.$kind is there" '[ -s "$work/r/planted.$kind" ]'; done
expect "the table is on stdout" 'cmp -s "$work/out" "$work/r/planted.md"'
expect "the window is in the table" 'grep -q "window" "$work/out"'
expect "the picture is whole" 'grep -q "</svg>" "$work/r/planted.svg" && ! grep -q nan "$work/r/planted.svg"'
expect "and so is the second" 'grep -q "</svg>" "$work/r/planted-error.svg"'
expect "stand-ins are counted" 'grep "routed " "$work/out" | grep -q "([0-9]* + [0-9]*)"'
expect "and left out where they should be" '! grep "no stand-ins" "$work/out" | grep -q "+"'
expect "rows were computed" 'grep -q "the last in" "$work/err"'
cp "$work/out" "$work/first"

rows=$(wc -l <"$work/r/planted.jsonl")
head -c -30 "$work/r/planted.jsonl" >"$work/torn" && cp "$work/torn" "$work/r/planted.jsonl"
run
expect "a second run succeeds" '[ $? = 0 ]'
expect "only the torn row is computed again" '[ $(grep -c "the last in" "$work/err") = 1 ]'
expect "with the same result" 'cmp -s "$work/out" "$work/first"'
expect "and the same number of rows" '[ $(wc -l <"$work/r/planted.jsonl") = "$rows" ]'

run --draws 9
expect "other settings are refused" '[ $? = 2 ] && grep -q "other settings" "$work/err" && [ ! -s "$work/out" ]'
"$program" experiment lm --out "$work/r" >"$work/out" 2>"$work/err"
expect "lm without a model is refused" '[ $? = 2 ] && grep -q "model is required" "$work/err"'

lm() { "$program" experiment lm --ctx 128 --method dense=dense --out "$work/lm" "$@" >"$work/out" 2>"$work/err"; }
model=$(bash "$root/scripts/fetch_model.sh" --print-path)
if [ -e "$model" ]; then
  seq -s " " 1 200 >"$work/a.txt"
  seq -s " " 300 500 >"$work/b.txt"
  lm -m "$model" --text novel="$work/a.txt"
  expect "lm succeeds" '[ $? = 0 ]'
  expect "its table and its picture name the protocol" \
    'grep -q "last quarter (tail dense)" "$work/out" && grep -q "(tail dense)" "$work/lm/lm.svg"'
  cp "$work/out" "$work/first"
  lm -m "$model" --text novel="$work/b.txt"
  expect "another text of the same name is measured" '[ $? = 0 ] && grep -q "the last in" "$work/err"'
  expect "with numbers of its own" '! cmp -s "$work/out" "$work/first"'
  cat "$work/a.txt" "$work/b.txt" >"$work/longer.txt"
  lm -m "$model" --text novel="$work/longer.txt"
  expect "the same tokens are the same rows" '[ $? = 0 ] && ! grep -q "the last in" "$work/err"'
  expect "with the same numbers" 'cmp -s "$work/out" "$work/first"'
  lm -m "$model" --text novel="$work/a.txt" --tail strict
  expect "another protocol is refused" '[ $? = 2 ] && grep -q "(protocol)" "$work/err"'
  for tail in dense strict; do
    "$program" experiment retrieval --quick -m "$model" --ctx 512 --budget 128 --method window=window --tail $tail \
      --out "$work/$tail" >"$work/$tail.txt" 2>"$work/err"
    expect "retrieval with a $tail tail succeeds and says so" '[ $? = 0 ] && grep -q "(tail $tail)" "$work/$tail.txt"'
  done
  expect "the tail decides what is answered" \
    '[ "$(grep "^| window" "$work/dense.txt")" != "$(grep "^| window" "$work/strict.txt")" ]'
  { cat "$model"; echo; } >"$work/$(basename "$model")"
  lm -m "$work/$(basename "$model")" --text novel="$work/a.txt"
  expect "another model of the same name is refused" '[ $? = 2 ] && grep -q "(model_bytes)" "$work/err"'

  seq -s " " 1 900 >"$work/long.txt"
  coverage() {
    "$program" experiment coverage --quick -m "$model" -f "$work/long.txt" --ctx 1024 --queries 4 --budget 256 \
      --layer 0,29 --out "$work/c" >"$work/out" 2>"$work/err"
  }
  coverage
  expect "coverage succeeds" '[ $? = 0 ]'
  expect "with a window of as many keys as the best score" \
    '[ $(grep -c -E "^\| (window|top-k oracle) .*\| +256 \|" "$work/out") = 2 ]'
  expect "that holds less than all" '! grep -E "^\| window " "$work/out" | head -1 | grep -q "256 | 1.000"'
  expect "and a whole picture" 'grep -q "</svg>" "$work/c/coverage.svg" && ! grep -q nan "$work/c/coverage.svg"'
  coverage
  expect "its rows are kept" '[ $? = 0 ] && ! grep -q "the last in" "$work/err"'
  heads() {
    "$program" experiment heads --quick -m "$model" -f "$work/long.txt" --head 0.0,7.7 --out "$work/h" "$@" \
      >"$work/out" 2>"$work/err"
  }
  heads
  expect "heads succeeds" '[ $? = 0 ]'
  expect "with both heads, alone and left out" '[ $(grep -c -E "^\| (0.0|7.7) .*\(.*\(.*\(.*\(" "$work/out") = 2 ]'
  expect "and all predictors" '[ $(grep -c -E "^\| (duplicate|induction|missing|output).* of 1 \|$" "$work/out") = 6 ]'
  expect "its picture is whole" 'grep -q "</svg>" "$work/h/heads.svg" && ! grep -q nan "$work/h/heads.svg"'
  cp "$work/out" "$work/first"
  heads
  expect "its rows are kept too" '[ $? = 0 ] && ! grep -q "the last in" "$work/err" && cmp -s "$work/out" "$work/first"'
  heads --method dense
  expect "a method without budgets by head is refused" '[ $? = 2 ] && grep -q "window, topk, routed" "$work/err"'
  heads --head 30.0
  expect "and a layer that is not there" '[ $? = 2 ] && grep -q "head, got" "$work/err"'
  "$program" experiment lm --quick -m "$model" -f text="$work/long.txt" --ctx 512 --budget 128 --out "$work/q" \
    >"$work/out" 2>"$work/err"
  expect "lm --quick succeeds" '[ $? = 0 ]'
  expect "each row has a window of as many keys" '[ $(grep -c "^| text" "$work/out") -ge 7 ] && ! grep -q "| - *|" "$work/out"'
else
  echo "no model at $model: lm, coverage and heads are not tested"
fi
"$program" experiment nothing >"$work/out" 2>"$work/err"
expect "an unknown experiment is refused" '[ $? = 2 ]'

[ "$failures" = 0 ] && echo "experiments resume as they should"
exit $((failures > 0))
