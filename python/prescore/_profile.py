"""Head profiles (docs/profiles.md): the file, where it is found, which model it is of.

The same files, fingerprints, folders and rule as hosts/common/profile*.cpp and fingerprint.cpp.
"""
from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field, replace
from hashlib import sha256
from itertools import count
from pathlib import Path
from typing import Any, Iterable, Sequence

import numpy as np

from ._core import Error

SCHEMA = 1
LETTERS = {".": None, "d": "dense", "w": "window", "m": "many"}
MOST = 2**31
_number = count()


@dataclass(frozen=True)
class Identity:
    """What tells one model from another. Quantisations of a model share a fingerprint."""

    name: str
    architecture: str
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    fingerprint: str  #: 16 hexadecimal digits


@dataclass(frozen=True)
class Profile:
    """What every query head of a model reads, in prompts and in decoding."""

    model: Identity
    prompt: tuple[str, ...]  #: a string a layer, a letter a query head: . d w m
    decode: tuple[str, ...]
    by: str = ""
    how: str = ""
    date: str = ""
    many: int = 8192
    window: int = 1024
    source: str = field(default="", compare=False)  #: where it was read from

    def heads(self, layer: int, decoding: bool) -> list | None:
        """`heads` of prescore.attention; None: all as the call says."""
        rows = self.decode if decoding else self.prompt
        letters = rows[layer] if 0 <= layer < len(rows) else ""
        if not letters.strip("."):
            return None
        entries = {".": None, "d": "dense", "w": ("window", self.window), "m": ("routed", self.many)}
        return [entries[letter] for letter in letters]

    def __str__(self) -> str:
        text = _kinds(self.prompt, self.model)
        if self.decode != self.prompt:
            text += "; decoding: " + _kinds(self.decode, self.model)
        return text + (f", from {self.source}" if self.source else "")


def _kinds(rows: Sequence[str], model: Identity) -> str:
    total = f"of {model.layers * model.heads} heads"
    parts = [(sum(row.count(letter) for row in rows), word)
             for letter, word in (("d", "dense"), ("m", "with many keys"), ("w", "with a window"))]
    parts = [(n, word) for n, word in parts if n]
    if not parts:
        return f"none {total} differs"
    first, *rest = parts
    return ", ".join([f"{first[0]} {total} {first[1]}"] + [f"{n} {word}" for n, word in rest])


def parse(text: str | bytes, source: str) -> Profile:
    """Unknown keys are ignored. Raises Error naming `source` and what was expected."""

    def fail(what: str, got: Any, want: str):
        raise Error(f"[profile] {what} of {source}, got {got}, want {want}") from None

    def shown(value: Any) -> str:
        text = json.dumps(value)
        return text if len(text) <= 40 else text[:37] + "..."

    def member(of: dict, name: str) -> Any:
        if name not in of:
            fail(name, "none", "one: it is no head profile, or a part of one")
        return of[name]

    def typed(of: dict, name: str, kind: type, word: str) -> Any:
        value = member(of, name)
        return value if isinstance(value, kind) else fail(name, shown(value), word)

    def number(of: dict, name: str, most: int) -> int:
        value = member(of, name)
        if type(value) is not int or not 1 <= value <= most:
            fail(name, shown(value), f"a whole number from 1 to {most}")
        return value

    def words(of: dict, name: str) -> str:
        return typed(of, name, str, "text") if name in of else ""

    def needs(of: dict, name: str, layers: int, heads: int) -> tuple[str, ...]:
        want = f"{layers} strings, one a layer"
        rows = member(of, name)
        if not isinstance(rows, list) or len(rows) != layers:
            fail(name, len(rows) if isinstance(rows, list) else shown(rows), want)
        for i, row in enumerate(rows):
            where = f"{name} of layer {i}"
            if not isinstance(row, str):
                fail(where, shown(row), want)
            if len(row) not in (0, heads):
                fail(where, f"{len(row)} letters", f"{heads}, one a query head, or none")
            if bad := set(row) - set(LETTERS):
                fail(where, ascii(min(bad)), 'letters of ".dwm"')
        return tuple(rows)

    try:
        file = json.loads(text)
    except (ValueError, RecursionError):
        fail("contents", "no JSON, or a part of it", "a head profile")
    if not isinstance(file, dict):
        fail("contents", shown(file), "a head profile")
    if member(file, "schema") != SCHEMA:
        fail("schema", shown(file["schema"]), f"{SCHEMA}, which this version of prescore reads")
    model = typed(file, "model", dict, "an object")
    made = typed(file, "made", dict, "an object") if "made" in file else {}
    counts = {name: number(model, name, most) for name, most in (
        ("layers", 4096), ("heads", 4096), ("kv_heads", 4096), ("head_dim", 65536))}
    fingerprint = words(model, "fingerprint")
    if len(fingerprint) != 16 or set(fingerprint) - set("0123456789abcdef"):
        fail("fingerprint", shown(fingerprint), "16 digits of 0-9a-f")
    optional = {name: number(file, name, MOST) for name in ("many", "window") if name in file}
    return Profile(
        Identity(words(model, "name"), words(model, "architecture"), **counts, fingerprint=fingerprint),
        *(needs(file, name, counts["layers"], counts["heads"]) for name in ("prompt", "decode")),
        **{name: words(made, name) for name in ("by", "how", "date")}, **optional, source=source)


