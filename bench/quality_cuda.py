#!/usr/bin/env python3
"""Perplexity and retrieval of a GGUF model whose attention runs through prescore on the GPU.

Tail protocol (docs/design.md): the prefix is read with the timed plan, the last --tail tokens choose one by one
(routing strict), and only they are scored. Retrieval: a seven-digit number is hidden at a depth of the text and asked
for at its end; an answer counts when every digit is the likeliest token. Methods are NAME[:OPTION=VALUE...], where
options are those of prescore_options or, with a prefix `index.`, of prescore_index_options; `dense` is PyTorch's own.

    bench/quality_cuda.py qwen.gguf --text novel=novel.txt --n 16384 32768 --method dense routed:budget=2048

Needs torch with CUDA, gguf and tokenizers. PRESCORE_LIBRARY names libprescore.so.
"""
import argparse
import json
import math
import os
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
import needles as needles_of
import prescore_cuda
from gguf_model import GgufModel


class Attention:
    """The prefix with the method's plan, the tail strictly."""

    def __init__(self, method, tail):
        self.name, self.options, self.index = prescore_cuda.parse(method)
        self.tail = tail
        self.reads = {"prefix": [0, 0, 0], "tail": [0, 0, 0]}  # queries, keys, stand-ins

    def run(self, part, q, k, v, out, **options):
        _, report = prescore_cuda.attention(q, k, v, method=self.name, causal=True, count=True, out=out,
                                            index=self.index, **self.options, **options)
        for i, value in enumerate((report.queries, report.keys, report.standins)):
            self.reads[part][i] += value

    def __call__(self, q, k, v):
        if self.name == "dense":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        o, n = torch.empty_like(q), q.shape[2] - self.tail
        self.run("prefix", q[:, :, :n], k[:, :, :n], v[:, :, :n], o[:, :, :n])
        self.run("tail", q[:, :, n:], k, v, o[:, :, n:], routing=1)
        return o

    def row(self):
        if self.name == "dense":
            return {}
        mean = lambda part, i: round(self.reads[part][i] / max(1, self.reads[part][0]), 1)
        return {f"{what}_{part}": mean(part, i) for part in self.reads for i, what in ((1, "keys"), (2, "standins"))}


def perplexity(model, ids, attention, yarn):
    tail = attention.tail
    hidden = model.hidden(ids, attention, yarn)
    loss, _ = model.losses(hidden[-tail - 1:-1], ids[-tail:])
    return math.exp(loss.mean().item())


def retrieval(model, tokenizer, ids, attention, yarn, needles):
    """Answered needles, at depths spread evenly over the text."""
    encode = lambda text: torch.tensor(tokenizer.encode(text).ids, device=model.device)
    found = 0
    for i in range(needles):
        needle, question, answer = (encode(text) for text in needles_of.texts(i))
        room = len(ids) - len(needle) - len(question) - len(answer)
        at = int((i + 0.5) / needles * room)
        text = torch.cat([ids[:at], needle, ids[at:room], question, answer])
        hidden = model.hidden(text, attention, yarn)
        _, hit = model.losses(hidden[-len(answer) - 1:-1], answer)
        found += bool(hit.all())
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", nargs="+", required=True, help="NAME=FILE")
    parser.add_argument("--n", nargs="+", type=int, default=[16384])
    parser.add_argument("--method", nargs="+", default=["dense", "window:budget=2048", "routed:budget=2048"])
    parser.add_argument("--tail", type=int, default=2048)
    parser.add_argument("--needles", type=int, default=0, help="also ask for so many needles in the first text")
    parser.add_argument("--no-perplexity", action="store_true")
    args = parser.parse_args()
    model = GgufModel(args.model)
    tokenizer = model.tokenizer()
    texts = {}
    for text in args.text:
        name, path = text.split("=")
        with open(path, encoding="utf-8", errors="ignore") as file:
            # A token has some three bytes or more.
            texts[name] = torch.tensor(tokenizer.encode(file.read(8 * max(args.n))).ids, device=model.device)[:max(args.n)]
    for n in args.n:
        yarn = max(1.0, n / model.context) if n > model.context else 1.0
        for method in args.method:
            for i, (name, ids) in enumerate(texts.items()):
                attention = Attention(method, args.tail)
                row, begin = {"n": n, "text": name, "method": method}, time.time()
                if not args.no_perplexity:
                    row["perplexity"] = round(perplexity(model, ids[:n], attention, yarn), 4)
                    row |= attention.row()
                if args.needles and i == 0:
                    row["found"] = retrieval(model, tokenizer, ids[:n], attention, yarn, args.needles)
                print(json.dumps(row | {"s": round(time.time() - begin, 1)}), flush=True)


if __name__ == "__main__":
    main()
