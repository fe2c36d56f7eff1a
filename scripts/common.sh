# Shared by the scripts of this folder: sourced, not run. Expects $root, the repository's folder.

cache=${PRESCORE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/prescore}
venv=${PRESCORE_VENV:-$root/.venv}
jobs=${PRESCORE_JOBS:-$(nproc)}

# The venv's pinned tools where they are, else the ones on PATH.
cmake=$venv/bin/cmake
ninja=$venv/bin/ninja
[ -x "$cmake" ] || cmake=$(command -v cmake || true)
[ -x "$ninja" ] || ninja=$(command -v ninja || true)

say() { printf '[prescore] %s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

# check_sha256 FILE HASH
check_sha256() {
  local got; got=$(sha256sum "$1" | cut -d' ' -f1)
  [ "$got" = "$2" ] || die "$1 has SHA-256 $got, want $2"
}
