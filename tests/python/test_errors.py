"""Whatever is passed, the answer is a result or one sentence in a TypeError or ValueError."""
import numpy as np
import prescore
import pytest
from conftest import qkv
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

ACCEPTED = (TypeError, ValueError)
X = np.ones((1, 2, 8, 4), np.float32)


def call(*args, **kwargs):
    try:
        prescore.attention(*args, **kwargs)
    except ACCEPTED as e:
        assert "\n" not in str(e) and str(e).startswith("["), e


@pytest.mark.parametrize("arguments, error, says", [
    (dict(q=X.astype(int)), TypeError, "q dtype, got int64"),
    (dict(k=X.astype(np.float64)), TypeError, "k dtype, got float64"),
    (dict(q=[[1.0]]), TypeError, "q, got list"),
    (dict(v=None), TypeError, "v, got NoneType"),
    (dict(q=X[0]), ValueError, "axes of q, got 3"),
    (dict(q=X[..., ::2]), ValueError, "stride of the last axis, got 2"),
    (dict(q=X[:, :, ::-1]), ValueError, "none negative"),
    (dict(q=X[:, :, :0]), ValueError, "every size at least 1"),
    (dict(q=X[:, :1]), ValueError, "k shape"),
    (dict(v=X.astype(np.float16)), ValueError, "dtypes of k and v"),
    (dict(out=X[..., :2].copy()), ValueError, "o shape"),
    (dict(out=np.broadcast_to(np.float32(0), X.shape)), TypeError, "written in place"),
    (dict(method="sparse"), ValueError, "one of auto, dense"),
    (dict(method="a\nb"), ValueError, "got \"'a\\nb'\""),
    (dict(method=3), TypeError, "method, got 3"),
    (dict(bugdet=3), TypeError, "'bugdet', want one of"),
    (dict(budget=0), ValueError, "budget, got 0"),
    (dict(budget=1.5), TypeError, "a whole number"),
    (dict(budget=2**80), ValueError, "64 bits"),
    (dict(is_causal=1), TypeError, "True or False"),
    (dict(heads="dense"), TypeError, "an entry a query head"),
    (dict(heads=["dense", None, None], method="routed"), ValueError, "one a query head"),
    (dict(heads=[("window",)] * 2), TypeError, "heads[0], got ('window',), want (method, keys)"),
    (dict(heads=["hyper"] * 2, method="routed"), ValueError, "method of head 0"),
    (dict(hyper={"leafs": 1}), TypeError, "option of hyper"),
    (dict(hyper=1), TypeError, "a dict of options"),
    (dict(index=1), TypeError, "a dict of options"),
    (dict(scoring={"rotation": {"dims": 3}}, method="topk"), ValueError, "rotated elements, got 3"),
    (dict(threads=-1), ValueError, "threads"),
    (dict(scale=float("nan")), ValueError, "a finite number"),
    (dict(positions=[0] * 7), ValueError, "one a query"),
    (dict(positions=[2**40] * 8), ValueError, "positions of 32 bits"),
    (dict(positions="no"), TypeError, "one int a query"),
    (dict(positions=[2.7] * 8), TypeError, "one int a query"),
    (dict(positions=["1"] * 8), TypeError, "one int a query"),
])
def test_one_sentence(arguments, error, says):
    arguments = {"q": X, "k": X, "v": X} | arguments
    with pytest.raises(error, match=r"\[\w+\]") as caught:
        prescore.attention(**arguments)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_gradients_and_devices():
    torch = pytest.importorskip("torch")
    x = torch.ones(1, 1, 4, 4)
    with pytest.raises(TypeError, match="requires grad"):
        prescore.attention(x.clone().requires_grad_(), x, x)
    with pytest.raises(TypeError, match="q"):
        prescore.attention(torch.ones(1, 1, 4, 4, device="meta"), x, x)


