#!/usr/bin/env python3
"""Perplexity and retrieval of a GGUF model whose attention runs through prescore on the GPU.

A prompt is read with the timed plan; then the last --tail-tokens, and only they are scored. --tail dense reads them
densely, as hosts decode by default; --tail strict by the method, each choosing for itself (docs/quality.md).
Retrieval, with the same two tails for question and answer: --needles N seven-digit numbers, each hidden at a depth of the
first text and asked for at its end (an answer counts when every digit is the likeliest token); --kinds: tasks after RULER
(support/needles.py) that fill the length, the share of their answers that greedy decoding gives. Texts longer than the
model was trained for are read by YaRN. Methods are NAME[:OPTION=VALUE...], where options are those of prescore_options
or, with a prefix `index.`, of prescore_index_options; `dense` is PyTorch's own.

    bench/quality_cuda.py qwen.gguf --text novel=novel.txt --n 16384 32768 --method dense routed:budget=2048
    bench/quality_cuda.py qwen.gguf --kinds all --n 32768 131072

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
from gguf_model import Cache, GgufModel


class Attention:
    """A prompt by the method's plan; what follows densely, or strictly by the method."""

    def __init__(self, method, tail, tail_tokens):
        self.name, self.options, self.index = prescore_cuda.parse(method)
        self.tail, self.tail_tokens = tail, tail_tokens
        self.reads = {"prefix": [0, 0, 0], "tail": [0, 0, 0]}  # queries, keys, stand-ins

    def run(self, part, q, k, v, out, name, **options):
        _, report = prescore_cuda.attention(q, k, v, method=name, causal=True, count=True, out=out, **options)
        for i, value in enumerate((report.queries, report.keys, report.standins)):
            self.reads[part][i] += value
        return out

    def prompt(self, q, k, v, out=None):
        if self.name == "dense":
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out = torch.empty_like(q) if out is None else out
        return self.run("prefix", q, k, v, out, self.name, index=self.index, **self.options)

    def rest(self, q, k, v, out=None):
        """Queries at the end of the keys."""
        strict = self.tail == "strict" and self.name != "dense"
        if q.shape[2] == 1 and not strict:
            return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        out = torch.empty_like(q) if out is None else out
        if strict:
            return self.run("tail", q, k, v, out, self.name, index=self.index, **self.options | {"routing": 1})
        return self.run("tail", q, k, v, out, "dense")

    def __call__(self, q, k, v):
        """Prompt and tail at once."""
        if self.name == "dense":
            return self.prompt(q, k, v)
        o, n = torch.empty_like(q), q.shape[2] - self.tail_tokens
        self.prompt(q[:, :, :n], k[:, :, :n], v[:, :, :n], o[:, :, :n])
        self.rest(q[:, :, n:], k, v, o[:, :, n:])
        return o

    def row(self):
        if self.name == "dense":
            return {}
        mean = lambda part, i: round(self.reads[part][i] / max(1, self.reads[part][0]), 1)
        return {f"{what}_{part}": mean(part, i) for part in self.reads for i, what in ((1, "keys"), (2, "standins"))}


def perplexity(model, ids, attention, yarn):
    tail = attention.tail_tokens
    hidden = model.hidden(ids, attention, yarn)
    loss, _ = model.losses(hidden[-tail - 1:-1], ids[-tail:])
    return math.exp(loss.mean().item())


def hidden_numbers(model, encode, ids, attention, yarn, needles):
    """Numbers that are found, at depths spread evenly over the text."""
    found = 0
    for i in range(needles):
        needle, question, answer = (encode(text) for text in needles_of.texts(i))
        room = len(ids) - len(needle) - len(question) - len(answer)
        at = int((i + 0.5) / needles * room)
        cache = Cache(model, len(ids))
        model.hidden(torch.cat([ids[:at], needle, ids[at:room]]), attention.prompt, yarn, cache)
        hidden = model.hidden(torch.cat([question, answer]), attention.rest, yarn, cache)
        found += bool((model.likeliest(hidden[-len(answer) - 1:-1]) == answer).all())
    return found


