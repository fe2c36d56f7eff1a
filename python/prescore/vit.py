"""Vision Transformers that read some of their patches: the class token and those that matter.

    import prescore.vit
    prescore.vit.patch(model, "kmeans", keys=64)   # timm's models and those of transformers
    logits = model(images)
    prescore.vit.unpatch(model)

The selection of Efficient Attention via Pre-Scoring (arXiv 2505.11040, section 5) and what it is compared with. All
choices are training-free; every query reads `keys` keys, the class token (and registers) among them.
"""
from __future__ import annotations

from types import MethodType
from typing import Any

import torch
from torch.nn import Identity

from .torch import attention

__all__ = ["METHODS", "options", "patch", "unpatch"]

#: Names of `patch`, and what they read beside the class token.
METHODS = {
    "dense": "everything",
    "random": "any keys",
    "norm": "the longest keys",
    "leverage": "keys with the largest leverage scores",
    "kmeans": "keys drawn in proportion to their distance from their centre (the paper)",
    "kmeans_top": "keys farthest from their centre",
    "routed": "clusters of keys that each query chooses",
}


def options(method: str, keys: int, clusters: int = 5, prefix: int = 1, seed: int = 0) -> dict[str, Any]:
    """Options of prescore.attention for one layer.

    keys: that a query reads, all included; clusters: of k-means (the paper: 4 to 6); prefix: tokens before the
    patches, which every query reads. Raises ValueError for other methods or numbers below 1.
    """
    if method not in METHODS:
        raise ValueError(f"[vit] method, got {method!r}, want one of {', '.join(METHODS)}")
    for name, value, least in (("keys", keys, prefix + 1), ("clusters", clusters, 1), ("prefix", prefix, 0)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"[vit] {name}, got {value!r}, want a whole number")
        if value < least:
            raise ValueError(f"[vit] {name}, got {value}, want {least} or more")
    if method == "dense":
        return {"method": "dense"}
    common = {"budget": keys, "window": 1, "seed": seed}
    if method == "routed":
        index = {"segment": 128, "cluster": 4, "group": 16, "sinks": prefix}
        return common | {"method": "routed", "routing": "strict", "sinks": prefix, "index": index}
    score = {"norm": "norm", "kmeans_top": "kmeans"}.get(method, method)
    chosen = {"method": "topk", "score": score, "sinks": prefix, "scoring": {"clusters": clusters}}
    return common | chosen | ({"selection": "sample"} if method == "kmeans" else {})


def patch(model: torch.nn.Module, method: str = "kmeans", *, keys: int = 64, clusters: int = 5,
          **more: Any) -> torch.nn.Module:
    """Lets every attention layer of `model` read `keys` keys a query; returns the model.

    model: with layers as those of timm's plain ViTs (qkv, proj, num_heads; no rotation or bias by position), or a
    ViT of transformers. more: options of prescore.attention that come on top. Raises ValueError where the model has
    neither, and as `options`.
    """
    unpatch(model)
    of_layer = lambda i: options(method, keys, clusters, _prefix(model), seed=i) | more
    layers = [m for m in model.modules() if all(hasattr(m, name) for name in ("qkv", "proj", "num_heads"))]
    for layer in layers:
        _check_plain(layer)
    if layers:
        for i, layer in enumerate(layers):
            layer._prescore = of_layer(i)
            layer.forward = MethodType(_timm_forward, layer)
        return model
    if not hasattr(getattr(model, "config", None), "_attn_implementation"):
        raise ValueError("[vit] model, got one without layers of timm's or transformers' shape, want one that has them")
    _patch_transformers(model, of_layer)
    return model


def unpatch(model: torch.nn.Module) -> torch.nn.Module:
    """The model as it was; nothing happens to one that was not patched."""
    for layer in model.modules():
        if getattr(layer.__dict__.get("forward"), "prescore", False):
            del layer.forward
        layer.__dict__.pop("_prescore", None)
    if "_prescore_before" in model.__dict__:
        model.config._attn_implementation = model.__dict__.pop("_prescore_before")
    return model


def _attend(q, k, v, scale, chosen):
    if q.is_cuda and chosen["method"] == "routed" and chosen.get("index", {}).get("segment", 512) != 512:
        raise ValueError("[vit] method on a GPU, got 'routed', want another: an index there has segments of 512 keys")
    return attention(q, k, v, is_causal=False, scale=scale, **chosen)


def _prefix(model) -> int:
    """Tokens before the patches."""
    if hasattr(model, "num_prefix_tokens"):  # timm
        return int(model.num_prefix_tokens)
    config = getattr(model, "config", None)
    distilled = getattr(config, "model_type", "") == "deit"
    return 1 + distilled + int(getattr(config, "num_register_tokens", 0) or 0)


def _check_plain(layer) -> None:
    """timm has many attention layers with qkv and proj; only that of its plain ViT does no more with them."""
    kind = type(layer)
    plain = kind.__name__ == "Attention" and kind.__module__ in ("timm.models.vision_transformer", "timm.layers.attention")
    if kind.__module__.startswith("timm.") and not plain:
        raise ValueError(f"[vit] attention layers, got {kind.__module__}.{kind.__name__}, want those of timm's plain ViTs")


def _timm_forward(self, x, *args, **kwargs):
    """Attention.forward of timm."""
    given = [a for a in (*args, *kwargs.values()) if a is not None and a is not False]
    if given:
        raise ValueError(f"[vit] arguments of an attention layer beside x, got {len(given)}, want none (as masks, rotations)")
    b, n, _ = x.shape
    q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = (getattr(self, name, Identity())(x).to(v.dtype) for name, x in (("q_norm", q), ("k_norm", k)))
    o = _attend(q, k, v, getattr(self, "scale", None), self._prescore)
    o = o.transpose(1, 2).reshape(b, n, -1)
    o = getattr(self, "norm", Identity())(o)
    if getattr(self, "gate", None) is not None:
        o = o * self.gate(x).sigmoid()
    o = self.proj(o)
    return getattr(self, "proj_drop", Identity())(o)


_timm_forward.prescore = True


def _patch_transformers(model, of_layer) -> None:
    from transformers import AttentionInterface

    def forward(module, query, key, value, attention_mask=None, scaling=None, dropout=0.0, **_):
        if attention_mask is not None:
            raise ValueError("[vit] attention_mask, got one, want None")
        o = _attend(query, key, value, scaling, module._prescore)
        return o.transpose(1, 2).contiguous(), None

    AttentionInterface.register("prescore_vit", forward)
    model._prescore_before = model.config._attn_implementation
    model.config._attn_implementation = "prescore_vit"
    layers = [m for m in model.modules() if type(m).__name__.endswith("SelfAttention")]
    layers = layers or [m for m in model.modules() if type(m).__name__.endswith("Attention")]
    for i, layer in enumerate(layers):
        layer._prescore = of_layer(i)
