"""bench/heads_cuda.py without a GPU: its notation of plans, its reading of a tiny model by masks, its pictures."""
import math
import pathlib
import sys
import types
import xml.etree.ElementTree

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("gguf")
pytest.importorskip("tokenizers")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench"))
import heads_cuda  # noqa: E402
from gguf_model import GgufModel  # noqa: E402
from head_map import head_maps  # noqa: E402

LAYERS, HEADS, KV_HEADS, WIDTH, WORDS = 3, 4, 2, 64, 50


def plan(text):
    return heads_cuda.parse_plan(text, LAYERS, HEADS)


def test_plans_are_read_from_left_to_right():
    r, w, d, s = ("R", 1024), ("W", 512), ("D", 0), ("S", 8192)
    assert plan("R1024") == [[r] * 4] * 3
    assert plan("R1024 1-2=W512 0.3,1.1-2=D 2.0=S8192") == [[r, r, r, d], [w, d, d, w], [s, w, w, w]]
    assert plan("D 0,2=W512")[1] == [d] * 4 and plan("D 0,2=W512")[2] == [w] * 4


@pytest.mark.parametrize("text", ["X8", "R", "R0", "Rx", "D8", "R8 3=D", "R8 0.4=D", "R8 2-1=D", "R8 a=D", "R8 0", "R8 0.=D"])
def test_what_is_no_plan_is_one_sentence(text):
    with pytest.raises(ValueError, match="^plan, got .*, want "):
        plan(text)


def call(text):
    return heads_cuda.call_of([heads_cuda.need(x) for x in text.split()], 2)


def test_a_layer_is_one_call():
    assert call("R8 R8 W4 D") == ([("routed", 8), ("routed", 8), ("window", 4), ("dense", 0)],
                                  {"budget": 8, "heads_together": 1})
    assert call("S16 S8 S8 D")[1] == {"budget": 8, "heads_together": 0}
    assert call("R8 S16 R8 S64")[1] == {"budget": 8, "heads_together": 1}
    assert call("H8 H8 W4 D")[1] == {"budget": 8, "heads_together": 0, "tile": 16}
    assert call("W4 W4 W4 W4")[1]["heads_together"] == 0


@pytest.mark.parametrize("text", ["H8 R8 D D", "H8 S8 D D", "R8 S8 D D", "R8 S4 D D", "R8 R16 D D", "R8 R8 S16 S16"])
def test_what_one_call_cannot_mix_is_refused(text):
    with pytest.raises(ValueError, match="^plan, got "):
        call(text)