def answered(model, tokenizer, prompt, attention, yarn):
    """Share of a task's answers that greedy decoding gives."""
    context, question = (torch.tensor(part, device=model.device) for part in (prompt.context, prompt.question))
    tokens, made = len(prompt.answer) + 8, []
    cache = Cache(model, len(context) + len(question) + tokens)
    model.hidden(context, attention.prompt, yarn, cache)
    last = model.likeliest(model.hidden(question, attention.rest, yarn, cache)[-1:])
    while len(made) < tokens and last.item() != model.field("tokenizer.ggml.eos_token_id"):
        made.append(last.item())
        last = model.likeliest(model.hidden(last, attention.rest, yarn, cache))
    return prompt.task.given(tokenizer.decode(made, skip_special_tokens=False))


def read_texts(given, encode):
    """NAME=FILE as tokens: the first of the longest length, or the last."""
    most, texts = max(given.n), {}
    for text in given.text:
        name, path = text.split("=")
        with open(path, encoding="utf-8", errors="ignore") as file:
            # A token has some three bytes or more.
            words = file.read()[-8 * most:] if given.from_end else file.read(8 * most)
        ids = encode(words)
        if len(ids) < most:
            sys.exit(f"quality_cuda: {path} has {len(ids)} tokens, want at least {most}")
        texts[name] = ids[-most:] if given.from_end else ids[:most]
    return texts


def rows(model, tokenizer, encode, texts, prompts, n, method, given):
    """What one method gives at one length, a dict each."""
    yarn = max(1.0, n / model.context)
    new = lambda: Attention(method, given.tail, given.tail_tokens)
    for i, (name, ids) in enumerate(texts.items()):
        ids, attention, row = ids[-n:] if given.from_end else ids[:n], new(), {"text": name}
        if not given.no_perplexity:
            row |= {"tail_tokens": given.tail_tokens, "perplexity": round(perplexity(model, ids, attention, yarn), 4)}
            row |= attention.row()
        if given.needles and i == 0:
            row |= {"found": hidden_numbers(model, encode, ids, new(), yarn, given.needles), "of": given.needles}
        yield row
    for kind, tasks in prompts.items():
        attention = new()
        shares = [answered(model, tokenizer, prompt, attention, yarn) for prompt in tasks]
        yield {"kind": kind, "answered": round(sum(shares) / len(shares), 4), "tasks": len(tasks)} | attention.row()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", nargs="+", default=[], help="NAME=FILE")
    parser.add_argument("--from-end", action="store_true", help="the last tokens of a text, not the first")
    parser.add_argument("--n", nargs="+", type=int, default=[16384])
    parser.add_argument("--method", nargs="+", default=["dense", "window:budget=2048", "routed:budget=2048"])
    parser.add_argument("--tail", choices=["dense", "strict"], default="dense")
    parser.add_argument("--tail-tokens", type=int, default=2048)
    parser.add_argument("--needles", type=int, default=0, help="also ask for so many numbers in the first text")
    parser.add_argument("--kinds", nargs="+", choices=["all", *needles_of.KINDS], default=[], help="tasks after RULER")
    parser.add_argument("--samples", type=int, default=4, help="tasks of each kind")
    parser.add_argument("--no-perplexity", action="store_true")
    given = parser.parse_args()
    model = GgufModel(given.model)
    tokenizer = model.tokenizer()
    encode = lambda text: torch.tensor(tokenizer.encode(text).ids, device=model.device)
    texts = read_texts(given, encode)
    kinds = needles_of.KINDS if "all" in given.kinds else given.kinds
    for n in given.n:
        prompts = {kind: [needles_of.fit(lambda text: tokenizer.encode(text).ids, kind, i, (i + 0.5) / given.samples, n)
                          for i in range(given.samples)] for kind in kinds}
        for method in given.method:
            begin = time.time()
            for row in rows(model, tokenizer, encode, texts, prompts, n, method, given):
                row = {"n": n, "method": method, "protocol": f"tail {given.tail}"} | row
                print(json.dumps(row | {"s": round(time.time() - begin, 1)}), flush=True)
                begin = time.time()


if __name__ == "__main__":
    main()
