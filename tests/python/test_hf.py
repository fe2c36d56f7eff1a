"""prescore.hf: with a budget of all keys, models say what they say with SDPA."""
import os
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import prescore.hf as hf  # noqa: E402
from conftest import needs_gpu  # noqa: E402
from prescore._sight import pieces, rows_of, rows_of_last  # noqa: E402

pytestmark = pytest.mark.hf
BASE = dict(vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
            max_position_embeddings=512, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GROUPED = dict(BASE, num_key_value_heads=2)
SLIDING = dict(GROUPED, head_dim=16, sliding_window=24)
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**GROUPED),
    "qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=16),
    "mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=None),
    "mistral with a window": lambda: transformers.MistralConfig(**GROUPED, sliding_window=24),
    "gemma2": lambda: transformers.Gemma2Config(**SLIDING),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SLIDING, layer_types=["sliding_attention", "full_attention", "sliding_attention"]),
    "phi": lambda: transformers.PhiConfig(**BASE),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(**BASE),
    "chatglm": lambda: transformers.GlmConfig(**GROUPED, head_dim=16),
}


@pytest.fixture(autouse=True)
def everything():
    hf.register(hf.Options(method="routed", budget=4096))
    hf.stats(reset=True)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def model_of(name, attention):
    try:
        config = CONFIGS[name]()
    except AttributeError:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    if name == "gpt_neox" and transformers.__version__ < "4.49":
        pytest.skip("its attention could not be exchanged yet")
    config._attn_implementation = attention
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


def stock_of(name):
    return model_of(name, "eager" if name == "gemma2" else "sdpa")  # soft-caps need eager


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_the_same_logits(name, padding):
    stock, ours = stock_of(name), model_of(name, "prescore")
    ids = torch.randint(3, 96, (2, 70), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padding != "none":
        mask[1, slice(0, 11) if padding == "left" else slice(59, None)] = 0
    mask_of = {} if padding == "none" else {"attention_mask": mask}
    difference = (stock(ids, **mask_of).logits - ours(ids, **mask_of).logits).abs() * mask[..., None]
    assert difference.max() < 1e-5
    stats = hf.stats()
    sliding = name in ("mistral with a window", "gemma2", "gemma3")
    assert bool(stats.left) == sliding
    assert (stats.taken > 0) == (name not in ("mistral with a window", "gemma2"))


def test_long_prompts_have_an_index():
    """More than a segment of keys: at once, in chunks and padded."""
    hf.register(method="routed", budget=1500, window=32)
    stock, ours = stock_of("llama"), model_of("llama", "prescore")
    ids = torch.randint(3, 96, (2, 1500), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, :600] = 0
    for inputs in ({}, {"attention_mask": mask}):
        difference = (stock(ids, **inputs).logits - ours(ids, **inputs).logits).abs() * mask[..., None]
        assert difference.max() < 1e-5
    cache = ours(ids[:, :1100], use_cache=True).past_key_values
    got = ours(ids[:, 1100:], past_key_values=cache).logits
    torch.testing.assert_close(got, stock(ids).logits[:, 1100:], atol=1e-5, rtol=0)
    hf.register(method="routed", budget=256, window=32)
    hf.stats(reset=True)
    ours(ids)
    assert hf.stats().keys < 0.5 * hf.stats().visible


def test_smollm2_from_its_gguf():
    pytest.importorskip("gguf"), pytest.importorskip("accelerate")
    folder = Path(os.environ.get("PRESCORE_CACHE", Path.home() / ".cache/prescore")) / "models"
    file = "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not (folder / file).exists():
        pytest.skip("`make setup` fetches the model")
    stock, ours = (transformers.AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, torch_dtype=torch.float32, attn_implementation=a).eval() for a in ("sdpa", "prescore"))
    ids = torch.randint(3, 40000, (1, 700), generator=torch.Generator().manual_seed(1))
    want, got = stock(ids).logits, ours(ids).logits
    assert hf.stats().taken == 30
    torch.testing.assert_close(got, want, atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_same_tokens(name):
    stock, ours = stock_of(name), model_of(name, "prescore")
    ids = torch.randint(3, 96, (2, 33), generator=torch.Generator().manual_seed(2))
    mask = torch.ones_like(ids)
    ids[0, :5], mask[0, :5] = 0, 0
    tokens = [m.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False) for m in (stock, ours)]
    assert torch.equal(*tokens)


