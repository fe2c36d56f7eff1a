#!/usr/bin/env bash
# An experiment writes its files, goes on from its rows, and refuses rows of other settings.
# Usage: test_experiment.sh PROGRAM
set -uo pipefail
program=$1
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"

run() { "$program" experiment planted --quick --out "$work/r" "$@" >"$work/out" 2>"$work/err"; }

run
expect "the first run succeeds" '[ $? = 0 ]'
for kind in json md svg jsonl; do expect "planted.$kind is there" '[ -s "$work/r/planted.$kind" ]'; done
expect "the table is on stdout" 'cmp -s "$work/out" "$work/r/planted.md"'
expect "the window is in the table" 'grep -q "window" "$work/out"'
expect "the picture is whole" 'grep -q "</svg>" "$work/r/planted.svg" && ! grep -q nan "$work/r/planted.svg"'
expect "and so is the second" 'grep -q "</svg>" "$work/r/planted-error.svg"'
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
"$program" experiment nothing >"$work/out" 2>"$work/err"
expect "an unknown experiment is refused" '[ $? = 2 ]'

[ "$failures" = 0 ] && echo "experiments resume as they should"
exit $((failures > 0))