def to_json(profile: Profile) -> str:
    m = profile.model
    return json.dumps({
        "schema": SCHEMA,
        "model": {name: getattr(m, name) for name in (
            "name", "architecture", "layers", "heads", "kv_heads", "head_dim", "fingerprint")},
        "made": {"by": profile.by, "how": profile.how, "date": profile.date},
        "many": profile.many, "window": profile.window,
        "prompt": list(profile.prompt), "decode": list(profile.decode)},
        indent=2, ensure_ascii=False) + "\n"


def read(path: str | os.PathLike) -> Profile:
    try:
        return parse(Path(path).read_bytes(), str(path))
    except OSError as e:
        raise Error(f"[profile] {path}, got {e.strerror}, want a file that can be read") from None


def write(profile: Profile, path: str | os.PathLike) -> None:
    """Readers see the old file or the whole new one."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{next(_number)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_text(to_json(profile), encoding="utf-8")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as e:
        raise Error(f"[profile] {path}, got {e.strerror}, want a file that can be written") from None


def cached_path(fingerprint: str) -> Path | None:
    """$PRESCORE_CACHE/profiles/FINGERPRINT.json; None: there is no home."""
    folder = os.environ.get("PRESCORE_CACHE")
    if not folder and (base := os.environ.get("XDG_CACHE_HOME")):
        folder = f"{base}/prescore"
    if not folder and (home := os.environ.get("HOME")):
        folder = f"{home}/.cache/prescore"
    return Path(folder, "profiles", f"{fingerprint}.json") if folder else None


def shipped() -> Iterable[Path]:
    return sorted((Path(__file__).parent / "profiles").glob("*.json"))


def check_fits(profile: Profile, model: Identity) -> Profile:
    """The profile. Raises Error where it is of another model."""
    of = profile.model
    if of.fingerprint != model.fingerprint:
        raise Error(f"[profile] model of {profile.source}, got {of.name} ({of.fingerprint}), "
                    f"want {model.name} ({model.fingerprint})")
    if replace(of, name="", architecture="") != replace(model, name="", architecture=""):
        raise Error(f"[profile] shape of {profile.source}, got {of}, want {model}")
    return profile


def find(model: Identity, setting: str | None) -> tuple[Profile | None, str]:
    """The profile and why one in the cache was passed over.

    setting: a file, which must be of this model (raises Error otherwise), "none", or nothing: by fingerprint,
    from the cache folder, else of those shipped.
    """
    if setting == "none":
        return None, ""
    if setting:
        return check_fits(read(setting), model), ""
    note = ""
    cached = cached_path(model.fingerprint)
    if cached and cached.exists():
        try:
            return check_fits(read(cached), model), ""
        except Error as e:
            note = str(e)
    for path in shipped():
        profile = read(path)
        if profile.model.fingerprint == model.fingerprint:
            return check_fits(profile, model), note
    return None, note


def fingerprint(layers: int, heads: int, kv_heads: int, head_dim: int, width: int,
                norms: Iterable[tuple[str, np.ndarray]]) -> str:
    """Of shape and norm weights (float32, as they multiply), these rounded to bfloat16."""
    digest = sha256(f"prescore profile 1\n{layers} {heads} {kv_heads} {head_dim} {width}\n".encode())
    for name, weights in norms:
        bits = np.ascontiguousarray(weights, dtype="<f4").view("<u4").astype(np.uint64)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
        rounded = np.where(np.isnan(weights), bits >> 16 | 0x40, rounded)
        digest.update(f"{name} {len(weights)}\n".encode())
        digest.update(rounded.astype("<u2").tobytes())
    return digest.hexdigest()[:16]


def by_rule(model: Identity, duplicate: np.ndarray, induction: np.ndarray, *, least_duplicate: float = 0.25,
            least_induction: float = 0.3, most: float = 0.04, prompt_layers: float = 0.6, first_layer: bool = True,
            draws: str = "", by: str = "", date: str = "") -> Profile:
    """Dense are the heads with the highest scores above their threshold: hosts/common/profile_rule.h says more."""
    clear = np.maximum(duplicate / least_duplicate, induction / least_induction)

    def rows(layers: int) -> tuple[str, ...]:
        ranked = [i for i in np.argsort(-clear[:layers], axis=None, kind="stable") if clear.flat[i] >= 1]
        dense = set(ranked[: int(most * clear.size)])
        other = lambda layer: "m" if layer == 0 and first_layer else "."
        return tuple("".join("d" if layer * model.heads + h in dense else other(layer) for h in range(model.heads))
                     for layer in range(model.layers))

    how = (f"duplicate-token score from {least_duplicate:g} or induction score from {least_induction:g}: dense, "
           f"at most {100 * most:g} % of the heads, in prompts those of the first {100 * prompt_layers:g} % of the "
           f"layers{'; the first layer: many keys' if first_layer else ''}; {draws}")
    return Profile(model, rows(math.ceil(prompt_layers * model.layers)), rows(model.layers), by=by, how=how, date=date)
