"""Vision Transformers: all keys are dense attention, few keys hold the class token, patches come off again."""
import copy
from types import SimpleNamespace

import numpy as np
import pytest

import prescore

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

import prescore.vit  # noqa: E402


class Layer(nn.Module):
    """An attention layer of timm's shape."""

    def __init__(self, width=64, heads=2):
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj, self.proj_drop = nn.Linear(width, 3 * width), nn.Linear(width, width), nn.Identity()

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(Layer() for _ in range(2))

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Model().eval()


@pytest.mark.parametrize("method", prescore.vit.METHODS)
@torch.no_grad()
def test_all_keys_are_dense(model, method):
    x = torch.randn(2, 257, 64)
    want = model(x)
    got = prescore.vit.patch(model, method, keys=257)(x)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("method", [m for m in prescore.vit.METHODS if m != "dense"])
@torch.no_grad()
def test_few_keys_are_few_and_hold_the_class_token(model, method):
    x = torch.randn(1, 257, 64)
    want = model(x)
    got = prescore.vit.patch(model, method, keys=64)(x)
    assert (got - want).abs().max() > 1e-3
    assert torch.equal(prescore.vit.unpatch(model)(x), want)
    q, k = torch.randn(1, 2, 257, 32), torch.randn(1, 2, 257, 32)
    plan = prescore.plan(q, k, is_causal=False, **prescore.vit.options(method, 64))
    assert plan.keys_per_query().max() <= 64 and plan.keys_per_query().mean() > 50
    assert all(0 in plan.keys(query=i, head=1) for i in (0, 100, 256))


@torch.no_grad()
def test_a_copy_has_its_own_weights(model):
    x = torch.randn(1, 257, 64)
    other = copy.deepcopy(prescore.vit.patch(model, "routed", keys=64))
    torch.testing.assert_close(other(x), model(x))
    other.blocks[0].qkv.weight.mul_(2)
    assert not torch.allclose(other(x), model(x))
    patched, plain = other(x), prescore.vit.unpatch(other)(x)
    assert (patched - plain).abs().max() > 1e-4
    fresh = Model().eval()
    fresh.load_state_dict(other.state_dict())
    assert torch.equal(plain, fresh(x))


def test_layers_that_do_more_are_refused(model):
    class Attention(Layer):
        """As that of BEiT, which adds a bias by position."""

    Attention.__module__ = "timm.models.beit"
    model.blocks.append(Attention())
    with pytest.raises(ValueError, match="got timm.models.beit.Attention"):
        prescore.vit.patch(model)
    assert all("forward" not in block.__dict__ for block in model.blocks)
    patched = prescore.vit.patch(Model(), keys=64)
    with pytest.raises(ValueError, match="beside x"):
        patched.blocks[0](torch.randn(1, 257, 64), rope=torch.ones(1))


def test_tokens_before_the_patches():
    prefix = prescore.vit._prefix
    assert prefix(SimpleNamespace(num_prefix_tokens=5)) == 5
    assert prefix(SimpleNamespace(config=SimpleNamespace(model_type="vit"))) == 1
    assert prefix(SimpleNamespace(config=SimpleNamespace(model_type="deit"))) == 2
    assert prefix(SimpleNamespace(config=SimpleNamespace(model_type="dinov2", num_register_tokens=4))) == 5


@pytest.mark.parametrize("more", [{}, {"qk_norm": True, "scale_attn_norm": True}, {"reg_tokens": 4, "dynamic_img_size": True}])
@torch.no_grad()
def test_timm(more):
    timm = pytest.importorskip("timm")
    model = timm.models.VisionTransformer(img_size=32, patch_size=2, embed_dim=64, depth=2, num_heads=2, num_classes=5,
                                          **more).eval()
    x = torch.randn(2, 3, 32, 32)
    want = model(x)
    got = prescore.vit.patch(model, "routed", keys=300)(x)
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
    assert model.blocks[0].attn._prescore["sinks"] == 1 + more.get("reg_tokens", 0)


@torch.no_grad()
def test_layers_draw_differently(model):
    x = torch.randn(1, 257, 64)
    assert not torch.equal(prescore.vit.patch(model, "random", keys=32)(x), prescore.vit.patch(model, "random", keys=32, seed=7)(x))


@pytest.mark.parametrize("method", ["kmeans", "routed"])
@torch.no_grad()
def test_transformers(method):
    transformers = pytest.importorskip("transformers")
    config = transformers.ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
                                    image_size=32, patch_size=2)
    model = transformers.ViTModel(config).eval()
    x = torch.randn(1, 3, 32, 32)
    want = model(x).last_hidden_state
    got = prescore.vit.patch(model, method, keys=257)(x).last_hidden_state
    torch.testing.assert_close(got, want, atol=2e-5, rtol=2e-5)
    few = prescore.vit.patch(model, method, keys=32)(x).last_hidden_state
    assert (few - want).abs().max() > 1e-3
    torch.testing.assert_close(prescore.vit.unpatch(model)(x).last_hidden_state, want)


def test_mistakes_are_one_sentence(model):
    with pytest.raises(ValueError, match="method, got 'magic'"):
        prescore.vit.patch(model, "magic")
    with pytest.raises(ValueError, match="keys, got 1, want 2 or more"):
        prescore.vit.patch(model, keys=1)
    with pytest.raises(TypeError, match="clusters"):
        prescore.vit.patch(model, clusters=2.5)
    with pytest.raises(ValueError, match="model"):
        prescore.vit.patch(nn.Linear(2, 2))


@pytest.mark.hf
def test_command(tmp_path, capsys):
    import json

    transformers = pytest.importorskip("transformers")
    image = pytest.importorskip("PIL.Image")
    from prescore.__main__ import main
    config = transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
                                    image_size=32, patch_size=4, num_labels=2, id2label={0: "cat", 1: "dog"})
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "model")
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    rng = np.random.default_rng(0)
    for i, label in enumerate(["cat", "dog", "cat"]):
        (tmp_path / "images" / label).mkdir(parents=True, exist_ok=True)
        image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / "images" / label / f"{i}.png")
    assert main(["vit", "--model", str(tmp_path / "model"), "--images", str(tmp_path / "images"), "--keys", "16,65",
                 "--methods", "kmeans,routed", "--batch", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(r["method"], r["keys"]) for r in rows] == [
        ("dense", None), ("kmeans", 16), ("kmeans", 65), ("routed", 16), ("routed", 65)]
    assert all(r["images"] == 3 and r["top1"] in (0, pytest.approx(100 / 3), pytest.approx(200 / 3), 100) for r in rows)
    assert rows[2]["as_dense"] == rows[4]["as_dense"] == 100
    assert main(["vit", "--model", str(tmp_path / "model"), "--images", str(tmp_path / "model")]) == 1
    assert "--images, got" in capsys.readouterr().err
