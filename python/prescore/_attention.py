"""The calls: views of the arguments, memory for the results, and the core."""
from __future__ import annotations

import operator
from typing import Any

from . import _arrays, _core
from ._index import KeyIndex
from ._plan import Plan


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    method: str = "auto",
    budget: int = 1280,
    is_causal: bool = True,
    scale: float | None = None,
    index: KeyIndex | dict | None = None,
    positions: Any = None,
    return_lse: bool = False,
    return_plan: bool = False,
    return_report: bool = False,
    out: Any = None,
    threads: int = 0,
    **options: Any,
):
    """softmax(scale q k^T) v over the keys that a method chooses.

    Args:
        q: [b, h_q, n_q, d], float32, float16 or bfloat16, h_q a multiple of h_kv. NumPy (with
            ml_dtypes for bfloat16), PyTorch, JAX, CuPy or anything with DLPack. Inputs are never
            copied: any non-negative strides, the last axis contiguous.
        k: [b, h_kv, n_kv, d].
        v: [b, h_kv, n_kv, d_v], of the dtype of k; d and d_v up to 512.
        method: "auto" (dense below a crossover, routed above), "dense", "routed", "window", "topk",
            "hyper" or "prescored_hyper".
        budget: most keys that one query reads.
        is_causal: query i sees keys [0, n_kv - n_q + i], as in a KV cache.
        scale: factor on q.k; None: 1 / sqrt(d).
        index: a KeyIndex that lives from call to call, extended here where the method needs it
            (k and v are then the whole cache); or a dict of options for the call's own.
        positions: int per query, not falling; query i sees keys [0, positions[i]].
        return_lse: also the log-sum-exp, [b, h_q, n_q], float32, natural logarithm.
        return_plan: also the Plan: what each query reads. It is made a second time for that.
        return_report: also a dict: method taken and why, keys read, seconds of the stages.
        out: where to write, [b, h_q, n_q, d_v]; any of the dtypes; apart from the inputs. None: like q.
        threads: 0: all.
        **options: members of the C++ PlanOptions (window, sinks, tile, routing, standins, score,
            seed, ...), `compute`, and dicts `scoring` (ScoreOptions) and `hyper` (HyperOptions).
            OPTION_NAMES lists them.

    Returns:
        An array like q, [b, h_q, n_q, d_v]; with return_... a tuple: it, lse, plan, report.

    Raises:
        TypeError: something is no array, or has another dtype; an unknown option.
        Error: (a ValueError) shapes, strides, devices or values that do not fit.

    Source: the methods of docs/design.md; `topk` and `prescored_hyper` are those of arXiv 2505.11040.
    """
    views = [_core.View(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v"))]
    shapes = [_shape(view, name) for view, name in zip(views, "qkv")]
    if views[0].on_cuda:
        _check_on_cuda(q, return_plan)
    result = _arrays.empty((*shapes[0][:3], shapes[2][3]), q) if out is None else out
    lse = _arrays.empty(shapes[0][:3], q, "float32") if return_lse else None
    options |= dict(method=method, budget=budget, is_causal=is_causal, scale=scale, threads=threads)
    if views[0].on_cuda:
        options.setdefault("stream", _arrays.stream(q))
    kept, options = _index_of(index, options)
    positions = _positions(positions)
    report = _core.attention(
        *views,
        _writable(result, "out"),
        None if lse is None else _writable(lse, "lse"),
        options,
        kept,
        positions,
        return_report,
    )
    results = [_arrays.finish(result, q) if out is None else out]
    if return_lse:
        results.append(_arrays.finish(lse, q))
    if return_plan:
        results.append(Plan(_core.plan(*views, options, kept, positions)))
    if return_report:
        results.append(report)
    return results[0] if len(results) == 1 else tuple(results)


def plan(q: Any, k: Any, v: Any = None, *, index: KeyIndex | dict | None = None, positions: Any = None,
         **options: Any) -> Plan:
    """What `attention` with the same arguments would read, without attending.

    v may be left out unless a score looks at values. Arguments and errors: attention. CPU only.
    """
    views = [_core.View(x, name) for x, name in ((q, "q"), (k, "k"), (k if v is None else v, "v"))]
    kept, options = _index_of(index, options)
    return Plan(_core.plan(*views, options, kept, _positions(positions)))


def score(k: Any, name: str = "leverage", *, n: int | None = None, threads: int = 0, **options: Any):
    """One importance a key, the same for every query to come; higher is more important.

    Args:
        k: [b, h_kv, n_kv, d]; see attention for what arrays may be.
        name: "norm", "leverage", "kmeans", "kmedian", "kernel_kmeans", "keydiff", "gaussian_norm",
            "universal" or "random". Scores that look at queries or values ("received", "expected",
            "value_norm", "oracle") need a call of attention. On a GPU, of float16 or bfloat16: "norm"
            and "random", and up to 4,096 keys "leverage" (d <= 128) and "kmeans" (clusters <= 64).
        n: score the first n keys; None: all.
        **options: members of the C++ ScoreOptions: clusters, iterations, leverage, fit, seed, ...

    Returns:
        [b, h_kv, n], float32, of the framework of k.

    Raises: as attention.
    """
    view = _core.View(k, "k")
    b, h, n_kv, _ = _shape(view, "k")
    n = n_kv if n is None else n
    if not isinstance(n, int) or not 1 <= n <= n_kv:
        raise _core.Error(f"[python] keys to score, got {n!r}, want 1 to {n_kv}")
    scores = _arrays.empty((b, h, n), k, "float32")
    options |= {"score": name, "threads": threads}
    _core.score(view, n, options, _writable(scores, "scores"), _stream(k, view))
    return _arrays.finish(scores, k)


def merge(o: Any, lse: Any, other_o: Any, other_lse: Any):
    """Attention over the union of two disjoint sets of keys, from the results over each.

    Args:
        o, other_o: [b, h, n, d_v], float32; on a GPU float16 or bfloat16 too, both alike.
        lse, other_lse: [b, h, n], float32, natural logarithm, contiguous.

    Returns:
        o and lse, changed in place. An empty part (lse = -inf) changes nothing.

    Raises: as attention.
    """
    names = ("o", "lse", "other_o", "other_lse")
    arrays = (o, lse, other_o, other_lse)
    views = [_writable(x, name) for x, name in zip(arrays[:2], names)]
    views += [_core.View(x, name) for x, name in zip(arrays[2:], names[2:])]
    _core.merge(*views, _stream(o, views[0]))
    return o, lse


def workspace_bytes(q: Any, k: Any, v: Any, **options: Any) -> int:
    """Upper bound of the memory that attention holds beyond inputs and outputs, in bytes."""
    views = (_core.View(x, name) for x, name in ((q, "q"), (k, "k"), (v, "v")))
    return _core.workspace_bytes(*views, options)


def _check_on_cuda(q: Any, return_plan: bool) -> None:
    if return_plan:
        raise _core.Error("[python] return_plan, got arrays on a GPU, want them on the CPU, as plans to look at are")
    if _arrays.framework(q) == "jax":
        raise _core.Error("[python] device of q, got a GPU of JAX, want the CPU, or arrays of PyTorch or CuPy")


def _writable(x: Any, name: str) -> Any:
    if _arrays.framework(x) == "jax":  # its DLPack does not say that its arrays never change
        raise TypeError(f"[python] {name}, got an array of JAX, want one that can be written in place")
    return _core.View(x, name, True)


def _stream(x: Any, view: Any) -> int:
    """The framework's current stream; 0, the default one, also for what is not on a GPU."""
    return (_arrays.stream(x) if view.on_cuda else None) or 0


def _shape(view: Any, name: str) -> tuple[int, ...]:
    if len(view.shape) != 4:
        raise _core.Error(f"[python] axes of {name}, got {len(view.shape)}, want 4: [b, h, n, d]")
    return view.shape


def _index_of(index: KeyIndex | dict | None, options: dict) -> tuple[Any, dict]:
    if index is None:
        return None, options
    if isinstance(index, KeyIndex):
        return index._index, options
    return None, options | {"index": index}


def _positions(positions: Any) -> list[int] | None:
    if positions is None:
        return None
    try:
        values = [operator.index(p) for p in positions]
    except TypeError:
        raise TypeError(f"[python] positions, got {_arrays.short(positions)}, want one int a query") from None
    if any(not -(2**31) <= p < 2**31 for p in values):
        raise _core.Error(f"[python] positions, got {max(values, key=abs)}, want positions of 32 bits")
    return values