@pytest.mark.parametrize("layers, taken", [("all", 3), ("first:2", 2), ("last:1", 1), ("even", 2), ("odd", 1)])
def test_a_prompt_in_chunks_and_some_layers(layers, taken):
    hf.register(method="routed", budget=4096, layers=layers)
    ids = torch.randint(3, 96, (1, 70), generator=torch.Generator().manual_seed(3))
    want = model_of("llama", "sdpa")(ids).logits[:, 40:]
    ours = model_of("llama", "prescore")
    cache = ours(ids[:, :40], use_cache=True).past_key_values
    got = ours(ids[:, 40:], past_key_values=cache).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert hf.stats().taken == 2 * taken


def test_a_static_cache():
    ids = torch.randint(3, 96, (2, 33), generator=torch.Generator().manual_seed(4))
    tokens = [model_of("llama", a).generate(ids, max_new_tokens=6, do_sample=False, cache_implementation="static")
              for a in ("sdpa", "prescore")]
    assert torch.equal(*tokens)


def test_the_layers_index_follows_another_text():
    hf.register(method="routed", budget=256, window=32, more={"tile": 32})
    ours = model_of("llama", "prescore")
    texts = [torch.randint(3, 96, (1, 600), generator=torch.Generator().manual_seed(i)) for i in (5, 6)]
    first = ours(texts[0]).logits
    ours(torch.cat(texts))  # another shape
    ours(texts[1])
    torch.testing.assert_close(ours(texts[0]).logits, first, atol=0, rtol=0)
    assert hf.stats().keys < hf.stats().visible


def test_gradients_and_soft_caps_are_left_with_one_warning():
    hf._warned.clear()
    ids = torch.ones(1, 8, dtype=torch.long)
    with torch.enable_grad(), pytest.warns(UserWarning, match="gradients") as caught:
        loss = model_of("llama", "prescore").train()(ids, labels=ids).loss
    loss.requires_grad and loss.backward()
    assert len(caught) == 1 and hf.stats().taken == 0


