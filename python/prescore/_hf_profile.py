"""Head profiles of transformers models: which model a layer is of, and measuring one."""
from __future__ import annotations

import datetime
import json
import re
import sys
import threading
import warnings
from pathlib import Path
from typing import Any, Callable
from weakref import WeakKeyDictionary, ref

import numpy as np
import torch
from transformers import PreTrainedModel

from . import _core, _profile
from ._profile import Identity, Profile

LEAST_PROBE, MOST_PROBE, REPEATED = 128, 1024, 64  # as hosts/llama/probe.cpp
_FIRST_NORM = re.compile(
    r"(?:^|\.)(\d+)\.(?:input_layernorm|ln_1|ln_attn|self_attn_layer_norm|attention_norm)\.weight$")
_LAST_NORM = re.compile(r"(?:^|\.)(?:norm|final_layernorm|final_layer_norm|ln_f)\.weight$")


class _Of:
    """What is known of an attention module: its layer, its model's profile or that there is none yet."""

    def __init__(self, layer: int, profile: Profile | None, decoder: Any = None):
        self.layer, self.profile = layer, profile
        self.decoder = decoder  # a weak reference to the model to probe; None: there is nothing to probe


_known: WeakKeyDictionary[torch.nn.Module, _Of] = WeakKeyDictionary()
_lock = threading.Lock()
_watch = threading.local()  # .scores: what a probe in this thread fills
_said: set[str] = set()


def forget() -> None:
    """Profiles are sought anew: the options changed, or there is a new one."""
    with _lock:
        _known.clear()


def heads(module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, decoding: bool,
          setting: str | None) -> list | None:
    """`heads` of prescore.attention for a call of this layer, [] where all are as the call says; None:
    nobody knows."""
    if setting == "none":
        return None
    with _lock:
        of = _known.get(module)
        if of is None:
            _seek(module, setting)
            of = _known[module]
        if of.profile is None and of.decoder and not decoding:
            _measure(module, of, q.shape[0] * q.shape[2])
            of = _known[module]
    if of.profile is None:
        return None
    m = of.profile.model
    if (q.shape[1], k.shape[1], q.shape[3]) != (m.heads, m.kv_heads, m.head_dim):
        _say(f"no head profile for layers of {q.shape[1]} heads on {k.shape[1]} of {q.shape[3]}")
        return None
    return of.profile.heads(of.layer, decoding) or []


def _seek(module: torch.nn.Module, setting: str | None) -> None:
    """Enters this module, and all layers of its model, into _known."""
    layer = getattr(module, "layer_idx", None)
    _known[module] = _Of(-1 if layer is None else layer, None)
    if layer is None:
        return
    decoder = _running_model(module)
    if decoder is None:
        if setting:  # the shapes still have to agree
            _known[module] = _Of(layer, _profile.read(setting))
        else:
            _say("no head profile: the model cannot be seen from its layers (compiled?); "
                 "prescore.hf.register(profile=FILE) names one")
        return
    profile, again = None, ref(decoder)
    try:
        profile, note = _profile.find(identity(decoder), setting)
        if note:
            _say(f"passed over: {note}")
    except _core.Error as e:
        if setting:
            raise
        again = None
        _say(f"no head profile: {e}")
    for m in decoder.modules():
        if isinstance(getattr(m, "layer_idx", None), int):
            _known[m] = _Of(m.layer_idx, profile, None if profile else again)


def _running_model(module: torch.nn.Module) -> PreTrainedModel | None:
    """The innermost model whose forward is running and has this layer. An attention module does not know
    its model, but is only ever called by it."""
    frame = sys._getframe(1)
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, PreTrainedModel) and any(m is module for m in owner.modules()):
            return owner
        frame = frame.f_back
    return None


def _can_run_again(decoder: PreTrainedModel) -> bool:
    """Whether another forward may run inside a forward. Hooks that move weights about, and processes that
    must all take part, forbid it."""
    if decoder.training or getattr(decoder.config, "is_encoder_decoder", False):
        return False
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return False
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return False
    return not any(getattr(getattr(m, "_hf_hook", None), "offload", False) for m in decoder.modules())


