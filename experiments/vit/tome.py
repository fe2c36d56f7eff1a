"""Token merging (Bolya et al., ICLR 2023), the peer of the experiment: after each attention the most alike tokens merge.

Works on models with timm's names. Tokens carry their size, which attention adds to its logits; the class token stays.
"""
import torch
import torch.nn.functional as F


def match(metric, merged):
    """Bipartite soft matching of tokens [b, n, d]: which of the even tokens merge into which of the odd ones.

    The class token, token 0, is even and never merges. Returns the kept even tokens [b, n_even - merged, 1], the merging
    ones [b, merged, 1] and their odd partners [b, merged, 1].
    """
    metric = F.normalize(metric, dim=-1)
    score = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    score[:, 0] = -torch.inf
    best, partner = score.max(-1)
    order = best.argsort(-1, descending=True)
    source, kept = order[:, :merged], order[:, merged:].sort(-1).values
    return kept[..., None], source[..., None], partner.gather(1, source)[..., None]


def merge(x, size, plan):
    """Tokens [b, n, d] weighted by size [b, n, 1]; returns both after merging, kept even tokens first."""
    kept, source, partner = plan
    summed = torch.cat([x * size, size], -1)
    even, odd = summed[:, ::2], summed[:, 1::2]
    pick = lambda index: even.gather(1, index.expand(-1, -1, even.shape[-1]))
    odd = odd.scatter_add(1, partner.expand(-1, -1, odd.shape[-1]), pick(source))
    summed = torch.cat([pick(kept), odd], 1)
    return summed[..., :-1] / summed[..., -1:], summed[..., -1:]


def attend(attention, x, size):
    """The output of an attention module, and the mean of its keys over heads [b, n, d]."""
    b, n, width = x.shape
    q, k, v = attention.qkv(x).view(b, n, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    bias = size.log().transpose(1, 2)[:, None].to(q.dtype)  # [b, 1, 1, n]
    o = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    return attention.proj(o.transpose(1, 2).reshape(b, n, width)), k.mean(1)


class Merging(torch.nn.Module):
    """The model with `keep` of its tokens left after each layer but the last, at least half of them."""

    def __init__(self, model, keep):
        super().__init__()
        self.model, self.keep, self.tokens = model, max(0.5, keep), []

    def forward(self, x):
        model = self.model
        x = model.patch_embed(x)
        x = torch.cat([model.cls_token.expand(x.shape[0], -1, -1), x], 1) + model.pos_embed
        size = torch.ones_like(x[..., :1])
        self.tokens = []  # keys that a query of each layer reads
        for i, block in enumerate(model.blocks):
            self.tokens.append(x.shape[1])
            o, keys = attend(block.attn, block.norm1(x), size)
            x = x + o
            merged = min(x.shape[1] - round(self.keep * x.shape[1]), (x.shape[1] - 1) // 2)
            if i + 1 < len(model.blocks) and merged > 0:
                x, size = merge(x, size, match(keys, merged))
            x = x + block.mlp(block.norm2(x))
        return model.head(model.norm(x)[:, 0])

    @staticmethod
    def for_budget(model, keys, tokens=257):
        """Merging with about so many keys a query on average over the layers, as far as halving goes."""
        layers = len(model.blocks)
        low, high = 0.5, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            mean = sum(tokens * middle ** i for i in range(layers)) / layers
            low, high = (middle, high) if mean < keys else (low, middle)
        return Merging(model, (low + high) / 2)
