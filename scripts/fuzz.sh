#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_SECONDS (default 600), keeping what it finds in build/fuzz/corpus.
# `make fuzz` builds and calls it.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"
cd "$root/build/fuzz"
shopt -s nullglob
for program in fuzz_*; do
  [ -f "$program" ] && [ -x "$program" ] || continue
  corpus=("corpus/$program" "$root/fuzz/corpus/$program"/)
  [ -d "${corpus[1]}" ] || unset 'corpus[1]'
  say "$program for ${FUZZ_SECONDS:-600} s"
  "./$program" -max_total_time="${FUZZ_SECONDS:-600}" -rss_limit_mb=4096 -timeout=30 \
    -jobs="$jobs" -workers="$jobs" "${corpus[@]}"
done
