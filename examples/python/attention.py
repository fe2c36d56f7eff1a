"""prescore on NumPy arrays: attention with a budget, and what it read."""
import numpy as np

import prescore

rng = np.random.default_rng(0)
n, d = 4096, 64
q = rng.standard_normal((1, 8, n, d), dtype=np.float32)  # [b, h_q, n_q, d]
k = rng.standard_normal((1, 2, n, d), dtype=np.float32)  # 4 query heads share a key head
v = rng.standard_normal((1, 2, n, d), dtype=np.float32)

dense = prescore.attention(q, k, v, method="dense")
o, report = prescore.attention(q, k, v, method="routed", budget=1280, return_report=True)
share = report["keys"] / report["visible"]
print(f"routed: {report['keys'] / report['queries']:.0f} keys a query, {100 * share:.0f} % of dense, "
      f"{report['total_s'] * 1e3:.0f} ms on {report['isa']}")

everything = prescore.attention(q, k, v, method="routed", budget=n)
assert np.allclose(everything, dense, atol=1e-5)  # a budget of all keys is dense
