"""prescore.attention on arrays of NumPy and PyTorch against float64."""
import subprocess
import sys
import threading

import numpy as np
import prescore
import pytest
from conftest import qkv, reference

ml_dtypes = pytest.importorskip("ml_dtypes")
METHODS = ["auto", "dense", "routed", "window", "topk", "hyper", "prescored_hyper"]
TOLERANCE = {np.dtype("float32"): 2e-5, np.dtype("float16"): 1e-2, np.dtype(ml_dtypes.bfloat16): 4e-2}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("n_q, n_kv, d, d_v", [(1, 1, 8, 8), (96, 96, 16, 24), (5, 700, 33, 64), (70, 70, 1, 1)])
def test_dense_is_the_oracle(rng, dtype, n_q, n_kv, d, d_v):
    q, k, v = qkv(rng, n_q, n_kv, d=d, d_v=d_v, dtype=dtype)
    o, lse = prescore.attention(q, k, v, method="dense", return_lse=True)
    want, want_lse = reference(q, k, v)
    assert o.dtype == dtype and lse.dtype == np.float32
    np.testing.assert_allclose(o.astype(np.float64), want, atol=TOLERANCE[dtype])
    np.testing.assert_allclose(lse, want_lse, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("method", METHODS)
def test_a_budget_of_all_keys_is_dense(rng, method):
    q, k, v = qkv(rng, 600)
    o = prescore.attention(q, k, v, method=method, budget=600)
    np.testing.assert_allclose(o, reference(q, k, v)[0], atol=2e-5)


def test_not_causal_scale_and_positions(rng):
    q, k, v = qkv(rng, 40, 90)
    o = prescore.attention(q, k, v, is_causal=False, scale=0.5)
    np.testing.assert_allclose(o, reference(q, k, v, True, 0.5)[0], atol=2e-5)
    positions = np.minimum(np.arange(40), 20)
    seen = np.arange(90) <= positions[:, None]
    o = prescore.attention(q, k, v, positions=positions)
    np.testing.assert_allclose(o, reference(q, k, v, seen)[0], atol=2e-5)


def test_strides_without_copies(rng):
    q, k, v = qkv(rng, 64)
    want = prescore.attention(q, k, v)
    cut = np.concatenate([q, q], -1)[..., : q.shape[-1]]
    swapped = np.ascontiguousarray(k.swapaxes(1, 2)).swapaxes(1, 2)
    one = np.broadcast_to(v[:, :1], v.shape)
    np.testing.assert_array_equal(prescore.attention(cut, swapped, v), want)
    np.testing.assert_array_equal(
        prescore.attention(q, k, one), prescore.attention(q, k, np.ascontiguousarray(one)))
    read_only = k.copy()
    read_only.flags.writeable = False
    np.testing.assert_array_equal(prescore.attention(q, read_only, v), want)


def test_out_is_written_in_place(rng):
    q, k, v = qkv(rng, 64)
    out = np.zeros((2, 64, 4, 16), np.float16).swapaxes(1, 2)
    assert prescore.attention(q, k, v, out=out) is out
    np.testing.assert_allclose(out, reference(q, k, v)[0], atol=2e-3)


def test_results_are_allocated_without_reading_the_argument():
    class OnAnotherDevice:
        dtype = np.dtype("float16")

        def __array__(self, *_, **__):
            raise TypeError("no implicit copy")

    assert prescore._arrays.empty((2, 3), OnAnotherDevice()).dtype == np.float16


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_torch(rng, dtype):
    torch = pytest.importorskip("torch")
    q, k, v = (torch.from_numpy(x).to(getattr(torch, dtype)) for x in qkv(rng, 64))
    o, lse = prescore.attention(q, k, v, return_lse=True)
    assert isinstance(o, torch.Tensor) and o.dtype == q.dtype and lse.dtype == torch.float32
    want = reference(*(x.double().numpy() for x in (q, k, v)))[0]
    torch.testing.assert_close(o.double(), torch.from_numpy(want), atol=3e-2, rtol=0)


def test_merge_of_parts_is_the_whole(rng):
    q, k, v = qkv(rng, 64, 128)
    parts = [prescore.attention(q, k[:, :, s], v[:, :, s], is_causal=False, return_lse=True)
             for s in (slice(0, 50), slice(50, 128))]
    o, lse = prescore.merge(*parts[0], *parts[1])
    want, want_lse = reference(q, k, v, True)
    np.testing.assert_allclose(o, want, atol=2e-5)
    np.testing.assert_allclose(lse, want_lse, atol=2e-5)


@pytest.mark.parametrize("name", ["norm", "leverage", "kmeans", "kmedian", "kernel_kmeans", "keydiff",
                                  "gaussian_norm", "universal", "random"])
def test_scores(rng, name):
    _, k, _ = qkv(rng, 300)
    s = prescore.score(k, name, n=200, seed=3)
    assert s.shape == (2, 2, 200) and s.dtype == np.float32 and np.isfinite(s).all()
    np.testing.assert_array_equal(s, prescore.score(k, name, n=200, seed=3, threads=1))
    if name == "norm":
        np.testing.assert_allclose(s, np.linalg.norm(k[:, :, :200], axis=-1), rtol=1e-5)


def test_budgets_by_head(rng):
    q, k, v = qkv(rng, 1500)
    heads = [None, "dense", 800, ("window", 100)]
    o, report = prescore.attention(q, k, v, method="routed", budget=700, heads=heads, return_report=True)
    assert "3 of 4 heads have budgets of their own" in report["reason"]
    for head, like in enumerate([dict(method="routed", budget=700), dict(method="dense"),
                                 dict(method="routed", budget=800, heads_together=False),
                                 dict(method="window", budget=100)]):
        if head == 0:  # chooses alone: heads of a key head choose together where their budgets agree
            like["heads_together"] = False
        want = prescore.attention(q, k, v, **like)
        np.testing.assert_allclose(o[:, head], want[:, head], atol=1e-5)
    plan = prescore.plan(q, k, method="routed", budget=700, heads=heads)
    assert (plan.keys_per_query()[:, 1] == np.arange(1, 1501)).all()


def test_certificate(rng):
    q, k, v = qkv(rng, 1500)
    q *= 4  # peaked, so that something is missed
    o, report = prescore.attention(q, k, v, method="routed", budget=700, certify=32, return_report=True)
    heads = report["heads"]
    assert len(heads) == 4 and all(0 < h["mass"] <= 1 and h["queries"] == 128 for h in heads)
    np.testing.assert_array_equal(o, prescore.attention(q, k, v, method="routed", budget=700))
    o, report = prescore.attention(q, k, v, method="routed", budget=700, certify=32, min_recall=1.0,
                                   return_report=True)
    redone = [h["redone"] for h in report["heads"]]
    assert redone == [h["mass"] < 1 for h in report["heads"]]
    want = reference(q, k, v)[0]
    np.testing.assert_allclose(o[:, redone], want[:, redone], atol=2e-4)


def test_report_and_workspace(rng):
    q, k, v = qkv(rng, 1200)
    _, report = prescore.attention(q, k, v, method="routed", budget=800, return_report=True)
    assert report["method"] == "routed" and report["queries"] == 2 * 4 * 1200
    assert report["keys"] < report["visible"] and report["total_s"] > 0
    assert prescore.workspace_bytes(q, k, v, method="routed") > 0
    assert prescore.isa("float32") in ("amx-bf16", "avx512-bf16", "avx512", "avx2", "neon", "scalar")


def test_two_threads_at_once(rng):
    q, k, v = qkv(rng, 700)
    want = prescore.attention(q, k, v, method="routed", budget=400)
    index, results = prescore.KeyIndex(), []

    def work():
        for _ in range(5):
            results.append(prescore.attention(q, k, v, method="routed", budget=400, index=index))

    threads = [threading.Thread(target=work) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 10
    for o in results:
        np.testing.assert_array_equal(o, want)


def test_the_gil_is_released(rng):
    q, k, v = qkv(rng, 6000, b=1)
    ticks = []
    done = threading.Event()

    def tick():
        while not done.wait(0.001):
            ticks.append(1)

    thread = threading.Thread(target=tick)
    thread.start()
    prescore.attention(q, k, v, method="dense", threads=1)
    done.set()
    thread.join()
    assert len(ticks) > 5


INTERRUPTED = """
import _thread, threading, time, numpy as np, prescore
x = np.zeros((1, 16, 40000, 64), np.float32)
threading.Timer(0.5, _thread.interrupt_main).start()
begin = time.monotonic()
try:
    prescore.attention(x, x, x, method="dense")
except KeyboardInterrupt:
    print("interrupted", time.monotonic() - begin < 10)
"""


def test_keyboard_interrupt_ends_a_long_call():
    run = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "interrupted True", run.stderr


def test_import_is_quick_and_without_torch():
    code = "import numpy, time, sys; t = time.perf_counter(); import prescore; " \
           "print(time.perf_counter() - t, [m for m in ('torch', 'jax', 'matplotlib') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, modules = run.stdout.split(" ", 1)
    assert modules.strip() == "[]"
    assert float(seconds) < 5  # a hang, not a time: those are measured in docs/python.md