def test_two_threads_with_texts_of_their_own():
    hf.register(method="routed", budget=256, window=32, more={"tile": 32})
    ours = model_of("llama", "prescore")
    texts = [torch.randint(3, 96, (1, 900), generator=torch.Generator().manual_seed(i)) for i in (5, 6)]
    want = [ours(text).logits for text in texts]
    got = [[], []]

    def work(i):
        with torch.no_grad():
            got[i] = [ours(texts[i]).logits for _ in range(4)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for i in range(2):
        assert len(got[i]) == 4 and all(torch.equal(x, want[i]) for x in got[i])


@needs_gpu
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_on_a_gpu(padding):
    stock, ours = (model_of("llama", a).half().cuda() for a in ("sdpa", "prescore"))
    ids = torch.randint(3, 96, (2, 700), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padding != "none":
        mask[1, slice(0, 110) if padding == "left" else slice(590, None)] = 0
    inputs = {"input_ids": ids.cuda()} | ({} if padding == "none" else {"attention_mask": mask.cuda()})
    difference = (stock(**inputs).logits - ours(**inputs).logits).abs().cpu() * mask[..., None]
    assert difference.max() < 2e-2 and hf.stats().taken > 0 and not hf.stats().left
    tokens = [m.generate(**inputs, max_new_tokens=3, do_sample=False) for m in (stock, ours)]
    assert torch.equal(*tokens) and hf.stats().left[hf.FEW] > 0
    ours.float()(**inputs)
    assert hf.stats().left["float32 on a GPU"] == 3


def test_what_a_gpu_lacks_is_left(monkeypatch):
    def tensor(d=64, dtype=torch.float16, device="cuda"):
        return SimpleNamespace(shape=(1, 2, 40, d), dtype=dtype, is_cuda=device == "cuda",
                               device=SimpleNamespace(type=device))

    monkeypatch.setattr(hf, "_core", SimpleNamespace(gpus=lambda: []))
    assert "no CUDA" in hf._why_not_there(tensor(), tensor())
    monkeypatch.setattr(hf, "_core", SimpleNamespace(gpus=lambda: ["one"]))
    assert hf._why_not_there(tensor(), tensor()) is None
    assert "float32" in hf._why_not_there(tensor(dtype=torch.float32), tensor())
    assert "heads of 264" in hf._why_not_there(tensor(264), tensor())
    assert "heads of 60" in hf._why_not_there(tensor(), tensor(60))
    assert "mps" in hf._why_not_there(tensor(device="mps"), tensor())


@pytest.mark.parametrize("layers", ["all", "odd"])
def test_a_compiled_model(layers):
    hf.register(method="routed", budget=4096, layers=layers)
    ids = torch.randint(3, 96, (1, 70), generator=torch.Generator().manual_seed(3))
    ours = model_of("llama", "prescore")
    want = ours(ids).logits
    got = torch.compile(ours, backend="eager")(ids).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert hf.stats().taken == 2 * (3 if layers == "all" else 1)


def test_options_over_options():
    options = hf.register(hf.Options(budget=99, more={"tile": 32}), seed=3, window=5)
    assert (options.budget, options.window, options.more) == (99, 5, {"tile": 32, "seed": 3})
    with pytest.raises(TypeError, match="bugdet"):
        hf.register(hf.Options(), bugdet=3)


def test_options(monkeypatch):
    monkeypatch.setenv("PRESCORE_BUDGET", "77")
    monkeypatch.setenv("PRESCORE_METHOD", "window")
    options = hf.register(method="dense", seed=3)
    assert (options.method, options.budget, options.more) == ("dense", 77, {"seed": 3})
    monkeypatch.setenv("PRESCORE_BUDGET", "many")
    with pytest.raises(ValueError, match="PRESCORE_BUDGET, got 'many'"):
        hf.register()
    monkeypatch.delenv("PRESCORE_BUDGET")
    with pytest.raises(ValueError, match="layers"):
        hf.register(layers="some")
    with pytest.raises(TypeError, match="bugdet"):
        hf.register(bugdet=3)


def test_masks_that_are_not_runs():
    causal = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    assert rows_of(causal, 2, 6, 6) == [(0, 6, None)] * 2
    additive = torch.zeros(1, 1, 6, 6).masked_fill(~causal, torch.finfo(torch.float32).min)
    assert rows_of(additive, 1, 6, 6) == [(0, 6, None)]
    assert rows_of(causal.triu(-2), 1, 6, 6) is None  # a window
    assert rows_of(additive - 0.5, 1, 6, 6) is None  # a bias
    assert rows_of(causal.flip(2), 1, 6, 6) is None


def test_a_mask_is_looked_at_once():
    mask = torch.ones(1, 1, 6, 6, dtype=torch.bool).tril()
    rows = rows_of_last(mask, 2, 6, 6)
    assert rows == rows_of(mask, 2, 6, 6) and rows_of_last(mask, 2, 6, 6) is rows
    mask[0, 0, :, 0] = False
    assert rows_of_last(mask, 2, 6, 6) == rows_of(mask, 2, 6, 6) != rows


@pytest.mark.parametrize("positions", [
    [0, 1, 2, 3, 4, 5], [2, 3, 4, 5, 5, 5], [0, 1, 2, 2, 2, 2], [-1, -1, 0, 1, 2, 5], [-1, 0, 1, 1, 4, 5],
    [3, 3, 3, 3, 3, 3], [-1, -1, -1, -1, -1, -1], [0, 2, 4, 4, 5, 5]])
def test_pieces_see_what_their_positions_see(positions):
    import prescore
    generator = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 2, 6, 16, generator=generator) for _ in range(3))
    want = prescore.attention(q, k, v, method="dense", positions=positions)
    got = torch.full_like(want, 7.0)
    covered = []
    for begin, end, keys, causal in pieces(positions):
        covered += range(begin, end)
        got[:, :, begin:end] = 0
        if keys > 0:
            got[:, :, begin:end] = prescore.attention(q[:, :, begin:end], k[:, :, :keys], v[:, :, :keys],
                                                      method="dense", is_causal=causal)
    assert covered == list(range(6))
    assert torch.allclose(got, want, atol=1e-6)
