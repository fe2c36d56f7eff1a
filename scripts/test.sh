#!/usr/bin/env bash
# Runs the tests of a preset that is built. Usage: scripts/test.sh TEST_PRESET [ctest options]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"
cd "$root"
preset=$1
shift
PATH=$PATH:/usr/lib/llvm-14/bin  # llvm-symbolizer: names and lines in the sanitizers' reports
wrap=()
# ThreadSanitizer of clang 14 cannot place its shadow memory under newer kernels' full address
# randomisation.
if [ "$preset" = tsan ] && setarch "$(uname -m)" -R true 2>/dev/null; then
  wrap=(setarch "$(uname -m)" -R)
fi
exec "${wrap[@]}" "${cmake%cmake}ctest" --preset "$preset" --parallel "$jobs" "$@"
