#!/usr/bin/env python3
"""A whole language model on one GPU by its attention: perplexity, needles, prefill, decoding, memory.

Through attn_implementation: "prescore" with each --method, beside SDPA by PyTorch's flash and cuDNN kernels. Perplexity
by the tail protocol (docs/design.md), needles as in quality_cuda.py. One JSON object a line.

    bench/hf_cuda.py qwen.gguf --text novel=novel.txt --n 16384 32768 --method window:budget=2048 routed:budget=2048

Needs PyTorch with CUDA, transformers, gguf, and prescore built with CUDA.
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

import prescore.hf
from prescore import _hf_layers
from prescore._commands import options as parse
from prescore._commands.ppl import load, tail_perplexity

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
import needles as needles_of  # noqa: E402

SDPA = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def attention(model, method):
    """Sets the model's attention; returns what it runs in."""
    if method in SDPA:
        _hf_layers.set_attention(model, "sdpa")
        # For what the kernel cannot do: questions after a prompt come with a mask.
        return sdpa_kernel([SDPA[method], SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH], set_priority=True)
    _hf_layers.set_attention(model, "prescore")
    return contextlib.nullcontext()


def register(method, routing, **more):
    if method not in SDPA:
        name, _, rest = method.partition(":")
        prescore.hf.register(method=name, routing=routing, **more, **parse(rest.replace(":", ",")))
    prescore.hf.stats(reset=True)


@torch.inference_mode()
def found(model, encode, ids, method, needles):
    """Needles of which every digit is the likeliest token; the question and the answer choose strictly."""
    hits = 0
    for i in range(needles):
        needle, question, answer = (encode(text) for text in needles_of.texts(i))
        room = len(ids) - len(needle) - len(question) - len(answer)
        at = int((i + 0.5) / needles * room)
        text = torch.tensor([ids[:at] + needle + ids[at:room]], device="cuda")
        register(method, "tile")
        cache = model(text, use_cache=True, logits_to_keep=1).past_key_values
        register(method, "strict")
        asked = torch.tensor([question + answer], device="cuda")
        logits = model(asked, past_key_values=cache, use_cache=True, logits_to_keep=len(answer) + 1).logits[0, :-1]
        hits += bool((logits.argmax(-1) == asked[0, -len(answer):]).all())
    return hits


@torch.inference_mode()
def times(model, ids, method, batch, tokens=32, repeats=3):
    """Median seconds of the prompt, tokens a second after it, GiB at most."""
    register(method, "tile")
    prompt = torch.tensor([ids] * batch, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    prefill, decode = [], []
    for _ in range(repeats + 1):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        said = model(prompt, use_cache=True, logits_to_keep=1)
        torch.cuda.synchronize()
        prefill.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        cache, last = said.past_key_values, said.logits[:, -1:].argmax(-1)
        for _ in range(tokens):
            said = model(last, past_key_values=cache, use_cache=True)
            last = said.logits[:, -1:].argmax(-1)
        torch.cuda.synchronize()
        decode.append(batch * tokens / (time.perf_counter() - begin))
        del said, cache
    return {"prefill_s": statistics.median(prefill[1:]), "tokens_s": statistics.median(decode[1:]),
            "gib": torch.cuda.max_memory_allocated() / 2**30}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", nargs="+", required=True, help="NAME=FILE; needles hide in the first")
    parser.add_argument("--n", nargs="+", type=int, default=[16384, 32768])
    parser.add_argument("--method", nargs="+", default=["window:budget=2048", "routed:budget=2048:index.group=64"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--tail", type=int, default=2048)
    parser.add_argument("--needles", type=int, default=32)
    args = parser.parse_args()
    model, tokenizer = load(args.model, "bfloat16", "sdpa", "cuda")
    encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    prescore.hf.register()
    texts = {}
    for text in args.text:
        name, path = text.split("=")
        with open(path, encoding="utf-8", errors="ignore") as file:
            texts[name] = encode(file.read(8 * max(args.n)))
    for n in args.n:
        for method in [*SDPA, *args.method]:
            with attention(model, method):
                for batch in args.batch:
                    row = times(model, next(iter(texts.values()))[:n], method, batch)
                    print(json.dumps({"n": n, "method": method, "batch": batch} | row), flush=True)
                if method == "cudnn":  # the same numbers as flash
                    continue
                for name, ids in texts.items():
                    tokens = torch.tensor([ids[:n]], device="cuda")
                    loss = tail_perplexity(model, tokens, args.tail, lambda routing: register(method, routing, count=True))
                    print(json.dumps({"n": n, "method": method, "text": name} | loss), flush=True)
                if args.needles:
                    hits = found(model, encode, next(iter(texts.values()))[:n], method, args.needles)
                    print(json.dumps({"n": n, "method": method, "found": hits, "of": args.needles}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
