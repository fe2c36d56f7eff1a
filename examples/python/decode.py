"""A cache that grows: an index beside it reads each key once, and every step looks it up."""
import numpy as np

import prescore

rng = np.random.default_rng(0)
n, steps, d = 4096, 32, 64
k = rng.standard_normal((1, 2, n + steps, d), dtype=np.float32)
v = rng.standard_normal((1, 2, n + steps, d), dtype=np.float32)

index = prescore.KeyIndex()
index.extend(k[:, :, :n], v[:, :, :n])  # the prompt
print(index)

for length in range(n + 1, n + steps + 1):
    q = rng.standard_normal((1, 8, 1, d), dtype=np.float32)
    o = prescore.attention(q, k[:, :, :length], v[:, :, :length], index=index,
                           method="routed", routing="strict", budget=1024)
assert o.shape == (1, 8, 1, d)
print(f"{steps} steps over {length} keys, {len(index)} of them in the index")
