"""prescore.torch: what PyTorch asks of an operator."""
import pytest

torch = pytest.importorskip("torch")
import prescore.torch  # noqa: E402
from conftest import needs_gpu  # noqa: E402


@pytest.fixture
def qkv():
    torch.manual_seed(3)
    return [torch.randn(2, h, 80, 16) for h in (4, 2, 2)]


def sdpa(q, k, v):
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))  # 2.4 has no enable_gqa
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("method", ["dense", "routed"])
def test_opcheck(qkv, method):
    op = torch.ops.prescore.attention.default
    torch.library.opcheck(op, (*qkv, True, None, f"{{'method': '{method}'}}"))
    torch.library.opcheck(op, ([x.transpose(1, 2).contiguous().transpose(1, 2) for x in qkv][0], *qkv[1:],
                               False, 0.3, "{}"))


def test_compiled_in_one_graph(qkv):
    @torch.compile(fullgraph=True)
    def block(q, k, v):
        o, lse = prescore.torch.attention(
            q * 2, k, v, method="routed", budget=80, return_lse=True, index={"segment": 32})
        return o + 1, lse

    o, lse = block(*qkv)
    torch.testing.assert_close(o - 1, sdpa(qkv[0] * 2, *qkv[1:]), atol=2e-5, rtol=0)
    assert lse.shape == (2, 4, 80)


def test_backward_says_no(qkv):
    q = qkv[0].clone().requires_grad_()
    o = prescore.torch.attention(q, *qkv[1:])
    torch.testing.assert_close(o, sdpa(q, *qkv[1:]), atol=2e-5, rtol=0)
    with pytest.raises(NotImplementedError, match="backward of prescore"):
        o.sum().backward()


def test_errors(qkv):
    with pytest.raises(ValueError, match="axes of q"):
        prescore.torch.attention(qkv[0][0], *qkv[1:])
    with pytest.raises(TypeError, match="q, got list"):
        prescore.torch.attention([1], *qkv[1:])
    with pytest.raises(TypeError, match="bugdet"):
        prescore.torch.attention(*qkv, bugdet=3)


@needs_gpu
@pytest.mark.parametrize("method", ["dense", "routed", "hyper"])
def test_on_a_gpu_on_the_current_stream(qkv, method):
    q, k, v = (x.cuda().half() for x in qkv)
    with torch.cuda.stream(torch.cuda.Stream()):
        o, lse = prescore.attention(q, k, v, method=method, return_lse=True)
        torch.cuda.current_stream().synchronize()
    assert o.is_cuda and lse.shape == (2, 4, 80)
    torch.testing.assert_close(o, sdpa(q, k, v), atol=1e-2, rtol=0)
    with pytest.raises(ValueError, match="device of k"):
        prescore.attention(q, k.cpu(), v)


@needs_gpu
@pytest.mark.parametrize("name", ["random", "norm", "leverage"])
def test_scores_on_a_gpu_are_those_of_the_cpu(qkv, name):
    k = qkv[1].half()
    got = prescore.score(k.cuda(), name, seed=3)
    assert got.is_cuda
    torch.testing.assert_close(got.cpu(), prescore.score(k, name, seed=3), atol=1e-4, rtol=2e-3)
    with pytest.raises(ValueError, match="dtype of k"):
        prescore.score(k.cuda().float(), name)


@pytest.mark.parametrize("name", ["index", "positions", "out", "standin_share", "return_plan", "return_report"])
def test_options_that_no_graph_can_hold(qkv, name):
    value = {"index": prescore.KeyIndex(), "positions": [1, 2], "out": torch.ones(1),
             "standin_share": float("inf"), "return_plan": True, "return_report": False}[name]
    with pytest.raises(TypeError, match=rf"\[torch\] {name}"):
        prescore.torch.attention(*qkv, **{name: value})