def by_mask(q, k, v, needs, strict):
    """Dense and window, four sinks; routed is a window here."""
    n, keys = q.shape[1], k.shape[1]
    at, key = torch.arange(keys - n, keys)[:, None], torch.arange(keys)[None]
    k, v = (x.repeat_interleave(len(q) // len(k), 0).float() for x in (k, v))
    out = torch.empty_like(q)
    for h, (letter, size) in enumerate(needs):
        seen = (key <= at) & ((key < 4) | (key > at - size + 4) if letter != "D" else True)
        logits = (q[h].float() @ k[h].T / math.sqrt(q.shape[2])).masked_fill(~seen, -math.inf)
        out[h] = (logits.softmax(-1) @ v[h]).to(q.dtype)
    return out


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    m = GgufModel.__new__(GgufModel)
    vars(m).update(arch="qwen2", layers=LAYERS, heads=HEADS, kv_heads=KV_HEADS, width=WIDTH, head_dim=WIDTH // HEADS,
                   context=512, rope_base=1e4, eps=1e-6, device="cpu")
    matrix = lambda *shape: (torch.randn(*shape) * 2 / math.sqrt(shape[-1])).bfloat16()
    m.weights = {"token_embd.weight": matrix(WORDS, WIDTH) * 4, "output_norm.weight": torch.ones(WIDTH).bfloat16()}
    for i in range(LAYERS):
        for name, rows, columns in (("attn_q", WIDTH, WIDTH), ("attn_k", WIDTH // 2, WIDTH), ("attn_v", WIDTH // 2, WIDTH),
                                    ("attn_output", WIDTH, WIDTH), ("ffn_gate", 96, WIDTH), ("ffn_up", 96, WIDTH),
                                    ("ffn_down", WIDTH, 96)):
            m.weights[f"blk.{i}.{name}.weight"] = matrix(rows, columns)
        for name in ("attn_norm", "ffn_norm"):
            m.weights[f"blk.{i}.{name}.weight"] = torch.ones(WIDTH).bfloat16()
    return m


@pytest.fixture(scope="module")
def reading(model):
    ids = torch.randint(WORDS, (200,), generator=torch.Generator().manual_seed(1))
    return heads_cuda.Reading(model, ids, 64, attend=by_mask)


def test_dense_reading_is_that_of_the_whole_text(model, reading):
    dense = [("D", 0)] * HEADS
    hidden = model.hidden(reading.ids, lambda q, k, v: by_mask(q[0], k[0], v[0], dense, False)[None])
    expected = model.losses(hidden[136:-1], reading.ids[137:])[0]
    losses = reading.losses(plan("D"), [None, plan("D")])
    assert losses.shape == (2, 63)
    assert torch.equal(losses[0], losses[1])
    assert (losses[0] - expected).abs().mean() < 0.1 * expected.mean()  # states in bf16 there


def test_prompt_and_tail_have_plans_of_their_own(reading):
    dense = reading.losses(plan("D"), [None])[0]
    production, strict = reading.losses(plan("W16"), [None, plan("W16")])
    tail = reading.losses(plan("D"), [plan("W16")])[0]
    for a, b in ((dense, production), (production, strict), (dense, tail), (tail, strict)):
        assert not torch.equal(a, b)
    assert torch.equal(reading.losses(plan("W500"), [plan("W500")])[0], dense)


def test_single_heads_are_those_of_whole_readings(reading):
    base, single = heads_cuda.single_heads(reading, plan("D"), plan("W16"))
    assert single.shape == (LAYERS, HEADS, 2, 63)
    for layer, head in ((0, 0), (1, 3), (2, 2)):
        alone = plan(f"D {layer}.{head}=W16")
        assert torch.equal(single[layer, head], reading.losses(alone, [None, alone]))
        but = plan(f"W16 {layer}.{head}=D")
        assert torch.equal(heads_cuda.single_heads(reading, plan("W16"), plan("D"))[1][layer, head],
                           reading.losses(but, [None, but]))
    row = heads_cuda.heads_row("damage", "W16", base, single)
    assert row["production"][1][3] == pytest.approx(100 * math.expm1((single - base)[1, 3, 0].mean()), abs=1e-4)
    assert all(error > 0 for line in row["strict_error"] for error in line)


def test_errors_and_scores_are_by_head(model, reading):
    errors = heads_cuda.choice_errors(reading, plan("W16 1=D"))
    assert errors.shape == (LAYERS, HEADS) and (errors[[0, 2]] > 0).all() and (errors[1] == 0).all()
    small = types.SimpleNamespace(**vars(model))
    small.weights = dict(model.weights, **{"token_embd.weight": torch.randn(30000, WIDTH).bfloat16()})
    for name in ("qkv", "after", "norm", "linear", "rotate", "rotation"):
        setattr(small, name, types.MethodType(getattr(GgufModel, name), small))
    scores = heads_cuda.copying(small, 40, 0)
    assert scores.shape == (2, LAYERS, HEADS) and (scores >= 0).all() and (scores.sum(0) <= 1).all()


def test_profiles_are_rows(reading):
    row = heads_cuda.plan_row(reading, "W500; W16; D", reading.losses(plan("D"), [None]))
    assert row["tails"] == ["D", "W16", "D"] and row["percent"][0] == row["percent"][2] == 0 != row["percent"][1]


def test_maps_are_whole_and_small():
    svg = head_maps("a < b", [("damage & gain", [[0.0, 5.0], [-2.5, 0.01]]), ("other", [[1.0] * 3] * 4)])
    root = xml.etree.ElementTree.fromstring(svg)
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[:2] == ["0.1: +5.00", "1.0: -2.50"] and len(titles) == 14  # the palest is left out
    xml.etree.ElementTree.fromstring(head_maps("none", []))
