#!/usr/bin/env python3
"""Top-1 accuracy and latency of the ViT against keys a query, training-free, by method (docs/experiments/vit.md).

    experiments/vit/evaluate.py DATA --checkpoint data/vit_cifar10.npz --out build/vit.jsonl

Every method of prescore.vit and token merging, beside dense. Rows that are in --out already are not computed again.
"""
import argparse
import json
import os
import statistics
import time

import torch

import cifar10
import model as vit
import tome
import prescore
from prescore import vit as sparse

KEYS = (16, 32, 64, 96, 128)


class Reads:
    """While it lives, counts the keys and stand-ins that queries of prescore.vit read."""

    def __enter__(self):
        self.queries = self.keys = self.standins = 0
        self.attention, sparse.attention = sparse.attention, self.counted
        return self

    def __exit__(self, *_):
        sparse.attention = self.attention

    def counted(self, q, k, v, **options):
        o, report = prescore.attention(q, k, v, return_report=True, **options)
        self.queries += report["queries"]
        self.keys += report["keys"]
        self.standins += report["standins"]
        return o

    def mean(self):
        return round(self.keys / self.queries, 1), round(self.standins / self.queries, 1)


def inputs(model, images):
    """Images as the model takes them."""
    return cifar10.normalise(images).to(next(model.parameters()).dtype)


@torch.inference_mode()
def prepare(model, method, keys, clusters, images):
    """The model with the method, and the keys and stand-ins that its queries read on average over some images."""
    sparse.unpatch(model)
    x = inputs(model, images[:64])
    if method == "tome":
        merging = tome.Merging.for_budget(model, keys)
        merging(x)
        return merging, (round(sum(merging.tokens) / len(merging.tokens), 1), 0)
    if method == "dense":
        return model, (257, 0)
    sparse.patch(model, method, keys=keys, clusters=clusters)
    with Reads() as reads:
        model(x)
    return model, reads.mean()


@torch.inference_mode()
def accuracy(model, images, labels, batch):
    hits = 0
    for x, y in zip(images.split(batch), labels.split(batch)):
        hits += (model(inputs(model, x)).argmax(-1) == y).sum().item()
    return 100 * hits / len(labels)


@torch.inference_mode()
def latency_ms(model, images, batch, repeats):
    """Median milliseconds of one batch."""
    x, times = inputs(model, images[:batch]), []
    wait = torch.cuda.synchronize if x.is_cuda else lambda: None
    for i in range(repeats + 2):
        wait()
        begin = time.perf_counter()
        model(x)
        wait()
        if i > 1:
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def cases(methods, budgets):
    yield "dense", 257
    for method in methods:
        for keys in budgets:
            yield method, keys


def measure(args, model, images, labels, method, keys):
    prepared, (read, standins) = prepare(model, method, keys, args.clusters, images)
    row = {"method": method, "keys": keys, "read": read, "standins": standins, "clusters": args.clusters,
           "device": args.device, "images": len(images)}
    row["accuracy"] = round(accuracy(prepared, images, labels, args.batch), 2)
    for batch in args.latency:
        row[f"ms_{batch}"] = round(latency_ms(prepared, images, batch, 5), 3)
    return row


def table(rows):
    """Accuracies, beside each in brackets the rows that a query reads where stand-ins are among them."""
    methods = list(dict.fromkeys(r["method"] for r in rows if r["method"] != "dense"))
    found = {(r["method"], r["keys"]): r for r in rows}
    dense, budgets = found.get(("dense", 257)), sorted({r["keys"] for r in rows if r["method"] != "dense"})
    lines = [f"dense: {dense['accuracy']} %" if dense else "", "",
             "| method | " + " | ".join(str(k) for k in budgets) + " |", "|---|" + "--:|" * len(budgets)]
    for method in methods:
        row = (found.get((method, k)) for k in budgets)
        lines.append(f"| {method} | " + " | ".join(cell(r) for r in row) + " |")
    return "\n".join(lines)


def cell(row):
    if row is None:
        return ""
    read = row["read"] + row["standins"]
    return f"{row['accuracy']:.2f}" + ("" if abs(read - row["keys"]) < 1 else f" ({read:.0f})")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--checkpoint", default="data/vit_cifar10.npz")
    parser.add_argument("--out", default="vit.jsonl")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", help="of weights and activations; default float32, on a GPU bfloat16")
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=250)
    parser.add_argument("--clusters", type=int, default=5)
    parser.add_argument("--methods", nargs="+",
                        default=["random", "leverage", "kmeans", "kmeans_top", "routed", "tome"])
    parser.add_argument("--keys", nargs="+", type=int, default=KEYS, help="a query, of each method")
    parser.add_argument("--latency", nargs="*", type=int, default=[], help="batch sizes to time")
    args = parser.parse_args()
    images, labels = (t[:args.images].to(args.device) for t in cifar10.load(args.data, "test"))
    dtype = getattr(torch, args.dtype or ("float32" if args.device == "cpu" else "bfloat16"))
    model = vit.load(args.checkpoint).to(args.device, dtype)
    rows = []
    if os.path.exists(args.out):
        with open(args.out) as file:
            rows = [json.loads(line) for line in file]
    done = {(r["method"], r["keys"], r["clusters"], r["device"]) for r in rows}
    for method, keys in cases(args.methods, args.keys):
        if (method, keys, args.clusters, args.device) in done:
            continue
        try:
            rows.append(measure(args, model, images, labels, method, keys))
        except ValueError as e:  # what a GPU lacks
            print(json.dumps({"method": method, "keys": keys, "left out": str(e)}), flush=True)
            continue
        with open(args.out, "a") as file:
            file.write(json.dumps(rows[-1]) + "\n")
        print(json.dumps(rows[-1]), flush=True)
    print(table([r for r in rows if r["clusters"] == args.clusters and r["device"] == args.device]))


if __name__ == "__main__":
    main()