def test_index_and_score_errors(rng):
    _, k, v = qkv(rng, 600)
    index = prescore.KeyIndex()
    with pytest.raises(prescore.Error):
        index.members(0)
    index.extend(k, v)
    for wrong in (lambda: index.members(10**9), lambda: index.counts(5), lambda: index.level(-1),
                  lambda: index.truncate(-1), lambda: index.extend(k[:, :1], v[:, :1]),
                  lambda: prescore.KeyIndex(segment=0), lambda: prescore.score(k, "best"),
                  lambda: prescore.score(k, "received"), lambda: prescore.score(k, n=601)):
        with pytest.raises(prescore.Error):
            wrong()
    with pytest.raises(TypeError):
        prescore.KeyIndex(segments=3)


DTYPES = st.sampled_from(["f4", "f2", ">f4", "f8", "i4", "?", "c8", "U3", "O", "M8[s]"])
SHAPES = st.lists(st.integers(0, 5), max_size=5).map(tuple)


@st.composite
def odd_arrays(draw):
    """Arrays of any dtype, rank, size and stride, and things that are no arrays."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([None, 3, "x", [1.0], memoryview(b"abcd"), np.float32(1), object()]))
    usual = draw(st.booleans())
    shape = draw(st.tuples(st.integers(1, 2), st.sampled_from([1, 2, 4]), st.integers(1, 40), st.just(4))
                 if usual else SHAPES)
    x = np.zeros(shape, np.dtype("f4" if usual else draw(DTYPES)))
    if x.ndim and draw(st.booleans()):
        axis = draw(st.integers(0, x.ndim - 1))
        step = draw(st.sampled_from([1, 2, -1]))
        x = x[(slice(None),) * axis + (slice(None, None, step),)]
        if draw(st.booleans()):
            x = x.swapaxes(0, x.ndim - 1) if not usual else np.broadcast_to(x[:1], x.shape)
    return x


@settings(max_examples=300, deadline=None)
@given(odd_arrays(), odd_arrays(), odd_arrays(), st.sampled_from(["auto", "routed", "topk", "hyper"]))
def test_any_arrays(q, k, v, method):
    call(q, k, v, method=method)


@settings(max_examples=200, deadline=None)
@given(odd_arrays(), odd_arrays(), odd_arrays(), odd_arrays(), st.sampled_from(["norm", "kmeans", "leverage", "x"]),
       st.one_of(st.none(), st.integers(-2, 50), st.floats()))
def test_any_arrays_elsewhere(a, b, c, d, name, n):
    index = prescore.KeyIndex(segment=16, group=16)
    for work in (lambda: prescore.score(a, name, n=n), lambda: prescore.merge(a, b, c, d),
                 lambda: prescore.plan(a, b, index=index), lambda: prescore.workspace_bytes(a, b, c),
                 lambda: index.extend(a, b), lambda: index.validate(a), lambda: index.truncate(n),
                 lambda: index.members(n, head=n), lambda: index.counts(n), lambda: index.level(n),
                 lambda: prescore.attention(a, b, c, out=d), lambda: prescore.attention(a, b, c, positions=d),
                 lambda: prescore.attention(a, b, c, index=d)):
        try:
            work()
        except ACCEPTED as e:
            assert "\n" not in str(e), e


VALUES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
                   st.sampled_from(["routed", "dense", "topk", "tile", "strict", "nodes", "\udc80"]),
                   st.dictionaries(st.text(max_size=8), st.integers(), max_size=2))


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(prescore.OPTION_NAMES["attention"]) | st.text(max_size=5), VALUES,
                       max_size=3))
def test_any_options(options):
    for name in ("q", "k", "v", "stream", "positions", "out"):
        options.pop(name, None)
    if isinstance(options.get("threads"), int):
        options["threads"] %= 8
    call(X, X, X, **options)
    try:
        prescore.plan(X, X, **options)
    except ACCEPTED:
        pass


@settings(max_examples=100, deadline=None)
@given(arrays.arrays(np.float32, (1, 2, 80, 4), elements=st.floats(width=32)), st.sampled_from(["routed", "topk"]))
def test_any_numbers(x, method):
    o = prescore.attention(x, x, x, method=method, budget=64, window=8, index={"segment": 16, "group": 16})
    assert o.shape == x.shape
