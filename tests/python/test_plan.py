"""Plans and indexes as Python shows them: what the library promises can be checked from here."""
import numpy as np
import prescore
import pytest
from conftest import qkv, reference

SMALL = dict(budget=300, window=32, tile=32, index={"segment": 64})


@pytest.mark.parametrize("method", ["dense", "window", "routed", "topk", "hyper"])
def test_a_plan_says_what_attention_reads(rng, method):
    q, k, v = qkv(rng, 700)
    options = dict(SMALL, method=method, standins="none", scoring={"segment": 64}, hyper={"samples": 0})
    o, plan = prescore.attention(q, k, v, return_plan=True, **options)
    b, h, n, n_kv = plan.shape
    assert (b, h, n, n_kv) == (2, 4, 700, 700) and plan.method == method
    counts = plan.keys_per_query()
    seen = np.zeros((b, h, n, n_kv), bool)
    for ib, ih, i in np.ndindex(b, h, n):
        keys = plan.keys(i, ih, ib)
        assert len(np.unique(keys)) == len(keys) == counts[ib, ih, i]  # exactly once
        assert len(keys) == 0 or keys[-1] <= i  # causal
        seen[ib, ih, i, keys] = True
    if method != "dense":
        assert counts.max() <= SMALL["budget"]
    np.testing.assert_allclose(o, reference(q, k, v, seen)[0], atol=2e-5)


def test_tiles_and_standins(rng):
    q, k, v = qkv(rng, 700)
    plan = prescore.plan(q, k, method="routed", standins="nodes", **SMALL)
    served = np.zeros(plan.shape[:3], int)
    for tile in plan:
        np.add.at(served, (tile.batch, tile.queries[:, 0], tile.queries[:, 1]), 1)
    assert (served == 1).all()
    # Far keys are read, or stand behind one node that is read: all of those before the window.
    keys, behind = plan.keys(699, 1, 1), [plan.members(x, 1, 1) for x in plan.nodes(699, 1, 1)]
    everything = np.concatenate([keys, *behind])
    assert len(np.unique(everything)) == len(everything) == 700
    assert plan.standins_per_query()[1, 1, 699] == len(behind)
    assert "routed" in repr(plan)
    with pytest.raises(IndexError):
        plan[len(plan)]
    with pytest.raises(prescore.Error):
        plan.keys(700)


def test_plot(rng, tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    q, k, _ = qkv(rng, 300)
    ax = prescore.plan(q, k, method="window", budget=64).plot(head=3, size=100)
    ax.figure.savefig(tmp_path / "plan.png")
    assert (tmp_path / "plan.png").stat().st_size > 1000


def test_index_in_steps_is_the_index_at_once(rng):
    q, k, v = qkv(rng, 700)
    steps, once = (prescore.KeyIndex(segment=64, cluster=4) for _ in range(2))
    for n in (10, 64, 300, 700):
        steps.extend(k[:, :, :n], v[:, :, :n])
    once.extend(k, v)
    assert len(steps) == len(once) == 640 and once.nbytes > 0
    np.testing.assert_array_equal(steps.counts(1, 1), once.counts(1, 1))
    segment = once.nodes_per_segment - 1
    assert once.level(segment) == 2 and once.level(0) == 0
    below = np.concatenate([once.members(x) for x in once.children(segment)])
    np.testing.assert_array_equal(np.sort(below), once.members(segment))
    assert len(once.children(0)) == 0
    assert once.validate(k) == 640
    once.truncate(100)
    assert len(once) == 64


def test_decoding_with_an_index_is_one_call(rng):
    q, k, v = qkv(rng, 700)
    options = dict(method="routed", budget=200, window=32, routing="strict")
    want = prescore.attention(q, k, v, index=prescore.KeyIndex(segment=64), **options)
    index = prescore.KeyIndex(segment=64)
    for n in range(690, 701):
        o = prescore.attention(q[:, :, n - 1 : n], k[:, :, :n], v[:, :, :n], index=index, **options)
        np.testing.assert_array_equal(o, want[:, :, n - 1 : n])


@pytest.mark.parametrize("method, causal", [("window", True), ("routed", True), ("topk", False), ("hyper", True),
                                            ("prescored_hyper", True), ("dense", False)])
def test_mass_is_the_softmax_of_the_keys_read(rng, method, causal):
    q, k = (rng.standard_normal((2, h, n, 16), dtype=np.float32) for h, n in ((4, 130), (2, 1100)))
    plan = prescore.plan(q, k, method=method, budget=256, is_causal=causal)
    mass = plan.mass(q, k)
    assert mass.shape == (2, 4, 130) and mass.dtype == np.float32
    for batch, head, query in ((0, 0, 0), (1, 3, 64), (0, 2, 129)):
        scores = (k[batch, head // 2].astype(np.float64) @ q[batch, head, query]) / 4
        weights = np.exp(scores - scores.max())
        if causal:
            weights[1100 - 130 + query + 1 :] = 0
        want = weights[np.unique(plan.keys(query, head, batch))].sum() / weights.sum()
        assert abs(mass[batch, head, query] - want) < 1e-4
    if method == "dense":
        assert (mass > 0.9999).all()
    with pytest.raises(prescore.Error, match="shapes of q and k"):
        plan.mass(q[:, :, 1:], k)


def test_an_index_plans_and_decodes(rng):
    k, v = (rng.standard_normal((1, 2, 2000, 16), dtype=np.float32) for _ in range(2))
    q = rng.standard_normal((1, 4, 3, 16), dtype=np.float32)
    index = prescore.KeyIndex()
    index.append(k, v)
    assert len(index) == 1536
    plan = index.plan(q, k, budget=256, routing="strict")
    assert plan.method == "routed" and plan.keys_per_query().max() <= 256
    want = prescore.attention(q, k, v, method="routed", routing="strict", budget=256)
    assert np.array_equal(index.decode(q, k, v, budget=256), want)
