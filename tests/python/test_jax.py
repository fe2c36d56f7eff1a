"""prescore on JAX's arrays: read in place, results are JAX's."""
import numpy as np
import prescore
import pytest
from conftest import qkv, reference

jax = pytest.importorskip("jax")
jnp = jax.numpy


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dense_is_the_oracle(rng, dtype):
    q, k, v = (jnp.asarray(x).astype(dtype) for x in qkv(rng, 96))
    o, lse = prescore.attention(q, k, v, method="dense", return_lse=True)
    assert isinstance(o, jax.Array) and isinstance(lse, jax.Array) and o.dtype == dtype
    want, want_lse = reference(*(np.asarray(x, np.float64) for x in (q, k, v)))
    np.testing.assert_allclose(np.asarray(o, np.float64), want, atol=4e-2)
    np.testing.assert_allclose(lse, want_lse, atol=4e-2)


def test_scores_and_an_index(rng):
    q, k, v = (jnp.asarray(x) for x in qkv(rng, 1500))
    assert isinstance(prescore.score(k, "norm"), jax.Array)
    index = prescore.KeyIndex()
    o = prescore.attention(q, k, v, method="routed", budget=1500, index=index)
    np.testing.assert_allclose(o, reference(q, k, v)[0], atol=2e-5)


def test_an_array_of_jax_cannot_be_written(rng):
    q, k, v = (jnp.asarray(x) for x in qkv(rng, 32))
    with pytest.raises((TypeError, ValueError)):
        prescore.attention(q, k, v, out=q)
