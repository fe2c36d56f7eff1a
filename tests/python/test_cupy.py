"""prescore on CuPy's arrays: results are CuPy's, on its current stream, and those of the CPU."""
import numpy as np
import prescore
import pytest
from conftest import qkv, reference

cupy = pytest.importorskip("cupy")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not prescore.gpus(), reason="no GPU, or a build without CUDA"),
]


@pytest.fixture
def arrays(rng):
    host = qkv(rng, 700, d=64, dtype=np.float16)
    return host, [cupy.asarray(x) for x in host]


@pytest.mark.parametrize("causal", [True, False])
def test_dense_is_the_oracle(arrays, causal):
    host, device = arrays
    with cupy.cuda.Stream(non_blocking=True) as stream:
        o, lse = prescore.attention(*device, method="dense", is_causal=causal, return_lse=True)
        stream.synchronize()
    assert isinstance(o, cupy.ndarray) and isinstance(lse, cupy.ndarray) and o.dtype == np.float16
    want, want_lse = reference(*host) if causal else reference(*host, True)
    np.testing.assert_allclose(o.get().astype(np.float64), want, atol=1e-2)
    np.testing.assert_allclose(lse.get(), want_lse, atol=1e-2)


@pytest.mark.parametrize("method", ["auto", "routed", "window", "topk"])
def test_a_budget_of_all_keys_is_dense(arrays, method):
    host, device = arrays
    o = prescore.attention(*device, method=method, budget=700, score="norm")
    np.testing.assert_allclose(o.get().astype(np.float64), reference(*host)[0], atol=1e-2)


def test_out_scores_and_merge(arrays):
    host, (q, k, v) = arrays
    out = cupy.zeros_like(q)
    assert prescore.attention(q, k, v, method="dense", out=out) is out
    parts = [prescore.attention(q, k[:, :, s], v[:, :, s], is_causal=False, return_lse=True)
             for s in (slice(0, 300), slice(300, 700))]
    o, _ = prescore.merge(*parts[0], *parts[1])
    np.testing.assert_allclose(o.get().astype(np.float64), reference(*host, True)[0], atol=1e-2)
    got = prescore.score(k, "leverage")
    assert isinstance(got, cupy.ndarray)
    np.testing.assert_allclose(got.get(), prescore.score(host[1], "leverage"), rtol=1e-3, atol=1e-5)


def test_arrays_of_two_places_are_refused(arrays):
    host, (q, k, _) = arrays
    with pytest.raises((TypeError, ValueError)):
        prescore.attention(q, k, host[2])
