#!/usr/bin/env bash
# Builds the pinned llama.cpp once and installs it below the user's cache folder.
# Usage: scripts/build_llama.sh [--print-prefix | --print-source]
#   --print-prefix   only print where the installed tree is (or would be)
#   --print-source   only print where the unpacked sources are (or would be)
#
# Environment: see scripts/setup.sh, which calls this.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"

# llama.cpp comes inside the source distribution of a PyPI package: pinned, hashed, one registry.
package=llama-cpp-python
version=0.3.36
sdist_name=llama_cpp_python-$version
sdist_sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e

source_dir=$cache/llama.cpp-$version
# Not $CC: the sanitizer builds set that to clang, llama.cpp stays one build for all.
cc=${PRESCORE_LLAMA_CC:-cc}
cxx=${PRESCORE_LLAMA_CXX:-c++}

# Tuned for this machine, which is what stock llama.cpp does by default (GGML_NATIVE). Given as plain
# flags, they also name the instruction sets for the key below.
tuning_flags() {
  [ "$(uname -m)" = x86_64 ] || return 0  # elsewhere GGML_NATIVE=ON does the same
  echo -march=native
}
flags=$(tuning_flags)

# The predefined macros name the compiler and every instruction set it will use: another machine or
# another compiler is another key, so nothing built for one CPU ever runs on another.
key=$({ cat "$root"/cmake/llama/*; $cc $flags -dM -E -x c /dev/null; } |
  sha256sum | cut -c1-12)
prefix=$cache/llama.cpp-$version-$key

case ${1:-} in
  --print-prefix) echo "$prefix"; exit ;;
  --print-source) echo "$source_dir"; exit ;;
esac

fetch_source() {
  [ -e "$source_dir/CMakeLists.txt" ] && return
  local work; work=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$work"' RETURN
  local sdist=${PRESCORE_LLAMA_SDIST:-}
  if [ -z "$sdist" ]; then
    say "downloading $package $version (llama.cpp's sources, 70 MB)"
    # --no-binary for this package alone: for all it would compile cmake from source.
    # --no-build-isolation: pip asks the build backend, which the venv has, for the metadata.
    "$venv/bin/pip" download --quiet --no-deps --no-binary $package --no-build-isolation \
      --dest "$work" "$package==$version"
    sdist=$work/$sdist_name.tar.gz
  fi
  check_sha256 "$sdist" $sdist_sha256
  say "unpacking llama.cpp"
  tar -xzf "$sdist" -C "$work" --strip-components=2 "$sdist_name/vendor/llama.cpp" \
    --exclude=.git --exclude=llama.cpp/tools/ui
  mv -T "$work/llama.cpp" "$source_dir"
}

build() {
  local build_dir=$cache/build-llama.cpp-$version-$key launcher=() native=()
  if command -v ccache >/dev/null; then
    launcher=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
    export CCACHE_NAMESPACE=prescore-llama-$key  # -march=native means something else elsewhere
  fi
  if [ -n "$flags" ]; then
    # The flags carry the instruction sets; ggml's own switches would only add to them.
    native=(-DGGML_NATIVE=OFF -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags")
    for isa in SSE42 AVX AVX2 BMI2 FMA F16C; do native+=(-DGGML_$isa=OFF); done
  else
    native=(-DGGML_NATIVE=ON)
  fi
  say "configuring llama.cpp"
  "$cmake" -S "$root/cmake/llama" -B "$build_dir" -G Ninja -DCMAKE_MAKE_PROGRAM="$ninja" \
    -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_INSTALL_PREFIX="$prefix.partial" -DLLAMA_CPP_DIR="$source_dir" \
    "${native[@]}" "${launcher[@]}" >"$build_dir.log" 2>&1 || {
    tail -n 40 "$build_dir.log" >&2
    die "configuring llama.cpp failed; the whole log is $build_dir.log"
  }
  say "building llama.cpp for this machine (once, about 4 minutes on 2 cores)"
  "$cmake" --build "$build_dir" --parallel "$jobs"
  rm -rf "$prefix.partial"
  "$cmake" --install "$build_dir" >>"$build_dir.log"
  # Renamed only when complete: an interrupted build is never taken for a finished one.
  mv -T "$prefix.partial" "$prefix"
  rm -rf "$build_dir" "$build_dir.log"
}

mkdir -p "$cache"
fetch_source
if [ ! -d "$prefix" ]; then
  exec 9>"$prefix.lock"  # two checkouts may share the cache
  flock 9
  [ -d "$prefix" ] || build
fi
say "llama.cpp: $prefix"
