"""Llama and Qwen2 models from GGUF files as plain PyTorch, with any attention; and their tokenizer."""
import math

import numpy as np
import torch
import torch.nn.functional as F
from gguf import GGUFReader
from gguf.quants import dequantize
from gguf_tokenizer import tokenizer


class GgufModel:
    """Weights in bf16. `heads`, `kv_heads`, `head_dim` as the attention function sees them."""

    def __init__(self, path, device="cuda"):
        reader = GGUFReader(path)
        self.fields = reader.fields
        self.arch = self.field("general.architecture")
        hyper = {key: self.field(f"{self.arch}.{key}")
                 for key in ("block_count", "embedding_length", "context_length", "rope.freq_base",
                             "attention.head_count", "attention.head_count_kv", "attention.layer_norm_rms_epsilon")}
        self.layers, self.width, self.context, self.rope_base, self.heads, self.kv_heads, self.eps = hyper.values()
        self.head_dim, self.device = self.width // self.heads, device
        self.weights = {t.name: torch.from_numpy(np.array(dequantize(t.data, t.tensor_type))).to(device, torch.bfloat16)
                        for t in reader.tensors}

    def field(self, name):
        return self.fields[name].contents()

    def tokenizer(self):
        return tokenizer(self.fields)

    def rotation(self, n, yarn, first=0):
        """cos and sin [n, head_dim / 2] from a position on; yarn: factor of the context (Peng et al. 2023, beta 32 and 1)."""
        half = torch.arange(0, self.head_dim, 2, device=self.device, dtype=torch.float32)
        frequency = self.rope_base ** (-half / self.head_dim)
        size = 1.0
        if yarn > 1:
            # The pair of columns that turns so often over the trained context.
            at = lambda turns: self.head_dim * math.log(self.context / (turns * 2 * math.pi)) / (2 * math.log(self.rope_base))
            low, high = max(math.floor(at(32)), 0), min(math.ceil(at(1)), self.head_dim - 1)
            stretch = ((half / 2 - low) / max(high - low, 1e-3)).clamp(0, 1)
            frequency = frequency * (1 - stretch) + frequency / yarn * stretch
            size = 0.1 * math.log(yarn) + 1
        angle = torch.arange(first, first + n, device=self.device, dtype=torch.float32)[:, None] * frequency
        return (angle.cos() * size).bfloat16(), (angle.sin() * size).bfloat16()

    def rotate(self, x, cos, sin):  # x: [heads, n, head_dim]; llama files pair neighbours, others halves
        if self.arch == "llama":
            a, b = x[..., 0::2], x[..., 1::2]
            return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)

    def norm(self, x, weight):
        y = x.float()
        return (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps) * weight.float()).to(x.dtype)

    def linear(self, x, name):
        return F.linear(x, self.weights[name + ".weight"], self.weights.get(name + ".bias"))

    def qkv(self, layer, x, cos, sin):
        """Queries, keys (rotated) and values of a layer, [heads, n, head_dim] each, of the states [n, width] before it."""
        name, split = f"blk.{layer}.", lambda y: y.view(len(x), -1, self.head_dim).transpose(0, 1)
        h = self.norm(x, self.weights[name + "attn_norm.weight"]).bfloat16()
        q, k = (self.rotate(split(self.linear(h, name + part)), cos, sin).contiguous() for part in ("attn_q", "attn_k"))
        return q, k, split(self.linear(h, name + "attn_v")).contiguous()

    def after(self, layer, x, o):
        """States after a layer whose attention gave o [heads, n, head_dim]; of x's type."""
        name = f"blk.{layer}."
        x = x + self.linear(o.transpose(0, 1).reshape(x.shape), name + "attn_output")
        for part in x.split(16384):  # in place, to need less memory
            h = self.norm(part, self.weights[name + "ffn_norm.weight"]).bfloat16()
            part += self.linear(F.silu(self.linear(h, name + "ffn_gate")) * self.linear(h, name + "ffn_up"), name + "ffn_down")
        return x

    @torch.no_grad()
    def hidden(self, ids, attend, yarn=1.0, cache=None):
        """Last hidden states [n, width]; attend(q, k, v) maps [1, heads, n, head_dim] tensors to that of q. With a cache
        the ids follow those that it holds, and join them."""
        n, x = len(ids), self.weights["token_embd.weight"][ids]
        cos, sin = self.rotation(n, yarn, cache.length if cache else 0)
        for layer in range(self.layers):
            q, k, v = self.qkv(layer, x, cos, sin)
            if cache:
                k, v = cache.join(layer, k, v)
            x = self.after(layer, x, attend(q[None], k[None], v[None])[0])
        if cache:
            cache.length += n
        return self.norm(x, self.weights["output_norm.weight"])

    def likeliest(self, hidden):
        """The id that is likeliest to follow each hidden state."""
        return F.linear(hidden, self.weights.get("output.weight", self.weights["token_embd.weight"])).argmax(-1)

    @torch.no_grad()
    def losses(self, hidden, ids):
        """Cross entropy of each id after the hidden state before it; and whether it was the likeliest."""
        head = self.weights.get("output.weight", self.weights["token_embd.weight"])
        loss, hit = [], []
        for h, target in zip(hidden.split(2048), ids.split(2048)):
            logits = F.linear(h, head).float()
            loss.append(F.cross_entropy(logits, target, reduction="none"))
            hit.append(logits.argmax(-1) == target)
        return torch.cat(loss), torch.cat(hit)


class Cache:
    """Keys and values of what was read, with room for `room` tokens."""

    def __init__(self, model, room):
        shape = (model.layers, 2, model.kv_heads, room, model.head_dim)
        self.rows, self.length = torch.empty(shape, device=model.device, dtype=torch.bfloat16), 0

    def join(self, layer, k, v):
        """Adds [kv_heads, n, head_dim]; returns all of the layer."""
        end = self.length + k.shape[1]
        for rows, new in zip(self.rows[layer], (k, v)):
            rows[:, self.length:end] = new
        return self.rows[layer, :, :, :end]
