"""The side of transformers: its registries, its masks, and its own attention for what we leave."""
from __future__ import annotations

import sys
from typing import Any, Callable

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

try:  # since 4.53; before, models made additive masks for attention that they did not know
    from transformers.masking_utils import (
        ALL_MASK_ATTENTION_FUNCTIONS,
        causal_mask_function,
        sdpa_mask,
    )
except ImportError:
    ALL_MASK_ATTENTION_FUNCTIONS = None


def register(name: str, forward: Callable) -> None:
    for registry, function in ((ALL_ATTENTION_FUNCTIONS, forward), (ALL_MASK_ATTENTION_FUNCTIONS, _mask)):
        if hasattr(registry, "register"):
            type(registry).register(name, function)  # for all of the library, not this one mapping
        elif registry is not None:
            registry[name] = function  # a plain dict at first


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    """SDPA's mask, but none wherever keys are seen up to the query's own: also when a prompt comes in
    chunks, which SDPA cannot say without one. (A mask has n_q n_kv entries.)"""
    if "q_length" in kwargs:
        n_q, offset = kwargs["q_length"], kwargs.get("q_offset", 0)
    else:  # before 5.0
        n_q, offset = kwargs["cache_position"].shape[0], int(kwargs["cache_position"][0])
    n_kv = kwargs["kv_length"]
    padding = kwargs.get("attention_mask")
    plain = (
        kwargs.get("mask_function", causal_mask_function) is causal_mask_function
        and kwargs.get("allow_is_causal_skip", True)
        and kwargs.get("kv_offset", 0) == 0
        and int(offset) + n_q == n_kv
        and (padding is None or bool(padding[:, :n_kv].all()))
    )
    if plain:
        return None
    if n_q not in (1, n_kv):  # SDPA's "none" would mean aligned top left
        kwargs["allow_is_causal_skip"] = False
    return sdpa_mask(*args, **kwargs)


def fallback(module, query, key, value, attention_mask, *, scaling, dropout, is_causal, **kwargs):
    """The attention of transformers, given the mask that `_mask` may have left out."""
    n_q, n_kv = query.shape[2], key.shape[2]
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    eager = kwargs.get("softcap") is not None
    if attention_mask is None and causal and n_q > 1 and (eager or n_kv != n_q):
        seen = torch.ones(n_q, n_kv, dtype=torch.bool, device=query.device)
        attention_mask = seen.tril(n_kv - n_q)[None, None]
    if not eager:
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout=dropout,
                                      scaling=scaling, is_causal=is_causal, **kwargs)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        low = torch.finfo(query.dtype).min
        attention_mask = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill(
            ~attention_mask, low)
    own = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    if own is None:  # a model with code of its own
        raise NotImplementedError(f"[hf] soft-caps of {type(module).__name__}, got a model without eager attention, "
                                  "want one that has it, or attn_implementation of its own")
    o, _ = own(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)
    return o, None


def set_attention(model: Any, name: str) -> None:
    if hasattr(model, "set_attn_implementation"):
        model.set_attn_implementation(name)
    else:  # before 4.54
        model.config._attn_implementation = name


def check(layers: str) -> None:
    kind, _, number = layers.partition(":")
    if layers in ("all", "even", "odd") or (kind in ("first", "last") and number.isdecimal()):
        return
    raise ValueError(f"[hf] layers, got {layers!r}, want all, first:N, last:N, even or odd")


def chosen(layers: str, module: torch.nn.Module) -> bool:
    """Whether a layer is among those; layers without a number are."""
    i = getattr(module, "layer_idx", None)
    if layers == "all" or i is None:
        return True
    kind, _, number = layers.partition(":")
    if kind in ("even", "odd"):
        return i % 2 == (kind == "odd")
    if kind == "first":
        return i < int(number)
    return i >= module.config.num_hidden_layers - int(number)
