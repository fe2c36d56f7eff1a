"""Retrieval as bench/hf_cuda.py asks for it, on a tiny model on the CPU: prompt by the method, then dense or strict."""
import pathlib
import sys
import types

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench"))
import hf_cuda  # noqa: E402
from prescore import hf  # noqa: E402

pytestmark = pytest.mark.hf
CONTEXT, QUESTION = [(7 * i * i + 3 * i) % 61 for i in range(400)], [5, 9, 2, 40] * 10


@pytest.fixture(scope="module")
def model():
    hf.register()
    config = transformers.LlamaConfig(vocab_size=61, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024,
                                      initializer_range=0.2, eos_token_id=None, bos_token_id=None, pad_token_id=0)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="prescore").eval()
    yield model
    hf.register()


def made(model, method, tail, tokens=12):
    """Tokens that greedy decoding gives, and what the tail read."""
    task = types.SimpleNamespace(given=lambda text: text)
    tokenizer = types.SimpleNamespace(eos_token_id=None, decode=lambda ids: ids)
    prompt = types.SimpleNamespace(task=task, context=CONTEXT, question=QUESTION, answer=[0] * (tokens - 8))
    return hf_cuda.answered(model, tokenizer, prompt, method, tail), hf.stats()


def test_dense_decoding_is_that_of_transformers(model):
    ids = torch.tensor([CONTEXT + QUESTION])
    hf.register(method="dense", routing="tile")
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[0, len(ids[0]):].tolist()
    assert made(model, "dense", "dense")[0] == made(model, "dense", "strict")[0] == expected
    assert made(model, "window:budget=1024", "strict")[0] == expected, "a budget of everything"


def test_the_tail_is_read_densely_or_strictly(model):
    method = "window:budget=64:tile=16:window=16"
    _, dense = made(model, method, "dense")
    _, strict = made(model, method, "strict")
    assert dense.keys == dense.visible > strict.keys, "since the prompt"


def test_numbers_are_asked_for_at_the_end(model, monkeypatch):
    asked = []

    def read_after(model, method, tail, prompt, question):
        asked.append((tail, len(prompt) + len(question), "magic number" in "".join(map(chr, prompt))))
        return torch.nn.functional.one_hot(torch.tensor(question[1:] + [0]), 128), None  # who always knows the next one

    monkeypatch.setattr(hf_cuda, "read_after", read_after)
    encode = lambda text: [ord(c) for c in text]
    assert hf_cuda.found(model, encode, [65] * 3000, "dense", "strict", 2) == 2
    assert asked == [("strict", 3000, True)] * 2
