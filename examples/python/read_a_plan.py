"""What does a query read? Keys, ranges and stand-ins of a plan, and its picture."""
import numpy as np

import prescore

rng = np.random.default_rng(0)
topics = 3 * rng.standard_normal((12, 64))
topic = topics[rng.integers(12, size=16)].repeat(256, 0)  # 4,096 positions, a topic each 256
q, k = ((topic + rng.standard_normal(topic.shape))[None, None].astype(np.float32) for _ in range(2))

plan = prescore.plan(q, k, method="routed", budget=1024)
print(plan)
last = plan.shape[2] - 1
keys, nodes = plan.keys(last), plan.nodes(last)
print(f"query {last} reads {len(keys)} keys; {len(nodes)} nodes stand in for others")
tile = plan[0]
print(f"a tile of {len(tile.queries)} queries: ranges {tile.ranges} and {len(tile.keys)} single keys")

try:
    plan.plot().figure.savefig("plan.png")
except ImportError:
    print("no matplotlib, no picture")
