"""Data and the oracle that the tests share."""
import numpy as np
import prescore
import pytest


def needs_gpu(test):
    """A test on PyTorch's tensors on a GPU."""
    import torch

    missing = not (torch.cuda.is_available() and prescore.gpus())
    return pytest.mark.gpu(pytest.mark.skipif(missing, reason="no GPU, or a build without CUDA")(test))


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def qkv(rng, n_q=96, n_kv=None, b=2, h_q=4, h_kv=2, d=16, d_v=None, dtype=np.float32):
    """Keys in loose clusters, so that some matter more than others."""
    n_kv, d_v = n_kv or n_q, d_v or d
    centres = rng.standard_normal((8, d))
    k = centres[rng.integers(8, size=(b, h_kv, n_kv))] + 0.3 * rng.standard_normal((b, h_kv, n_kv, d))
    q = rng.standard_normal((b, h_q, n_q, d))
    v = rng.standard_normal((b, h_kv, n_kv, d_v))
    return tuple(x.astype(dtype) for x in (q, k, v))


def reference(q, k, v, seen=None, scale=None):
    """Attention in float64; seen: bool [n_q, n_kv], None: causal, aligned bottom right. (o, lse)"""
    q, k, v = (np.asarray(x, dtype=np.float64) for x in (q, k, v))
    n_q, n_kv = q.shape[2], k.shape[2]
    group = q.shape[1] // k.shape[1]
    k, v = np.repeat(k, group, 1), np.repeat(v, group, 1)
    if seen is None:
        seen = np.tri(n_q, n_kv, n_kv - n_q, dtype=bool)
    s = q @ k.swapaxes(-1, -2) * (scale or q.shape[3] ** -0.5)
    s = np.where(seen, s, -np.inf)
    lse = np.logaddexp.reduce(s, -1)
    return np.nan_to_num(np.exp(s - lse[..., None])) @ v, lse
