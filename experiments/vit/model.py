"""The Vision Transformer of the experiment, with the names of timm's, and its checkpoint in eight bits."""
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class Attention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.num_heads, self.head_dim = heads, width // heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        b, n, width = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, width))


class Mlp(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, width, heads, drop):
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2, self.mlp, self.drop = nn.LayerNorm(width, eps=1e-6), Mlp(width), drop

    def thin(self, x):  # stochastic depth (Huang et al. 2016)
        if not self.training or self.drop == 0:
            return x
        return x * (torch.rand(x.shape[0], 1, 1, device=x.device) >= self.drop).to(x.dtype) / (1 - self.drop)

    def forward(self, x):
        x = x + self.thin(self.attn(self.norm1(x)))
        return x + self.thin(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Patches of features from two small convolutions (Xiao et al. 2021): linear patches of 2 x 2 pixels learn slowly."""

    def __init__(self, patch, width):
        super().__init__()
        layer = lambda from_, to: [nn.Conv2d(from_, to, 3, padding=1, bias=False), nn.GroupNorm(8, to), nn.GELU()]
        self.stem = nn.Sequential(*layer(3, 64), *layer(64, 128))
        self.proj = nn.Conv2d(128, width, patch, patch)

    def forward(self, x):
        return self.proj(self.stem(x)).flatten(2).transpose(1, 2)


def grid_positions(side, width):
    """[side * side, width]: sines and cosines of both coordinates, to begin with."""
    rate = 1e-4 ** (torch.arange(width // 4) / (width // 4))
    angle = torch.arange(side)[:, None] * rate
    wave = torch.cat([angle.sin(), angle.cos()], 1)
    return torch.cat([wave.repeat_interleave(side, 0), wave.repeat(side, 1)], 1)


class VisionTransformer(nn.Module):
    """32 x 32 images in patches of 2: 256 tokens and a class token, 6 layers of width 384, heads of 64."""

    def __init__(self, width=384, depth=6, heads=6, patch=2, classes=10, drop_path_rate=0.0):
        super().__init__()
        self.patch_embed = PatchEmbed(patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        at = 0.1 * grid_positions(32 // patch, width)
        self.pos_embed = nn.Parameter(torch.cat([torch.zeros(1, width), at])[None])
        self.blocks = nn.ModuleList(Block(width, heads, drop_path_rate * i / (depth - 1)) for i in range(depth))
        self.norm, self.head = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, classes)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = self.patch_embed(x)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x[:, 0]))


def save(model, path, **card):
    """Matrices as int8 with a scale a row, the rest as f16: a byte a weight."""
    arrays = {f"card.{key}": np.array(value) for key, value in card.items()}
    for name, tensor in model.state_dict().items():
        x = tensor.detach().float().cpu().numpy()
        if x.ndim < 2 or x.size < 4096:
            arrays[name] = x.astype(np.float16)
            continue
        rows = x.reshape(x.shape[0], -1)
        scale = np.maximum(np.abs(rows).max(1), 1e-12) / 127
        arrays[name] = np.round(rows / scale[:, None]).astype(np.int8).reshape(x.shape)
        arrays[name + ".scale"] = scale.astype(np.float32)
    np.savez_compressed(path, **arrays)


def load(path):
    data = np.load(path)
    state = {}
    for name in data.files:
        if name.startswith("card.") or name.endswith(".scale"):
            continue
        x = data[name].astype(np.float32)
        if name + ".scale" in data.files:
            x *= data[name + ".scale"].reshape(-1, *[1] * (x.ndim - 1))
        state[name] = torch.from_numpy(x)
    model = VisionTransformer()
    model.load_state_dict(state)
    return model.eval()
