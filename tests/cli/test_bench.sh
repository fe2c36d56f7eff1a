#!/usr/bin/env bash
# prescore bench attend times every method, length and budget, and writes what it prints.
# Usage: test_bench.sh PROGRAM
set -uo pipefail
program=$1
source "$(dirname "${BASH_SOURCE[0]}")/expect.sh"

"$program" bench attend --keys 600,2048 --budget 800,900 --methods dense,routed --heads 4 --repeats 1 \
  --json "$work/b.json" >"$work/out" 2>"$work/err"
expect "it succeeds" '[ $? = 0 ]'
expect "dense once a length, routed once a budget too" \
  '[ $(grep -c "^dense" "$work/out") = 2 ] && [ $(grep -c "^routed" "$work/out") = 4 ]'
expect "every row is in the file" '[ $(grep -c keys_seen "$work/b.json") = 6 ]'
expect "the file is JSON" 'python3 -m json.tool "$work/b.json" >/dev/null'
# A query of 2,048 sees 1,024.5 keys on average, of which no more than the budget are read.
expect "dense reads all keys" 'grep -q "\"keys\": 1024.5" "$work/b.json"'
if "$program" info | grep -q "none that this build can use"; then
  "$program" bench attend --device cuda --keys 64 >"$work/out" 2>"$work/err"
  expect "a GPU that is not there is one sentence" '[ $? = 2 ] && [ $(wc -l <"$work/err") = 1 ]'
fi

[ "$failures" = 0 ] && echo "bench attend times what it was asked to"
exit $((failures > 0))
