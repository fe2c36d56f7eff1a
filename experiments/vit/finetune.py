#!/usr/bin/env python3
"""One epoch of training with the keys chosen, before and after (docs/experiments/vit.md).

    experiments/vit/finetune.py DATA --checkpoint data/vit_cifar10.npz --method dense random kmeans tome --keys 32 64

Trained with prescore's scores and PyTorch's attention over the keys drawn, whose gradient the core does not have yet;
measured as evaluate.py does. One JSON object a row.
"""
import argparse
import json
import math

import torch
import torch.nn.functional as F

import cifar10
import evaluate
import model as vit
import prescore
from train import augment


def drawn(layer, x, method, keys, seed):
    """Attention over the class token and keys - 1 others of each head, drawn as prescore.vit does, with a gradient."""
    b, n, width = x.shape
    q, k, v = layer.qkv(x).view(b, n, 3, layer.num_heads, -1).permute(2, 0, 3, 1, 4)
    with torch.no_grad():
        if method == "random":
            order = torch.rand(b, layer.num_heads, n, device=x.device)
        else:
            p = prescore.score(k.detach(), "kmeans", clusters=5, seed=seed)
            order = p.log() - torch.empty_like(p).exponential_().log()  # Gumbel noise: in proportion to p
        order[..., 0] = torch.inf
        chosen = order.topk(keys, -1).indices[..., None]
    pick = lambda t: t.gather(2, chosen.expand(-1, -1, -1, t.shape[-1]))
    o = F.scaled_dot_product_attention(q, pick(k), pick(v))
    return layer.proj(o.transpose(1, 2).reshape(b, n, width))


def trainable(model, method, keys):
    """The model as it is trained: its layers draw anew each time."""
    if method == "tome":
        return evaluate.tome.Merging.for_budget(model, keys)
    if method != "dense":
        step = iter(range(1 << 62))
        for block in model.blocks:
            block.attn.forward = lambda x, layer=block.attn: drawn(layer, x, method, keys, next(step))
    return model


def finetune(args, model, method, keys, images, labels):
    forward = trainable(model.train(), method, keys)
    optimiser = torch.optim.AdamW(model.parameters(), lr=args.rate, weight_decay=0.05, betas=(0.9, 0.98))
    batches = torch.randperm(len(images), device=images.device).split(args.batch)
    for i, index in enumerate(batches):
        for group in optimiser.param_groups:
            group["lr"] = args.rate * min(1, (i + 1) / 20) * (0.5 + 0.5 * math.cos(math.pi * i / len(batches)))
        with torch.autocast(images.device.type, torch.bfloat16):
            said = forward(cifar10.normalise(augment(images[index].float())))
        loss = F.cross_entropy(said.float(), labels[index], label_smoothing=0.1)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    for block in model.blocks:
        block.attn.__dict__.pop("forward", None)
    return model.eval()


def measured(args, model, method, keys, test):
    prepared, _ = evaluate.prepare(model.to(torch.bfloat16), method, keys, 5, test[0])
    return round(evaluate.accuracy(prepared, *test, 250), 2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--checkpoint", default="data/vit_cifar10.npz")
    parser.add_argument("--method", nargs="+", choices=["dense", "random", "kmeans", "tome"],
                        default=["dense", "random", "kmeans", "tome"])
    parser.add_argument("--keys", nargs="+", type=int, default=[32, 64])
    parser.add_argument("--rate", type=float, default=1e-4)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    (images, labels), test = ([t.to(args.device) for t in cifar10.load(args.data, part)] for part in ("train", "test"))
    for method in args.method:
        for keys in args.keys if method != "dense" else [257]:
            torch.manual_seed(0)
            fresh = lambda: vit.load(args.checkpoint).to(args.device)
            before = measured(args, fresh(), method, keys, test)
            after = measured(args, finetune(args, fresh(), method, keys, images, labels), method, keys, test)
            print(json.dumps({"method": method, "keys": keys, "before": before, "after": after}), flush=True)


if __name__ == "__main__":
    main()
