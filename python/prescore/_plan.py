"""Plan: which keys each query reads."""
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Iterator

from . import _core

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Tile:
    """Queries that read the same keys, and what they read. Ranges, keys and the keys behind nodes
    are disjoint."""

    batch: int
    part: int  #: hyper: disjoint sets of keys are read one after the other
    queries: np.ndarray  #: [m, 2] int32: (query head, query) pairs
    ranges: list[tuple[int, int]]  #: keys [begin, end), each query clipped to what it sees
    keys: np.ndarray  #: int32: single keys
    log_weights: np.ndarray | None  #: float32, natural logarithm, one a key; None: all 0
    nodes: np.ndarray  #: int32: nodes of the index that stand in for their keys


class Plan:
    """What a call of attention reads. From `attention(..., return_plan=True)` or `plan(...)`.

    A sequence of tiles. Heads are query heads; queries count from 0 within the call.
    """

    def __init__(self, plan: Any):
        if not isinstance(plan, _core.Plan):
            raise TypeError(f"[python] plan, got {plan!r}, want one of prescore.plan")
        self._plan = plan

    @property
    def method(self) -> str:
        """The method taken: what auto chose."""
        return self._plan.method

    @property
    def reason(self) -> str:
        return self._plan.reason

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(b, h_q, n_q, n_kv)"""
        b, h_q, _, n_q, n_kv = self._plan.shape
        return b, h_q, n_q, n_kv

    def __len__(self) -> int:
        return len(self._plan)

    def __getitem__(self, tile: int) -> Tile:
        if not 0 <= tile < len(self):
            raise IndexError(f"[python] tile, got {tile}, want 0 to {len(self) - 1}")
        return Tile(**self._plan.tile(tile))

    def __iter__(self) -> Iterator[Tile]:
        return (self[i] for i in range(len(self)))

    def keys(self, query: int, head: int = 0, batch: int = 0) -> np.ndarray:
        """Positions of the keys that a query reads, ascending, int32."""
        return self._plan.keys(batch, head, query)

    def nodes(self, query: int, head: int = 0, batch: int = 0) -> np.ndarray:
        """Nodes of the index that stand in for unread keys, int32."""
        return self._plan.nodes(batch, head, query)

    def members(self, node: int, head: int = 0, batch: int = 0) -> np.ndarray:
        """Positions of the keys behind a node, ascending, int32."""
        return self._plan.members(batch, head, node)

    def keys_per_query(self) -> np.ndarray:
        """Keys read, int64 [b, h_q, n_q]; stand-ins are not counted."""
        return self._plan.keys_per_query()

    def standins_per_query(self) -> np.ndarray:
        """Stand-ins read, int64 [b, h_q, n_q]."""
        return self._plan.standins_per_query()

    def mass(self, q: Any, k: Any, *, threads: int = 0) -> np.ndarray:
        """Share of each query's attention that falls on the keys it reads, float32 [b, h_q, n_q].

        q, k: those that the plan was made for, on the CPU. Stand-ins and weights do not count. Takes as long
        as dense attention. Raises Error for other shapes.
        """
        return self._plan.mass(_core.View(q, "q"), _core.View(k, "k"), threads)

    def plot(self, head: int = 0, batch: int = 0, *, ax: Any = None, size: int = 512) -> Any:
        """Draws queries (down) against keys (across), darker where more is read, into a matplotlib
        Axes, which it returns. `size`: most pixels a side."""
        from ._plot import draw

        return draw(self, head, batch, ax, size)

    def __repr__(self) -> str:
        b, h, n_q, n_kv = self.shape
        return (
            f"Plan({self.method}, {len(self)} tiles, b={b}, h_q={h}, n_q={n_q}, n_kv={n_kv}, "
            f"{self.keys_per_query().mean():.0f} keys a query)"
        )
