"""Arrays of the caller's framework: where results are allocated. Nothing here computes."""
from __future__ import annotations

import sys
from typing import Any


def framework(x: Any) -> str:
    """ "torch", "jax", "cupy", ... by the type's module; anything else counts as "numpy"."""
    root = type(x).__module__.partition(".")[0]
    return {"jaxlib": "jax"}.get(root, root) if root in ("torch", "jax", "jaxlib", "cupy") else "numpy"


def empty(shape: tuple[int, ...], like: Any, dtype: Any = None):
    """An array of the framework and device of `like`, or, where that cannot be written (JAX), NumPy's."""
    kind = framework(like)
    if kind == "torch":
        torch = sys.modules["torch"]
        return torch.empty(shape, dtype=torch.float32 if dtype else like.dtype, device=like.device)
    import numpy as np

    dtype = dtype or (like.dtype if hasattr(like, "dtype") else np.asarray(like).dtype)
    if kind == "cupy":
        with like.device:
            return sys.modules["cupy"].empty(shape, dtype)
    return np.empty(shape, dtype)


def finish(x: Any, like: Any):
    """What `empty` gave, as the caller's framework has it."""
    return sys.modules["jax"].numpy.asarray(x) if framework(like) == "jax" else x


def stream(like: Any) -> int | None:
    """The current CUDA stream of the framework; None: the default stream."""
    kind = framework(like)
    if kind == "torch":
        return sys.modules["torch"].cuda.current_stream(like.device).cuda_stream
    if kind == "cupy":
        with like.device:
            return sys.modules["cupy"].cuda.get_current_stream().ptr
    return None


def short(x: Any) -> str:
    """repr(x) on one line of an error."""
    text = " ".join(repr(x).split())
    return text if len(text) <= 60 else text[:57] + "..."
