#!/usr/bin/env python3
"""A whole language model on one GPU by its attention: perplexity, retrieval, prefill, decoding, memory.

Through attn_implementation: "prescore" with each --method, beside SDPA by PyTorch's flash and cuDNN kernels. Prompts are
read by the method; what is scored or answered after them densely, as models generate by default, or with --tail strict by
the method (docs/quality.md). --needles and --kinds as in quality_cuda.py. One JSON object a line.

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
from prescore._commands.ppl import how, load, tail_perplexity

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


def register(method, reading, **more):
    """reading: "prompt", then the tail's "dense" or "strict"."""
    if method not in SDPA:
        name, _, rest = method.partition(":")
        prescore.hf.register(**how(name, reading), **more, **parse(rest.replace(":", ",")))
    prescore.hf.stats(reset=True)


def read_after(model, method, tail, prompt, question):
    """Logits after each token of the question, which follows a prompt; and the cache."""
    prompt, question = (torch.tensor([ids], device=model.device) for ids in (prompt, question))
    register(method, "prompt")
    cache = model(prompt, use_cache=True, logits_to_keep=1).past_key_values
    register(method, tail)
    return model(question, past_key_values=cache, use_cache=True).logits[0], cache


@torch.inference_mode()
def found(model, encode, ids, method, tail, needles):
    """Numbers of which every digit is the likeliest token."""
    hits = 0
    for i in range(needles):
        needle, question, answer = (encode(text) for text in needles_of.texts(i))
        room = len(ids) - len(needle) - len(question) - len(answer)
        at = int((i + 0.5) / needles * room)
        logits, _ = read_after(model, method, tail, ids[:at] + needle + ids[at:room], question + answer)
        hits += logits[-len(answer) - 1:-1].argmax(-1).tolist() == answer
    return hits


@torch.inference_mode()
def answered(model, tokenizer, prompt, method, tail):
    """Share of a task's answers that greedy decoding gives."""
    logits, cache = read_after(model, method, tail, prompt.context, prompt.question)
    last, made = logits[-1:].argmax(-1), []
    while len(made) < len(prompt.answer) + 8 and last.item() != tokenizer.eos_token_id:
        made.append(last.item())
        last = model(last[None], past_key_values=cache, use_cache=True).logits[0, -1:].argmax(-1)
    return prompt.task.given(tokenizer.decode(made))


@torch.inference_mode()
def times(model, ids, method, batch, tokens=32, repeats=3):
    """Median seconds of the prompt, tokens a second after it, GiB at most."""
    register(method, "prompt")
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
    parser.add_argument("--from-end", action="store_true", help="the last tokens of a text, not the first")
    parser.add_argument("--n", nargs="+", type=int, default=[16384, 32768])
    parser.add_argument("--method", nargs="+", default=["window:budget=2048", "routed:budget=2048:index.group=64"])
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--tail", choices=["dense", "strict"], default="dense")
    parser.add_argument("--tail-tokens", type=int, default=2048)
    parser.add_argument("--needles", type=int, default=32)
    parser.add_argument("--kinds", nargs="+", choices=["all", *needles_of.KINDS], default=[], help="tasks after RULER")
    parser.add_argument("--samples", type=int, default=4, help="tasks of each kind")
    args = parser.parse_args()
    model, tokenizer = load(args.model, "bfloat16", "sdpa", "cuda")
    encode = lambda text: tokenizer(text, add_special_tokens=False).input_ids
    prescore.hf.register()
    texts, most = {}, max(args.n)
    for text in args.text:
        name, path = text.split("=")
        with open(path, encoding="utf-8", errors="ignore") as file:
            texts[name] = encode(file.read()[-8 * most:] if args.from_end else file.read(8 * most))
    kinds = needles_of.KINDS if "all" in args.kinds else args.kinds
    for n in args.n:
        some = {name: ids[-n:] if args.from_end else ids[:n] for name, ids in texts.items()}
        prompts = [(kind, [needles_of.fit(encode, kind, i, (i + 0.5) / args.samples, n) for i in range(args.samples)])
                   for kind in kinds]
        for method in [*SDPA, *args.method]:
            with attention(model, method):
                for row in rows(model, tokenizer, encode, some, prompts, method, args):
                    print(json.dumps({"n": n, "method": method} | row), flush=True)


def rows(model, tokenizer, encode, texts, prompts, method, args):
    """What one method gives at one length, a dict each."""
    first, protocol = next(iter(texts.values())), {"protocol": f"tail {args.tail}"}
    for batch in args.batch:
        yield {"batch": batch} | times(model, first, method, batch)
    if method == "cudnn":  # the same numbers as flash
        return
    for name, ids in texts.items():
        choose = lambda reading: register(method, reading, count=True)
        yield protocol | {"text": name, "tail_tokens": args.tail_tokens} | tail_perplexity(
            model, torch.tensor([ids], device=model.device), args.tail_tokens, choose, args.tail)
    if args.needles:
        yield protocol | {"found": found(model, encode, first, method, args.tail, args.needles), "of": args.needles}
    for kind, tasks in prompts:
        shares = [answered(model, tokenizer, prompt, method, args.tail) for prompt in tasks]
        yield protocol | {"kind": kind, "answered": sum(shares) / len(shares), "tasks": len(tasks)}


if __name__ == "__main__":
    sys.exit(main())
