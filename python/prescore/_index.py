"""KeyIndex: clusters of keys beside a cache that grows."""
from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any

from . import _core
from ._arrays import short

if TYPE_CHECKING:
    import numpy as np


def _whole(name: str, value: Any) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"[index] {name}, got {short(value)}, want a whole number") from None
    if not -(2**31) <= number < 2**31:
        raise _core.Error(f"[index] {name}, got {number}, want a number of 32 bits")
    return number


class KeyIndex:
    """Clusters over the keys of every (batch, key head), for `routed`, kept from call to call.

    A tree over segments of 512 keys: segments (level 2), groups of about 32 (level 1), clusters of
    about 8 (level 0). Only complete segments are in it. Pass it to attention with the whole cache;
    what has become complete since the last call is read, nothing else. One thread at a time uses an
    index: others wait.

    Args:
        **options: members of the C++ IndexOptions: segment, cluster, group, iterations, sinks, packed.
    """

    def __init__(self, **options: int | bool):
        self._index = _core.KeyIndex(options)

    def extend(self, k: Any, v: Any, *, threads: int = 0) -> None:
        """Brings the index up to date with a cache that has grown: k [b, h_kv, n, d] and v
        [b, h_kv, n, d_v] are the whole cache. Raises Error when shapes differ from the first call."""
        self._index.extend(_core.View(k, "k"), _core.View(v, "v"), _whole("threads", threads))

    append = extend  # what it does to the index

    def plan(self, q: Any, k: Any, v: Any = None, **options: Any):
        """prescore.plan with this index: which of the cache's keys `routed` would read."""
        from . import _attention

        return _attention.plan(q, k, v, index=self, **({"method": "routed"} | options))

    def decode(self, q: Any, k: Any, v: Any, **options: Any):
        """Attention of the last tokens q [b, h_q, n_q, d] over the whole cache k, v, each choosing for itself
        (routing "strict"); the index takes in what has become complete. Options and result: attention."""
        from . import _attention

        return _attention.attention(q, k, v, index=self, **({"method": "routed", "routing": "strict"} | options))

    def truncate(self, n: int) -> None:
        """Forgets everything from key n on, rounded down to whole segments."""
        self._index.truncate(_whole("keys", n))

    def validate(self, k: Any) -> int:
        """Forgets from the first segment on that was rewritten in the cache k; returns keys kept."""
        return self._index.validate(_core.View(k, "k"))

    def __len__(self) -> int:
        """Keys covered: a multiple of the segment."""
        return self._index.size()

    @property
    def nbytes(self) -> int:
        return self._index.bytes()

    @property
    def nodes_per_segment(self) -> int:
        """Node ids are segment * nodes_per_segment + number in the segment."""
        return self._index.nodes_per_segment()

    def level(self, node: int) -> int:
        """0: cluster, 1: group, 2: segment."""
        return self._index.level(_whole("node", node))

    def counts(self, batch: int = 0, head: int = 0) -> np.ndarray:
        """Keys of each node of a key head, int32 by node id; 0: empty."""
        return self._index.counts(_whole("batch", batch), _whole("head", head))

    def members(self, node: int, batch: int = 0, head: int = 0) -> np.ndarray:
        """Positions of the keys of a node, ascending, int32."""
        return self._index.members(_whole("batch", batch), _whole("head", head), _whole("node", node))

    def children(self, node: int, batch: int = 0, head: int = 0) -> range:
        """Ids of the nodes below a node; empty for a cluster."""
        return range(*self._index.children(_whole("batch", batch), _whole("head", head), _whole("node", node)))

    def __repr__(self) -> str:
        return f"KeyIndex(keys={len(self)}, nbytes={self.nbytes})"
