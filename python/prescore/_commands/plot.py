"""Draws what a method reads: queries down, keys across.

Of keys and queries from .npy files [b, h, n, d], or of made-up ones: clusters that come and go. Needs
matplotlib.
"""
from __future__ import annotations

from . import print_row


def add_arguments(parser):
    parser.add_argument("--out", default="plan.png", help="a file that matplotlib can write")
    parser.add_argument("--q", help="a .npy file [b, h_q, n_q, d]")
    parser.add_argument("--k", help="a .npy file [b, h_kv, n_kv, d]")
    parser.add_argument("--n", type=int, default=8192, help="keys of the made-up data")
    parser.add_argument("--method", default="routed")
    parser.add_argument("--budget", type=int, default=1280)
    parser.add_argument("--head", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)


def run(given) -> int:
    import matplotlib
    import numpy as np

    from .. import plan

    matplotlib.use("Agg")
    if bool(given.q) != bool(given.k):
        raise ValueError("[plot] --q and --k, got one, want both or none")
    q, k = (np.load(given.q), np.load(given.k)) if given.q else _made_up(given.n, given.seed)
    p = plan(q, k, method=given.method, budget=given.budget)
    p.plot(given.head).figure.savefig(given.out, dpi=120)
    print_row(command="plot", out=given.out, method=p.method, reason=p.reason, tiles=len(p),
              keys_per_query=float(p.keys_per_query().mean()),
              standins_per_query=float(p.standins_per_query().mean()))
    return 0


def _made_up(n: int, seed: int):
    """One head whose queries look for the topic of their place, which earlier places share."""
    import numpy as np

    rng = np.random.default_rng(seed)
    topics = 3 * rng.standard_normal((12, 64))
    topic = topics[rng.integers(12, size=n // 256 + 1)].repeat(256, 0)[:n]
    q, k = (topic + rng.standard_normal((n, 64)) for _ in range(2))
    return q[None, None].astype(np.float32), k[None, None].astype(np.float32)
