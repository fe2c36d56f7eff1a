"""Head profiles in Python: the file, the fingerprint, prescore.hf."""
import json
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import prescore
import pytest
from prescore import _profile

MODELS = Path(os.environ.get("PRESCORE_CACHE", Path.home() / ".cache/prescore")) / "models"
TEXT = json.dumps({
    "schema": 1,
    "model": {"name": "tiny", "architecture": "llama", "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 16,
              "fingerprint": "0123456789abcdef", "weight": "unknown keys are ignored"},
    "made": {"by": "a person", "how": "by hand", "date": "2026-11-29"},
    "many": 4096, "window": 512, "prompt": ["..d.", "", "wwm."], "decode": ["..d.", "", "...."]}, indent=2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PRESCORE_CACHE", str(tmp_path))
    monkeypatch.delenv("PRESCORE_PROFILE", raising=False)
    return tmp_path


def test_letters_are_budgets():
    p = _profile.parse(TEXT, "p.json")
    assert p.heads(0, False) == [None, None, "dense", None]
    assert p.heads(1, False) is None and p.heads(3, False) is None and p.heads(-1, False) is None
    assert p.heads(2, False) == [("window", 512), ("window", 512), ("routed", 4096), None]
    assert p.heads(2, True) is None
    assert str(p) == ("1 of 12 heads dense, 1 with many keys, 2 with a window; "
                      "decoding: 1 of 12 heads dense, from p.json")


def test_written_and_read(tmp_path):
    p = _profile.parse(TEXT, "p.json")
    path = tmp_path / "not/yet/there/p.json"
    _profile.write(p, path)
    assert _profile.read(path) == p and _profile.read(path).source == str(path)
    assert os.listdir(path.parent) == ["p.json"]
    with pytest.raises(prescore.Error, match="want a file that can be written"):
        _profile.write(p, path.parent)


@pytest.mark.parametrize("what, by, expected", [
    ('"schema": 1', '"schema": 2', "schema of p.json, got 2, want 1"),
    ('"layers": 3', '"layers": 4', "prompt of p.json, got 3, want 4 strings, one a layer"),
    ('"layers": 3', '"layers": true', "layers of p.json, got true, want a whole number"),
    ('"..d."', '"..d"', "prompt of layer 0 of p.json, got 3 letters, want 4"),
    ('"wwm."', '"wwx."', "prompt of layer 2 of p.json, got 'x', want letters of"),
    ('"wwm."', "7", "prompt of layer 2 of p.json, got 7"),
    ("0123456789abcdef", "0123", "fingerprint of p.json"),
    ('"window": 512', '"window": 0', "window of p.json, got 0"),
    ('"a person"', "[[]]", r"by of p.json, got \[\[\]\], want text"),
    (TEXT, "", "contents of p.json, got no JSON"),
    (TEXT, "[" * 100_000, "contents of p.json, got no JSON"),
    (TEXT, TEXT[:-20], "contents of p.json, got no JSON"),
])
def test_mistakes_are_one_sentence(what, by, expected):
    assert what in TEXT
    with pytest.raises(prescore.Error, match=r"^\[profile\] " + expected) as e:
        _profile.parse(TEXT.replace(what, by, 1), "p.json")
    assert "\n" not in str(e.value)


def test_found_in_the_cache_and_by_name(cache):
    p = _profile.parse(TEXT, "p.json")
    assert _profile.find(p.model, "") == (None, "")
    _profile.write(p, _profile.cached_path(p.model.fingerprint))
    assert _profile.find(p.model, None)[0] == p
    assert _profile.find(p.model, "none") == (None, "")
    own = cache / "own.json"
    _profile.write(p, own)
    assert _profile.find(p.model, str(own))[0].source == str(own)
    other = _profile.Identity("other", "llama", 3, 4, 2, 16, "f" * 16)
    with pytest.raises(prescore.Error, match=r"model of .*own.json, got tiny \(0123456789abcdef\), want other"):
        _profile.find(other, str(own))
    _profile.cached_path(p.model.fingerprint).write_text("{")
    found, note = _profile.find(p.model, "")
    assert found is None and "no JSON" in note


def test_concurrent_writers(tmp_path):
    p, path = _profile.parse(TEXT, "p.json"), tmp_path / "p.json"
    writers = [threading.Thread(target=lambda: [_profile.write(p, path) for _ in range(50)]) for _ in range(4)]
    for w in writers:
        w.start()
    while any(w.is_alive() for w in writers):
        if path.exists():
            assert _profile.read(path) == p
    assert os.listdir(tmp_path) == ["p.json"]


def test_the_fingerprint_is_that_of_the_command():
    # tests/host/test_profile.cpp computes the same number.
    norms = [("first", np.float32([1, 0.5, -2, 1.0039062, 1.0117188])),
             ("output", np.float32([3.14159274, 1e-40, 65504]))]
    assert _profile.fingerprint(2, 4, 2, 64, 5, norms) == "7713569ceffc7982"


def test_shipped_profiles_are_whole():
    for path in _profile.shipped():
        assert _profile.to_json(_profile.read(path)) == path.read_text()


def test_the_rule():
    model = _profile.Identity("m", "llama", 10, 10, 5, 64, "0" * 16)
    duplicate, induction = np.full((10, 10), 0.02), np.full((10, 10), 0.01)
    duplicate[3, 5], duplicate[4, 0], induction[9, 8], induction[0, 1] = 0.97, 0.26, 0.99, 0.29
    p = _profile.by_rule(model, duplicate, induction)
    assert [p.prompt[i] for i in (0, 3, 4, 9)] == ["m" * 10, ".....d....", "d.........", "." * 10]
    assert [p.decode[i] for i in (0, 3, 4, 9)] == ["m" * 10, ".....d....", "d.........", "........d."]
    plain = _profile.by_rule(model, duplicate, induction, prompt_layers=1, first_layer=False)
    assert plain.prompt == plain.decode and plain.prompt[0] == "." * 10
    assert "".join(_profile.by_rule(model, duplicate, induction, most=0.01).prompt).index("d") == 35
    assert "d" not in "".join(_profile.by_rule(model, duplicate, induction, most=0).prompt)


# --- prescore.hf --------------------------------------------------------------------------------------

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
import prescore.hf as hf  # noqa: E402
from prescore import _attention, _hf_profile  # noqa: E402

hf.register(hf.Options())
SMALL = dict(vocab_size=512, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=16384, bos_token_id=1, eos_token_id=2)


def small_model(seed=0, copying=None, config=transformers.LlamaConfig, **more):
    """With random weights; `copying`: a head of layer 0 whose queries look for their own token."""
    torch.manual_seed(seed)
    if copying is not None:
        more["rope_theta"], more["head_dim"] = 1e36, 64
        more["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e36}
    c = config(**SMALL | more)
    c._attn_implementation = "prescore"
    model = transformers.AutoModelForCausalLM.from_config(c).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.add_(0.1 * torch.randn_like(p))
        if copying is not None:
            a = model.model.layers[0].self_attn
            a.k_proj.weight.normal_(0, 0.5)
            d = a.head_dim
            q, k = (w.weight.view(-1, d, w.weight.shape[1]) for w in (a.q_proj, a.k_proj))
            q[copying] = 0.125 * k[copying // 2]
            q[copying, : d // 8] = q[copying, d // 2 : 5 * d // 8] = 0  # what rotates
    return model


@pytest.fixture
def registered():
    hf.register(hf.Options(method="routed", budget=800))
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", FutureWarning)
        yield
    hf.register(hf.Options())


@pytest.fixture
def asked(monkeypatch):
    """`heads` of the calls of attention, in order."""
    calls, own = [], _attention.attention
    monkeypatch.setattr(_attention, "attention",
                        lambda *a, **k: (calls.append(k.get("heads")), own(*a, **k))[1])
    return calls


def profile_of(model):
    m = _hf_profile.identity(model)
    return _profile.Profile(m, ("d.w.", "...."), ("....", "..m."), many=900, window=100)


def ids(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(3, 512, (1, n)))


def test_fingerprints_tell_models_apart():
    one, same, other = small_model(), small_model(), small_model(1)
    identity = _hf_profile.identity(one)
    assert (identity.layers, identity.heads, identity.kv_heads, identity.head_dim) == (2, 4, 2, 16)
    assert identity == _hf_profile.identity(same)
    assert identity.fingerprint != _hf_profile.identity(other).fingerprint
    assert identity == _hf_profile.identity(one.to(torch.bfloat16))  # whatever type it is loaded in
    neox = transformers.AutoModelForCausalLM.from_config(transformers.GPTNeoXConfig(
        **{k: v for k, v in SMALL.items() if k != "num_key_value_heads"}))
    assert _hf_profile.identity(neox).kv_heads == 4


def test_norms_of_gemma_count_as_they_multiply():
    gemma = small_model(config=transformers.GemmaConfig, head_dim=16)
    weight = gemma.model.norm.weight
    assert np.array_equal(_hf_profile._multiplies(gemma.model, "norm.weight"), (weight + 1).detach().numpy())
    llama = small_model()
    assert np.array_equal(_hf_profile._multiplies(llama.model, "norm.weight"),
                          llama.model.norm.weight.detach().numpy())


def test_heads_get_the_budgets_of_their_layer(registered, asked):
    model = small_model()
    _profile.write(profile_of(model), _profile.cached_path(profile_of(model).model.fingerprint))
    model(ids(1600))
    assert asked == [["dense", None, ("window", 100), None], None]
    asked.clear()
    cache = model(ids(40)).past_key_values
    model(ids(1), past_key_values=cache)  # a decode step: dense in every head
    assert asked[2:] == [None, None]
    hf.register(method="routed", routing="strict")
    asked.clear()
    model(ids(64))
    assert asked == [None, [None, None, ("routed", 900), None]]


@pytest.mark.parametrize("how", ["option", "variable"])
def test_named_and_switched_off(registered, asked, monkeypatch, cache, how):
    model = small_model()
    _profile.write(profile_of(model), cache / "p.json")

    def register(profile):
        if how == "variable":
            monkeypatch.setenv("PRESCORE_PROFILE", profile)
        hf.register(method="routed", budget=800, **({"profile": profile} if how == "option" else {}))

    register(str(cache / "p.json"))
    model(ids(900))
    assert asked[0] is not None
    with pytest.raises(prescore.Error, match=r"\[profile\] model of .*p.json, got"):
        small_model(1)(ids(900))
    register("none")
    asked.clear()
    model(ids(900))
    assert asked == [None, None]
    register(str(cache / "absent.json"))
    with pytest.raises(prescore.Error, match="absent.json, got No such file"):
        model(ids(900))


@pytest.mark.parametrize("head", [1, 2])
def test_a_planted_head_is_found(head, cache, capsys):
    model = small_model(copying=head)
    model.set_attn_implementation("sdpa") if hasattr(model, "set_attn_implementation") else None
    before = model.config._attn_implementation
    p = hf.profile(model, tokens=200, draws=2, most=1)
    assert model.config._attn_implementation == before
    assert p.prompt == ("m" * head + "d" + "m" * (3 - head), "....") and p.prompt == p.decode
    assert p.source == str(cache / "profiles" / f"{p.model.fingerprint}.json")
    assert _profile.read(p.source) == p
    assert "2 draws of 200 random tokens given twice" in p.how
    assert "draw 2 of 2" in capsys.readouterr().err
    assert hf.profile(model, tokens=200, draws=2, most=1, progress=False, out=cache / "o.json") == p
    assert not capsys.readouterr().err


def test_a_run_that_was_stopped_goes_on(registered, cache, monkeypatch):
    model, out = small_model(copying=1), cache / "o.json"
    want = hf.profile(model, tokens=200, draws=3, most=1, progress=False, out=out)
    measured, text = [], _hf_profile._text

    def stopping(config, tokenizer, period, repeated, seed):
        measured.append(seed)
        if len(measured) == 3:
            raise KeyboardInterrupt
        return text(config, tokenizer, period, repeated, seed)

    monkeypatch.setattr(_hf_profile, "_text", stopping)
    with pytest.raises(KeyboardInterrupt):
        hf.profile(model, tokens=200, draws=3, most=1, progress=False, out=out)
    assert hf.profile(model, tokens=200, draws=3, most=1, progress=False, out=out) == want
    assert measured == [0, 1, 2, 2]  # the two that were finished are not measured again
    assert not (cache / "o.json.draws.json").exists()
    for torn in ("", "{", '{"draws": 3}', '{"draws": [[1]]}'):
        (cache / "o.json.draws.json").write_text(torn)
        assert hf.profile(model, tokens=200, draws=3, most=1, progress=False, out=out) == want


def test_the_first_long_prompt_measures_once(registered, asked, capsys):
    model, text = small_model(copying=1), ids(4400)
    model(ids(2000))
    assert asked == [None, None]
    hf.register(method="routed", budget=800)
    asked.clear()
    got = model(text).logits
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and said.startswith("prescore: measured which heads need every key: "), said
    assert _profile.cached_path(_hf_profile.identity(model).fingerprint).exists()
    assert asked == [[("routed", 8192)] * 4, None]  # one head of eight is more than four percent
    # What was measured left no trace in the forward that it was part of: another that finds it is equal.
    assert torch.equal(got, small_model(copying=1)(text).logits)
    assert not capsys.readouterr().err


def test_what_cannot_be_measured_is_hinted_at(registered, monkeypatch):
    model = small_model()
    monkeypatch.setattr(_hf_profile, "_can_run_again", lambda decoder: False)
    _hf_profile._said.clear()
    with pytest.warns(UserWarning, match=r"prescore.hf.profile\(model\) measures one"):
        model(ids(4400))
    model(ids(4400))  # once
    monkeypatch.setattr(_hf_profile, "_can_run_again", lambda decoder: True)
    monkeypatch.setattr(_hf_profile, "measure", lambda *a: 1 / 0)
    hf.register(method="routed")
    with pytest.warns(UserWarning, match="measuring one failed .ZeroDivisionError"):
        model(ids(4400))


def test_a_model_and_its_gguf_have_one_fingerprint():
    gguf = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
    if not gguf.exists():
        pytest.skip(f"no model at {gguf}")
    pytest.importorskip("gguf"), pytest.importorskip("accelerate")
    model = transformers.AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name,
                                                              dtype=torch.bfloat16)
    identity = _hf_profile.identity(model)
    assert (identity.layers, identity.heads, identity.kv_heads, identity.head_dim) == (30, 9, 3, 64)
    assert identity.fingerprint == "cc88ed509c651687"  # what `prescore profile` says of that file
