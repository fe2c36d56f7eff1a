"""Long-context attention that reads only the keys that matter.

    import prescore
    o = prescore.attention(q, k, v, method="routed", budget=1280)   # [b, h, n, d], any framework

prescore.torch is the operator for torch.compile, prescore.hf the attention of transformers models;
both import their framework, this module does not.
"""
from ._attention import attention, merge, plan, score, workspace_bytes
from ._core import OPTION_NAMES, Error, __version__, gpus, isa
from ._index import KeyIndex
from ._plan import Plan, Tile

__all__ = [
    "OPTION_NAMES", "Error", "KeyIndex", "Plan", "Tile", "__version__", "attention", "gpus", "isa",
    "merge", "plan", "score", "workspace_bytes",
]
