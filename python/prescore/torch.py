"""prescore as a PyTorch operator: torch.ops.prescore.attention, for torch.compile and export.

    from prescore.torch import attention
    o = attention(q, k, v, method="routed", budget=1280)

Forward only: a backward raises NotImplementedError.
"""
from __future__ import annotations

import ast
import math
from typing import Any

import torch

from . import _attention
from ._arrays import short

__all__ = ["attention"]


# PyTorch 2.4 reads no schema from annotations that are strings.
_SCHEMA = "(Tensor q, Tensor k, Tensor v, bool is_causal, float? scale, str options) -> (Tensor, Tensor)"


@torch.library.custom_op("prescore::attention", mutates_args=(), schema=_SCHEMA)
def _op(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, is_causal: bool, scale: float | None, options: str
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return _attention.attention(
            q, k, v, is_causal=is_causal, scale=scale, return_lse=True, **ast.literal_eval(options)
        )


@_op.register_fake
def _(q, k, v, is_causal, scale, options):
    return q.new_empty((*q.shape[:3], v.shape[3])), q.new_empty(q.shape[:3], dtype=torch.float32)


def _no_backward(ctx, *gradients):
    raise NotImplementedError(
        "[torch] backward of prescore::attention, got a request, want inference: "
        "call it under torch.no_grad() or train with scaled_dot_product_attention"
    )


_op.register_autograd(_no_backward)


def _literal(value: Any, name: str) -> str:
    """repr(value), in words that torch.compile traces."""
    if isinstance(value, dict):
        return "{" + "".join([f"{key!r}: {_literal(item, key)}, " for key, item in value.items()]) + "}"
    if not (isinstance(value, (bool, int, str)) or (isinstance(value, float) and math.isfinite(value))):
        raise TypeError(f"[torch] {name}, got {short(value)}, want a finite number, a word, or a dict of them")
    return repr(value)


def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    is_causal: bool = True,
    scale: float | None = None,
    return_lse: bool = False,
    **options: Any,
):
    """prescore.attention as an operator that torch.compile(fullgraph=True) keeps in its graph.

    Arguments, shapes and errors: prescore.attention, less index, positions, out and the plan. Its
    options must be constants of the graph. Where an input requires grad the forward runs; the
    backward raises NotImplementedError.
    """
    for name, x in (("q", q), ("k", k), ("v", v)):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"[torch] {name}, got {type(x).__name__}, want a tensor")
        if x.dim() != 4:
            raise ValueError(f"[torch] axes of {name}, got {x.dim()}, want 4: [b, h, n, d]")
    for name in ("return_plan", "return_report"):
        if name in options:
            raise TypeError(f"[torch] {name}, got it, want none: prescore.attention has it")
    o, lse = torch.ops.prescore.attention(q, k, v, is_causal, scale, _literal(options, "options"))
    return (o, lse) if return_lse else o
