"""Perplexity of the end of a text by method, after a prompt that the method reads.

The context less its last --tail-tokens is read as a prompt, in tiles; then the tail, which alone is
scored: densely (--tail dense), as models generate by default after a prompt, or with routing
"strict" (--tail strict), so that every scored token chose its keys alone.
Rows have the names of `prescore ppl --json` where they hold the same; `left` counts calls by reason.
MODEL is a folder or name for transformers, or a .gguf file (which needs the packages gguf and accelerate).
"""
from __future__ import annotations

import math
import os
import time

from . import names, options as parse, print_row


def add_arguments(parser):
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", required=True, help="a text file; its first --ctx tokens are used")
    parser.add_argument("--from-end", action="store_true", help="its last --ctx tokens instead")
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--tail", default="dense", help="how the scored tokens are read: dense or strict")
    parser.add_argument("--tail-tokens", type=int, help="tokens scored (a quarter of the context)")
    parser.add_argument("--methods", type=names, default=["sdpa", "dense", "window", "routed"],
                        help='comma-separated; "sdpa" is the model alone')
    parser.add_argument("--budget", type=int, default=1280)
    parser.add_argument("--layers", default="all", help="all, first:N, last:N, even or odd")
    parser.add_argument("--set", default="", metavar="NAME=VALUE,...",
                        help="more options of prescore.attention, as tile=64 or index.group=64")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--device", default="cpu")


def run(given) -> int:
    from .. import _hf_layers, hf

    check_tail(given.tail)
    hf.register()
    model, ids = _load(given)
    n = ids.shape[1]
    tokens = n // 4 if given.tail_tokens is None else given.tail_tokens
    if not 1 <= tokens < n:
        raise ValueError(f"[ppl] --tail-tokens, got {tokens}, want 1 to {n - 1}, less than the text's tokens")
    for method in given.methods:
        _hf_layers.set_attention(model, "sdpa" if method == "sdpa" else "prescore")
        print_row(command="ppl", set=given.set, model=os.path.basename(given.model.rstrip("/")), method=method,
                  budget=given.budget, layers=given.layers, dtype=given.dtype, ctx=n, from_end=given.from_end,
                  protocol=f"tail {given.tail}", tail_tokens=tokens,
                  **_measure(model, ids, tokens, method, given))
    return 0


def check_tail(tail: str) -> None:
    if tail not in ("dense", "strict"):
        raise ValueError(f"[ppl] --tail, got {tail!r}, want one of dense, strict")


def load(path: str, dtype: str, attention: str, device: str):
    """A model of transformers and its tokenizer, from a folder, a name or a .gguf file."""
    import torch
    import transformers

    folder, file = os.path.split(path)
    more = {"gguf_file": file} if file.endswith(".gguf") else {}
    source = (folder or ".") if more else path
    tokenizer = transformers.AutoTokenizer.from_pretrained(source, **more)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        source, torch_dtype=getattr(torch, dtype), attn_implementation=attention, **more)
    return model.to(device).eval(), tokenizer


def _load(given):
    model, tokenizer = load(given.model, given.dtype, "prescore", given.device)
    with open(given.text, encoding="utf-8", errors="replace") as f:
        # No tokenizer needs more letters a token for long.
        text = f.read()[-given.ctx * 16 :] if given.from_end else f.read(given.ctx * 16)
    ids = tokenizer(text, return_tensors="pt").input_ids
    ids = ids[:, -given.ctx :] if given.from_end else ids[:, : given.ctx]
    return model, ids.to(given.device)


def _measure(model, ids, tokens: int, method: str, given) -> dict:
    from .. import hf

    def choose(reading):
        if method != "sdpa":
            hf.register(budget=given.budget, layers=given.layers, count=True, **parse(given.set),
                        **how(method, reading))
        hf.stats(reset=True)

    return tail_perplexity(model, ids, tokens, choose, given.tail)


def how(method: str, reading: str) -> dict:
    """Options of hf.register for a prompt by a method ("prompt"), or for a tail ("dense", "strict")."""
    return {"method": "dense" if reading == "dense" else method,
            "routing": "strict" if reading == "strict" else "tile"}


def tail_perplexity(model, ids, tokens: int, choose, tail: str) -> dict:
    """Perplexity of the last tokens; time and keys of reading the prompt before them. choose(reading): how layers
    read from now on, "prompt", then the tail's "dense" or "strict"."""
    import torch

    from .. import hf

    cut, n = ids.shape[1] - tokens, ids.shape[1]
    with torch.no_grad():
        choose("prompt")
        begin = time.perf_counter()
        prompt = model(ids[:, :cut], use_cache=True, logits_to_keep=1)
        cache, last, losses = prompt.past_key_values, prompt.logits[:, -1:], []
        last.sum().item()  # waits for a GPU
        seconds, read = time.perf_counter() - begin, hf.stats()
        choose(tail)
        for first in range(cut, n, 512):
            chunk = ids[:, first : first + 512]
            logits = model(chunk, past_key_values=cache, use_cache=True).logits
            said = torch.cat([last, logits[:, :-1]], 1).float().log_softmax(-1)
            losses.append(-said.gather(-1, chunk[..., None]).flatten().double())
            last = logits[:, -1:]
    loss = torch.cat(losses)
    ppl = math.exp(loss.mean().item())

    def of(sum, all):
        return sum / all if all else None

    return {
        "ppl": ppl,
        "ppl_error": ppl * loss.std(correction=0).item() / math.sqrt(tokens),
        "prefill_s": seconds,
        "tokens_per_s": cut / seconds,
        "attention_s": read.seconds if read.taken else None,
        "keys_per_query": of(read.keys, read.queries),
        "keys_share": of(read.keys, read.visible),
        "standins_per_query": of(read.standins, read.queries),
        "left": dict(read.left),
    }
