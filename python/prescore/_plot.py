"""The picture of a plan. matplotlib is imported here, so only where one is drawn."""
from __future__ import annotations

from typing import Any


def draw(plan: Any, head: int, batch: int, ax: Any, size: int) -> Any:
    if ax is None:
        import matplotlib.pyplot as plt

        _, ax = plt.subplots(figsize=(6, 6), layout="constrained")
    _, _, n_q, n_kv = plan.shape
    cells = plan._plan.picture(batch, head, min(n_q, size), min(n_kv, size))
    # Few keys in a block are still keys: the root lifts them off the white.
    ax.imshow(cells**0.5, cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest",
              extent=(0, n_kv, n_q, 0))
    mean = plan.keys_per_query()[batch, head].mean()
    ax.set(xlabel="key", ylabel="query", title=f"{plan.method}, head {head}: {mean:.0f} keys a query")
    return ax
