#!/usr/bin/env bash
# Configures a preset if that has not happened yet, and builds it (ninja reconfigures by itself).
# Usage: scripts/build.sh CONFIGURE_PRESET [BUILD_PRESET]
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"
cd "$root"

launcher=()
if command -v ccache >/dev/null; then
  launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi
# llama.cpp's place changes when the machine or the pinned version does, and it may have come since:
# configure anew then.
llama=$("$root/scripts/build_llama.sh" --print-prefix)
# The Python package, for its tests, where the set-up made them an environment.
python=
if [ "$1" = release ] && [ -x "$venv/test/bin/python" ]; then python=$venv/test/bin/python; fi
if [ ! -e "build/$1/build.ninja" ] ||
  ! grep -qsxF "PRESCORE_PYTHON:FILEPATH=$python" "build/$1/CMakeCache.txt" ||
  ! grep -qsxF "PRESCORE_LLAMA_PREFIX:PATH=$llama" "build/$1/CMakeCache.txt" ||
  { [ -d "$llama" ] && grep -qs "^llama_DIR:PATH=.*NOTFOUND" "build/$1/CMakeCache.txt"; }; then
  "$cmake" --preset "$1" --fresh -DCMAKE_MAKE_PROGRAM="$ninja" -DPRESCORE_LLAMA_PREFIX:PATH="$llama" \
    -DPRESCORE_PYTHON:FILEPATH="$python" "${launcher[@]}"
fi
exec "$cmake" --build --preset "${2:-$1}" --parallel "$jobs"