def _measure(module: torch.nn.Module, of: _Of, tokens: int) -> None:
    """A quick probe, with at most a twentieth of the prompt's tokens."""
    decoder = of.decoder()
    if decoder is None:
        return
    period = min(MOST_PROBE, tokens // 20 - 1 - REPEATED)
    window = getattr(decoder.config, "sliding_window", None) or 0
    if period < max(LEAST_PROBE, window):
        return
    profile = None
    try:
        if _can_run_again(decoder):
            profile = measure(decoder, None, period, REPEATED, 1)
        else:
            _say("no head profile yet: prescore.hf.profile(model) measures one")
    except Exception as e:  # whatever a model's own code does: a prompt must not fail for it
        _say(f"no head profile: measuring one failed ({type(e).__name__}: {e})")
    for m in decoder.modules():
        if m in _known:
            _known[m] = _Of(_known[m].layer, profile)
    if profile is not None:
        print(f"prescore: measured which heads need every key: {profile}; {keep(profile)}",
              file=sys.stderr)


def keep(profile: Profile, path: Any = None) -> str:
    path = path or _profile.cached_path(profile.model.fingerprint)
    if path is None:
        return "not kept, as there is no cache folder"
    try:
        _profile.write(profile, path)
    except _core.Error as e:
        return f"not kept ({e})"
    return f"kept in {path}"


def _say(text: str) -> None:
    if text not in _said:
        _said.add(text)
        warnings.warn("prescore: " + text, stacklevel=2)


# --- which model --------------------------------------------------------------------------------------


def decoder_of(model: torch.nn.Module) -> PreTrainedModel:
    """The part of a model that reads tokens."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model
    return model if decoder is None else decoder


def identity(model: torch.nn.Module) -> Identity:
    """Raises Error for models without the norms and numbers that a fingerprint is made of."""
    model = decoder_of(model)
    config = model.config.get_text_config()
    name = getattr(config, "_name_or_path", "") or type(model).__name__
    try:
        layers, heads = config.num_hidden_layers, config.num_attention_heads
        kv_heads = getattr(config, "num_key_value_heads", None) or heads
        width = config.hidden_size
        head_dim = getattr(config, "head_dim", None) or width // heads
    except AttributeError as e:
        raise _core.Error(f"[profile] model {name}, got {e}, want a language model") from None
    norms: dict[str, str] = {}
    for path, weight in model.named_parameters():
        if weight.shape != (width,):
            continue
        if first := _FIRST_NORM.search(path):
            if (place := {0: "first", layers - 1: "last"}.get(int(first[1]))) is not None:
                norms.setdefault(place, path)
                if layers == 1:
                    norms.setdefault("last", path)
        elif _LAST_NORM.search(path) and not re.search(r"\.\d+\.", path):
            norms["output"] = path
    if not norms:
        raise _core.Error(f"[profile] norms of {name}, got none, want input and output norms of layers")
    weights = [(place, _multiplies(model, norms[place])) for place in ("first", "last", "output") if place in norms]
    return Identity(name.rstrip("/").split("/")[-1], config.model_type, layers, heads, kv_heads, head_dim,
                    _profile.fingerprint(layers, heads, kv_heads, head_dim, width, weights))


@torch.no_grad()
def _multiplies(model: torch.nn.Module, path: str) -> np.ndarray:
    """Weights of a norm as they multiply. Gemma's norms keep them less one; GGUF files have the sum."""
    norm = model.get_submodule(path.rpartition(".")[0])
    if norm.weight.is_meta:
        raise _core.Error(f"[profile] {path}, got a weight that is not loaded, want one that is")
    weight = norm.weight.detach().float()
    if "RMSNorm" in type(norm).__name__:
        out = norm(torch.ones_like(norm.weight)[None]).float()[0]
        if (out - weight - 1).abs().mean() < (out - weight).abs().mean():
            weight = weight + 1
    return weight.cpu().numpy()


# --- measuring ----------------------------------------------------------------------------------------


def measure(decoder: PreTrainedModel, tokenizer: Any, period: int, repeated: int, draws: int, *,
            seed: int = 0, on_draw: Callable[[int], None] = lambda draw: None, journal: Path | None = None,
            **rule: float) -> Profile:
    """By the attention of every head on random tokens that come again. Attention has to be "prescore".
    `journal`: a file that keeps finished draws while this runs, so that a run that was stopped goes on.

    Raises Error; whatever the model's forward raises.
    """
    model = identity(decoder)
    settings = dict(fingerprint=model.fingerprint, tokens=period, repeated=repeated, seed=seed)
    done = _finished(journal, settings, (model.layers, model.heads))[:draws]
    for draw in range(len(done), draws):
        ids, first = _text(decoder.config.get_text_config(), tokenizer, period, repeated, seed + draw)
        _watch.scores = scores = {"first": first, "period": period}
        try:
            with torch.no_grad():
                device = decoder.get_input_embeddings().weight.device
                decoder(input_ids=torch.tensor([ids], device=device), use_cache=False)
        finally:
            del _watch.scores
        seen = [i for i in scores if isinstance(i, int) and 0 <= i < model.layers]
        if not seen:
            raise _core.Error('[profile] model, got no attention that can be seen, want attn_implementation="prescore"')
        found = np.zeros((2, model.layers, model.heads))
        for i in seen:
            found[:, i] = scores[i]
        done.append(found)
        if journal:
            journal.parent.mkdir(parents=True, exist_ok=True)
            journal.write_text(json.dumps(settings | {"draws": [x.tolist() for x in done]}))
        on_draw(draw)
    duplicate, induction = np.mean(done, axis=0)
    again = "given twice" if repeated == period else f"then the first {repeated} of them again"
    text = f"{draws} draw{'s' * (draws > 1)} of {period} random tokens{' ' if repeated == period else ', '}{again}"
    return _profile.by_rule(model, duplicate, induction, draws=text, by=f"prescore {_core.__version__}",
                            date=datetime.datetime.now(datetime.timezone.utc).date().isoformat(), **rule)


def _finished(journal: Path | None, settings: dict[str, Any], shape: tuple[int, int]) -> list[np.ndarray]:
    """Draws of a run with the same settings that was stopped; none where the file is of another, or torn."""
    try:
        kept = json.loads(journal.read_text()) if journal else {}
        draws = [np.array(x, dtype=float) for x in kept.pop("draws")]
        return draws if kept == settings and all(x.shape == (2, *shape) for x in draws) else []
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return []


def _text(config: Any, tokenizer: Any, period: int, repeated: int, seed: int) -> tuple[list[int], int]:
    """Ids, and how many come before the random ones. The first ids of a vocabulary are bytes and pieces of
    two letters, the last ones seldom seen in training."""
    vocabulary = config.vocab_size if tokenizer is None else len(tokenizer)
    special = {x for name in ("bos", "eos", "pad") for x in [getattr(config, f"{name}_token_id", None)]
               if isinstance(x, int)}
    begin = getattr(config, "bos_token_id", None)
    if tokenizer is not None:
        special |= set(tokenizer.all_special_ids) | set(tokenizer.get_added_vocab().values())
        begin = tokenizer.bos_token_id if tokenizer("a")["input_ids"][:1] == [tokenizer.bos_token_id] else None
    ordinary = np.array([i for i in range(vocabulary) if i not in special])
    ordinary = ordinary[1000 if len(ordinary) >= 2000 else 0 :][:29000]
    ids = np.random.default_rng(seed).choice(ordinary, period).tolist()
    prefix = [begin] if isinstance(begin, int) else []
    return prefix + ids + ids[:repeated], len(prefix)


def watching() -> bool:
    """Whether a probe runs in this thread."""
    return not torch.compiler.is_compiling() and hasattr(_watch, "scores")


def watch(module: torch.nn.Module, q: torch.Tensor, k: torch.Tensor, scaling: float | None,
          sliding_window: int | None) -> None:
    """Enters what this layer's heads look at."""
    n, layer = q.shape[2], getattr(module, "layer_idx", None)
    if layer is None or k.shape[2] != n or (sliding_window is not None and n > sliding_window):
        return
    period = _watch.scores["period"]
    i = torch.arange(_watch.scores["first"] + period, n, device=q.device)
    keys = k[0].float().repeat_interleave(q.shape[1] // k.shape[1], 0)
    a = (q[0, :, i].float() @ keys.transpose(1, 2)) * (q.shape[3] ** -0.5 if scaling is None else scaling)
    a.masked_fill_(torch.arange(n, device=q.device)[None] > i[:, None], float("-inf"))
    p, row = a.softmax(-1), torch.arange(len(i), device=q.device)
    _watch.scores[layer] = [p[:, row, i - back].mean(1).double().cpu().numpy() for back in (period, period - 1)]
