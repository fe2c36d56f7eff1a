"""prescore as the attention of transformers models: 4.48 and later, 5.x.

    import prescore.hf
    prescore.hf.register()
    model = AutoModelForCausalLM.from_pretrained(name, attn_implementation="prescore")

Prompts are read by the method; decode steps (fewer than 32 queries) densely (on a GPU by transformers'
own kernels), unless routing is "strict". Padding on either side is handled row by row. What is not (sliding windows shorter than the
text, soft-caps, biases, gradients, what the GPU backend lacks, ...) is left to transformers with one warning a reason.
"""
from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from . import _attention, _core, _hf_layers, _hf_profile, _profile
from ._index import KeyIndex
from ._sight import Row, is_plain, pieces, rows_of_last

__all__ = ["Options", "Stats", "profile", "register", "stats"]

FEW_QUERIES = 32
HEADED = ("auto", "window", "topk", "routed")  # methods that take budgets by head
# Reasons to leave a call to transformers that need no warning: as asked, and dense either way.
NOT_CHOSEN, FEW = "layers that were not chosen", "decode steps on a GPU"
UNKNOWN = "models without a head profile (method auto)"


@dataclass(frozen=True)
class Options:
    """How layers attend. Environment variables PRESCORE_METHOD, ... set what `register` is not told."""

    method: str = "auto"
    budget: int = 0  #: most keys that a query reads; 0: 1,280 on a CPU, 2,048 on a GPU
    layers: str = "all"  #: all, first:N, last:N, even or odd; the others are left to SDPA
    routing: str = "tile"  #: strict: every query chooses for itself, decode steps too
    standins: str = "auto"
    window: int = 128
    threads: int = 0
    #: head profile (docs/profiles.md): a file or "none"; empty: found by the model's fingerprint, else
    #: measured before its first long prompt
    profile: str = ""
    count: bool = False  #: on a GPU: wait for each layer, so that `stats` knows what it read
    more: dict = field(default_factory=dict)  #: any other options of prescore.attention

    def __post_init__(self):
        _hf_layers.check(self.layers)
        known = set(_core.OPTION_NAMES["attention"]) - {"is_causal", "scale", "stream"}
        if unknown := set(self.more) - known:
            raise TypeError(f"[hf] option, got {sorted(unknown)}, want some of {sorted(known)}")

    @classmethod
    def from_environment(cls, **given: Any) -> Options:
        """`given` over PRESCORE_* over the defaults. Names that are no fields go to `more`."""
        named, more = cls._parts(given)
        values: dict[str, Any] = {}
        for name, known in {f.name: f for f in fields(cls) if f.name != "more"}.items():
            text = os.environ.get("PRESCORE_" + name.upper())
            if text is not None:
                values[name] = _number(name, text) if isinstance(known.default, int) else text
        if "count" in values:
            values["count"] = bool(values["count"])
        return cls(**values | named, more=more)

    @classmethod
    def _parts(cls, given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """What names fields, and what goes to `more`."""
        names = {f.name for f in fields(cls)} - {"more"}
        more = {k: v for k, v in given.items() if k not in names and k != "more"}
        return {k: v for k, v in given.items() if k in names}, given.get("more", {}) | more

    def arguments(self, n_q: int, cuda: bool) -> dict[str, Any]:
        """Of prescore.attention for a call of n_q queries."""
        budget = self.budget or (2048 if cuda else 1280)
        few = n_q < FEW_QUERIES and self.routing != "strict"
        return self.more | dict(
            method="dense" if few else self.method, budget=budget, window=self.window,
            routing=self.routing, standins=self.standins, threads=self.threads)


@dataclass
class Stats:
    """Since the last stats(reset=True)."""

    taken: int = 0  #: calls of attention that prescore computed
    left: Counter = field(default_factory=Counter)  #: calls left to transformers, by reason
    queries: int = 0  #: (batch, head, query) triples
    keys: int = 0  #: keys read
    visible: int = 0  #: keys that dense attention reads
    standins: int = 0
    seconds: float = 0.0


_options = Options()
_stats = Stats()
_warned: set[str] = set()


class _Kept:
    """The index of a layer's last text. Who has the lock compares it with a cache and uses it."""

    def __init__(self):
        self.lock, self.index = threading.Lock(), None


_kept: WeakKeyDictionary[torch.nn.Module, _Kept] = WeakKeyDictionary()
_guard = threading.Lock()  # of _kept and _stats


def register(options: Options | None = None, **given: Any) -> Options:
    """Makes attn_implementation="prescore" known to transformers; again: changes the options.

    Args: an Options, or its fields and options of prescore.attention by name; what is not given comes
    from PRESCORE_* variables. Returns the options. Raises TypeError, ValueError for unknown ones.
    """
    global _options
    if options:
        named, more = Options._parts({"more": options.more} | given)
        _options = replace(options, **named, more=more)
    else:
        _options = Options.from_environment(**given)
    _hf_layers.register("prescore", _forward)
    _hf_profile.forget()
    return _options


def profile(model, tokenizer=None, out: str | os.PathLike | None = None, *, tokens: int = 512,
            repeated: int | None = None, draws: int = 4, seed: int = 0, progress: bool = True,
            duplicate: float = 0.25, induction: float = 0.3, most: float = 0.04) -> _profile.Profile:
    """Measures which heads of a model need every key, and keeps it for later runs and hosts. A run that was
    stopped goes on with its next draw.

    Args:
        model: of transformers, with any attention that can be exchanged; changed while this runs only.
        tokenizer: leaves special tokens out; None: those that the configuration names.
        out: the file; None: in the cache folder, where every host finds it.
        tokens, repeated, draws, seed: random tokens of a draw, how many of them come again (None: all).
        progress: a line on stderr a draw.
        duplicate, induction: shares of attention from which a head is dense; at most `most` of all are.

    Returns: the profile. Raises Error for models that have none.
    """
    decoder = _hf_profile.decoder_of(model)
    before = decoder.config._attn_implementation
    path = out or _profile.cached_path(_hf_profile.identity(decoder).fingerprint)
    journal = Path(f"{path}.draws.json") if path else None

    def show(draw):
        if progress:
            print(f"\rprescore: draw {draw + 1} of {draws}", end="\n" * (draw + 1 == draws), file=sys.stderr)

    _hf_layers.register("prescore", _forward)
    _hf_layers.set_attention(decoder, "prescore")
    try:
        result = _hf_profile.measure(
            decoder, tokenizer, tokens, tokens if repeated is None else repeated, draws, seed=seed,
            on_draw=show, journal=journal, least_duplicate=duplicate, least_induction=induction, most=most)
    finally:
        _hf_layers.set_attention(decoder, before)
    if path:
        _profile.write(result, path)
        journal.unlink(missing_ok=True)
        result = replace(result, source=str(path))
    _hf_profile.forget()
    return result


def stats(reset: bool = False) -> Stats:
    """What was taken over, what was left and why, what was read."""
    global _stats
    with _guard:
        result = _stats
        if reset:
            _stats = Stats()
        return result


def _forward(module, query, key, value, attention_mask=None, dropout=0.0, scaling=None,
             is_causal=None, **kwargs):
    """The attention interface of transformers: [b, h, n, d] in, [b, n, h, d_v] out."""
    rows: list[Row] | None = None
    if _hf_profile.watching():
        _hf_profile.watch(module, query, key, scaling, kwargs.get("sliding_window"))
        return _hf_layers.fallback(module, query, key, value, attention_mask, dropout=dropout,
                                   scaling=scaling, is_causal=is_causal, **kwargs)
    reason = _why_not(module, query, key, value, dropout, is_causal, kwargs)
    if reason is None and attention_mask is not None:
        rows = rows_of_last(attention_mask, query.shape[0], query.shape[2], key.shape[2])
        if rows is None:
            reason = "a mask that is not causal with padding"
        elif all(is_plain(row, key.shape[2]) for row in rows):
            rows = None
    if reason is not None:
        _leave(reason)
        return _hf_layers.fallback(module, query, key, value, attention_mask, dropout=dropout,
                                   scaling=scaling, is_causal=is_causal, **kwargs)
    return _attend(module, query, key, value, rows, scaling).transpose(1, 2).contiguous(), None


def _why_not(module, query, key, value, dropout, is_causal, kwargs) -> str | None:
    """Why a call is left to transformers; None: it is ours."""
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    window = kwargs.get("sliding_window")
    unknown = [x for x in ("s_aux", "position_bias", "cu_seq_lens_q") if kwargs.get(x) is not None]
    if not _hf_layers.chosen(_options.layers, module):
        return NOT_CHOSEN
    if query.is_cuda and query.shape[2] < FEW_QUERIES and _options.routing != "strict":
        return FEW
    if query.is_cuda and _options.method == "auto" and "heads" not in _options.more:
        if _heads(module, query, key) is None:
            return UNKNOWN
    if not causal:
        return "attention that is not causal"
    if kwargs.get("softcap") is not None:
        return "soft-caps"
    if window is not None and key.shape[2] > window:
        return "sliding windows"
    if dropout > 0:
        return "dropout"
    if unknown:
        return f"the argument {unknown[0]}"
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        return "gradients (call the model under torch.no_grad())"
    if max(query.shape[3], value.shape[3]) > 512:
        return "heads of more than 512"
    if query.dtype not in (torch.float32, torch.float16, torch.bfloat16):
        return f"{query.dtype}"
    return None if query.device.type == "cpu" else _why_not_there(query, value)


def _why_not_there(query, value) -> str | None:
    """The same of what is not on the CPU."""
    if not query.is_cuda:
        return f"tensors on {query.device.type}"
    if not _core.gpus():
        return "tensors on a GPU (this build of prescore has no CUDA)"
    if query.dtype == torch.float32:
        return "float32 on a GPU"
    for d in (query.shape[3], value.shape[3]):
        if d > 256 or d % 8 != 0:
            return f"heads of {d} on a GPU"
    return None


@torch.compiler.disable
def _leave(reason: str) -> None:
    with _guard:
        first = reason not in (NOT_CHOSEN, FEW) and reason not in _warned
        _warned.add(reason)
        _stats.left[reason] += 1
    if first:
        warnings.warn(f"prescore leaves {reason} to transformers", stacklevel=3)


@torch.compiler.disable
def _attend(module, q, k, v, rows: list[Row] | None, scale: float | None) -> torch.Tensor:
    q, k, v = (x if _readable(x) else x.clone(memory_format=torch.contiguous_format) for x in (q, k, v))
    counted = _options.count or not q.is_cuda
    arguments = _options.arguments(q.shape[2], q.is_cuda) | {"scale": scale, "return_report": counted}
    if arguments["method"] in HEADED and "heads" not in arguments:
        if heads := _heads(module, q, k):
            arguments["heads"] = heads
        elif heads is None and arguments["method"] == "auto":
            arguments["method"] = "dense"  # nobody has said which heads can do without most keys
    b, h, n, _ = q.shape
    out = q.new_empty((b, n, h, v.shape[3])).transpose(1, 2)  # as transformers wants it
    if rows is None:
        _attend_cache(module, q, k, v, out, arguments)
        return out
    for i, (first, last, positions) in enumerate(rows):
        if last <= first:  # a row of padding alone
            out[i].zero_()
            continue
        part = [x[i : i + 1] for x in (q, k[:, :, first:last], v[:, :, first:last], out)]
        if positions is None or not q.is_cuda:
            _call(part, slice(None), slice(None), positions=positions, **arguments)
            continue
        for begin, end, keys, causal in pieces(positions):  # the GPU has no positions
            if keys <= 0:
                part[3][:, :, begin:end] = 0
                continue
            how = arguments if causal else arguments | {"method": "dense", "is_causal": False, "heads": []}
            _call(part, slice(begin, end), slice(keys), **how)
    return out


def _heads(module, q, k) -> list | None:
    decoding = q.shape[2] < FEW_QUERIES or _options.routing == "strict"
    return _hf_profile.heads(module, q, k, decoding, _options.profile)


def _call(tensors, queries: slice, keys: slice, **arguments) -> None:
    q, k, v, out = tensors
    _count(_attention.attention(q[:, :, queries], k[:, :, keys], v[:, :, keys], out=out[:, :, queries],
                                **arguments))


def _readable(x: torch.Tensor) -> bool:
    """Whether the core takes it as it lies: on a GPU rows begin at multiples of 16 bytes."""
    aligned = x.data_ptr() % 16 == 0 and all(x.stride(i) * x.element_size() % 16 == 0 for i in range(3))
    return x.stride(-1) == 1 and (aligned or not x.is_cuda)


def _attend_cache(module, q, k, v, out, arguments) -> None:
    """With the layer's index, where a cache can go on from an earlier call."""
    if k.is_cuda or arguments["method"] == "dense" or "index" in arguments:
        return _count(_attention.attention(q, k, v, out=out, **arguments))
    with _guard:
        kept = _kept.setdefault(module, _Kept())
    with kept.lock:
        if kept.index is None or kept.index.validate(k) == 0:  # another text, perhaps of another shape
            kept.index = KeyIndex()
        _count(_attention.attention(q, k, v, out=out, index=kept.index, **arguments))


def _count(result) -> None:
    with _guard:
        _stats.taken += 1
        if not isinstance(result, tuple):  # nothing was counted
            return
        report = result[1]
        _stats.queries += report["queries"]
        _stats.keys += report["keys"]
        _stats.visible += report["visible"]
        _stats.standins += report["standins"]
        _stats.seconds += report["total_s"]


def _number(name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"[hf] PRESCORE_{name.upper()}, got {text!r}, want a whole number") from None
