#!/usr/bin/env python3
"""Which heads of a GGUF model need what, measured on the GPU (docs/experiments/heads.md).

A text's prefix is read by a plan, one for the query heads of each layer; then its last --tail-tokens, and only they are
scored. Production: the tail is read densely, as hosts decode by default. Strict: by a plan too, each token for itself.
A plan is written as what every head reads, then replacements, later ones over earlier ones:

    R1024 12-23=W512 3.5,9.8-9=D      routed 1,024 keys; layers 12 to 23 a window of 512; heads 3.5, 9.8, 9.9 dense

    D      every key                                   R1024  routed, the query heads of a key head together
    W1024  the first keys and the most recent ones     S8192  routed, each head for itself
                                                       H1024  as S, in tiles of 16 queries
    What a layer reads is one call. S beside R in a key head must have more keys, H goes with D and W only.

    bench/heads_cuda.py qwen.gguf --text novel=novel.txt --n 32768 --damage R1024 --left-out R1024 --copying --error R1024
    bench/heads_cuda.py qwen.gguf --text novel=novel.txt --n 32768 --plan "R1024 3.5=D; S2048 3.5=D" "W1024 3.5=D"

--damage: how much worse with one head alone by this plan and all others dense. --left-out: how much better with one head
dense and all others by it. --error: |W_o (o - o dense)| of each head over |state before the layer|, of the dense prompt's
queries; with --random also on random tokens given twice. --copying: attention of the second of two copies of random
tokens on the same token before (duplicate) and on what followed it (induction). --plan "PROMPT; STRICT; ...": percent
of perplexity over dense, production first, then with strict tails by these plans. One JSON line each.

Needs torch with CUDA, gguf and tokenizers. PRESCORE_LIBRARY names libprescore.so.
"""
import argparse
import json
import math
import os
import sys

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
from gguf_model import GgufModel
from head_map import head_maps


# ---- plans ------------------------------------------------------------------------------------------------------------

def need(text):
    """"S8192" as (letter, keys)."""
    letter, keys = text[:1], text[1:]
    if text == "D":
        return "D", 0
    if letter not in tuple("WRSH") or not keys.isdigit() or int(keys) == 0:
        raise ValueError(f"plan, got {text!r}, want D, or W, R, S or H and a number of keys")
    return letter, int(keys)


def places(text, layers, heads):
    """(layer, head) of "3.5", "9.8-9", "12-23" (all heads of these layers)."""
    def span(part, most):
        first, _, last = part.partition("-")
        if not first.isdigit() or not (last or first).isdigit() or not int(first) <= int(last or first) < most:
            raise ValueError(f"plan, got {text!r}, want LAYERS or LAYERS.HEADS below {layers} and {heads}")
        return range(int(first), int(last or first) + 1)

    layer, dot, head = text.partition(".")
    return [(i, j) for i in span(layer, layers) for j in (span(head, heads) if dot else range(heads))]


def parse_plan(text, layers, heads):
    """What each head reads, [layers][heads] of (letter, keys)."""
    everywhere, *replaced = text.split()
    plan = [[need(everywhere)] * heads for _ in range(layers)]
    for part in replaced:
        where, equals, what = part.partition("=")
        if not equals:
            raise ValueError(f"plan, got {part!r}, want PLACES=NEED")
        for place in where.split(","):
            for i, j in places(place, layers, heads):
                plan[i][j] = need(what)
    return plan


def call_of(needs, group):
    """One layer's needs as budgets by head and options of a routed call; `group` query heads share a key head."""
    letters = {letter for letter, _ in needs}
    if "H" in letters and letters & set("RS"):
        raise ValueError("plan, got H beside R or S in a layer, want it beside D and W only")
    together = "R" in letters
    for first in range(0, len(needs), group):
        of_key = needs[first:first + group]
        shared = {keys for letter, keys in of_key if letter == "R"}
        alone = [keys for letter, keys in of_key if letter == "S"]
        # Of the routed heads of a key head those with the fewest keys choose together, the others for themselves.
        if len(shared) > 1 or (alone and shared and min(alone) <= max(shared)):
            raise ValueError(f"plan, got {of_key} in a key head, want one budget for R and more for S")
        if together and not shared and len(alone) > 1 and alone.count(min(alone)) > 1:
            raise ValueError(f"plan, got {of_key} in a key head beside R in another, want one S of the fewest keys")
    method = {"D": "dense", "W": "window", "R": "routed", "S": "routed", "H": "routed"}
    routed = [keys for letter, keys in needs if letter in "RSH"]
    options = {"budget": min(routed) if routed else 1024, "heads_together": int(together)}
    if "H" in letters:
        options["tile"] = 16
    return [(method[letter], keys) for letter, keys in needs], options


def attend(q, k, v, needs, strict):
    """[heads, n, head_dim] of the queries at the end of the keys."""
    import prescore_cuda

    if all(letter == "D" for letter, _ in needs):
        if q.shape[1] == k.shape[1]:
            return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True, enable_gqa=True)[0]
        return prescore_cuda.attention(q[None], k[None], v[None], "dense")[0]
    heads, options = call_of(needs, len(q) // len(k))
    return prescore_cuda.attention(q[None], k[None], v[None], "routed", heads=heads, routing=int(strict), **options)[0]


# ---- reading ----------------------------------------------------------------------------------------------------------

class Reading:
    """A text: its prefix once, and its tail of T tokens as often as it is read by different plans, side by side."""

    def __init__(self, model, ids, tail, yarn=1.0, attend=attend):
        self.model, self.ids, self.attend, self.tail, self.prefix = model, ids, attend, tail, len(ids) - tail
        self.tables = model.rotation(len(ids), yarn)

    def start(self, tails):
        states = self.model.weights["token_embd.weight"][self.ids].float()
        return torch.cat([states[:self.prefix]] + [states[self.prefix:]] * tails)

    def rotation(self, tails):
        return [torch.cat([t[:self.prefix]] + [t[self.prefix:]] * tails) for t in self.tables]

    def attention(self, layer, q, k, v, prompt, tails):
        """Of the prefix by the plan `prompt`, and of each tail by its own (None: densely)."""
        p, out, dense = self.prefix, torch.empty_like(q), [("D", 0)] * len(q)
        out[:, :p] = self.attend(q[:, :p].contiguous(), k[:, :p].contiguous(), v[:, :p].contiguous(), prompt[layer], False)
        for j, plan in enumerate(tails):
            own = slice(p + j * self.tail, p + (j + 1) * self.tail)
            keys, values = (torch.cat([y[:, :p], y[:, own]], 1) for y in (k, v))
            out[:, own] = self.attend(q[:, own].contiguous(), keys, values, plan[layer] if plan else dense, True)
        return out

    @torch.no_grad()
    def losses(self, prompt, tails, x=None, first=0, keep=None):
        """[tails, T - 1], from the states before layer `first`; those before each layer join `keep`."""
        x, (cos, sin) = self.start(len(tails)) if x is None else x, self.rotation(len(tails))
        for layer in range(first, self.model.layers):
            if keep is not None:
                keep.append(x)
            q, k, v = self.model.qkv(layer, x, cos, sin)
            x = self.model.after(layer, x, self.attention(layer, q, k, v, prompt, tails))
        x = self.model.norm(x[self.prefix:], self.model.weights["output_norm.weight"]).bfloat16()
        return torch.stack([self.model.losses(part[:-1], self.ids[self.prefix + 1:])[0] for part in x.split(self.tail)])


@torch.no_grad()
def single_heads(reading, others, one):
    """Losses [2, T - 1] with all heads by the plan `others`, and [layers, heads, 2, T - 1] with one head by `one`:
    production, then strict."""
    model, keep = reading.model, []
    base = reading.losses(others, [None, others], keep=keep)
    cos, sin = reading.rotation(2)
    out = []
    for layer in range(model.layers):
        q, k, v = model.qkv(layer, keep[layer], cos, sin)
        most = reading.attention(layer, q, k, v, others, [None, others])
        other = reading.attention(layer, q, k, v, one, [None, one])
        for head in range(model.heads):
            o = most.clone()
            o[head] = other[head]
            x = model.after(layer, keep[layer], o)
            out.append(reading.losses(others, [None, others], x, layer + 1).cpu())
    return base.cpu(), torch.stack(out).view(model.layers, model.heads, *base.shape)


@torch.no_grad()
def choice_errors(reading, plan):
    """[layers, heads]: |W_o (o - o dense)| over |x|, means over every 16th query of the dense prompt."""
    model, keep, dense = reading.model, [], parse_plan("D", reading.model.layers, reading.model.heads)
    reading.losses(dense, [None], keep=keep)
    (cos, sin), out = reading.rotation(1), []
    for layer in range(model.layers):
        q, k, v = model.qkv(layer, keep[layer], cos, sin)
        o, sparse = (reading.attention(layer, q, k, v, p, [None])[:, :reading.prefix:16].float() for p in (dense, plan))
        weight = model.weights[f"blk.{layer}.attn_output.weight"].float().view(model.width, model.heads, model.head_dim)
        size = keep[layer][:reading.prefix:16].norm(dim=-1).mean()
        out.append(torch.einsum("hnd,whd->hnw", sparse - o, weight).norm(dim=-1).mean(1) / size)
    return torch.stack(out).cpu()


def random_copies(length, seed):
    generator = torch.Generator().manual_seed(seed)
    half = torch.randint(1000, 30000, (length,), generator=generator)
    return torch.cat([torch.tensor([1]), half, half])


@torch.no_grad()
def copying(model, length, seed):
    """Duplicate-token and induction scores, [2, layers, heads]."""
    ids = random_copies(length, seed).to(model.device)
    x, (cos, sin) = model.weights["token_embd.weight"][ids].float(), model.rotation(len(ids), 1.0)
    hidden = torch.ones(len(ids), len(ids), dtype=torch.bool, device=model.device).triu(1)
    at = torch.arange(length + 1, 2 * length, device=model.device)
    scores = torch.zeros(2, model.layers, model.heads)
    for layer in range(model.layers):
        q, k, v = model.qkv(layer, x, cos, sin)
        k, v = (y.repeat_interleave(model.heads // model.kv_heads, 0).float() for y in (k, v))
        share = (q.float() @ k.transpose(1, 2) / math.sqrt(model.head_dim)).masked_fill(hidden, -math.inf).softmax(-1)
        scores[0, layer] = share[:, at, at - length].mean(1)
        scores[1, layer] = share[:, at, at - length + 1].mean(1)
        x = model.after(layer, x, (share @ v).bfloat16())
    return scores


# ---- what is printed --------------------------------------------------------------------------------------------------

def percent(difference):
    """Of paired differences of losses [..., T]: percent of perplexity and one standard error."""
    error = difference.std(-1) / math.sqrt(difference.shape[-1])
    return (100 * difference.mean(-1).expm1()).tolist(), (100 * error).tolist()


def heads_row(what, plan, base, single):
    """Of --damage and --left-out: [layers][heads] in percent."""
    difference = single - base if what == "damage" else base - single
    row = {"what": what, "plan": plan, "perplexity": base.mean(-1).exp().tolist()}
    for i, protocol in enumerate(("production", "strict")):
        row[protocol], row[protocol + "_error"] = percent(difference[:, :, i])
    return row


def plan_row(reading, text, dense):
    prompt, *tails = (part.strip() for part in text.split(";"))
    plans = [parse_plan(part, reading.model.layers, reading.model.heads) for part in (prompt, *tails)]
    values, errors = percent((reading.losses(plans[0], [None, *plans[1:]]) - dense).cpu())
    return {"prompt": prompt, "tails": ["D", *tails], "percent": values, "error": errors}


def rows(model, reading, given):
    parse = lambda text: parse_plan(text, model.layers, model.heads)
    dense = parse("D")
    for what, plan in (("damage", given.damage), ("left-out", given.left_out)):
        if plan:
            others, one = (dense, parse(plan)) if what == "damage" else (parse(plan), dense)
            yield heads_row(what, plan, *single_heads(reading, others, one))
    if given.error:
        yield {"what": "error", "plan": given.error, "values": choice_errors(reading, parse(given.error)).tolist()}
    if given.plan:
        base = reading.losses(dense, [None])
        yield {"what": "dense", "perplexity": base.mean().exp().item()}
        yield from ({"what": "plan"} | plan_row(reading, plan, base) for plan in given.plan)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", nargs="+", default=[], help="NAME=FILE")
    parser.add_argument("--from-end", action="store_true", help="the last tokens of a text, not the first")
    parser.add_argument("--n", type=int, default=32768)
    parser.add_argument("--tail-tokens", type=int, default=2048)
    parser.add_argument("--yarn", type=float, help="factor of the context (default: what --n needs)")
    parser.add_argument("--damage", metavar="PLAN")
    parser.add_argument("--left-out", metavar="PLAN")
    parser.add_argument("--error", metavar="PLAN")
    parser.add_argument("--random", action="store_true", help="--error on random tokens given twice, too")
    parser.add_argument("--copying", type=int, nargs="?", const=3, default=0, metavar="DRAWS")
    parser.add_argument("--plan", nargs="+", default=[])
    parser.add_argument("--svg", help="maps of layers and heads of what was measured by head")
    given = parser.parse_args()
    model = GgufModel(given.model)
    yarn = given.yarn or max(1.0, given.n / model.context)
    maps = []

    def tell(row):
        print(json.dumps(row), flush=True)
        for part in ("production", "strict", "duplicate", "induction", "values"):
            if part in row:
                maps.append((" ".join(str(row[key]) for key in ("text", "what", "plan") if key in row) + f", {part}", row[part]))

    if given.copying:
        duplicate, induction = sum(copying(model, 512, seed) for seed in range(given.copying)) / given.copying
        tell({"what": "copying", "duplicate": duplicate.tolist(), "induction": induction.tolist()})
    if given.error and given.random:
        reading = Reading(model, random_copies(given.n // 2, 77).to(model.device), given.tail_tokens, yarn)
        errors = choice_errors(reading, parse_plan(given.error, model.layers, model.heads))
        tell({"what": "error", "plan": given.error, "text": "random", "values": errors.tolist()})
    for text in given.text:
        name, path = text.split("=")
        with open(path, encoding="utf-8", errors="ignore") as file:
            words = file.read()[-8 * given.n:] if given.from_end else file.read(8 * given.n)
        ids = torch.tensor(model.tokenizer().encode(words).ids, device=model.device)
        if len(ids) < given.n:
            sys.exit(f"heads_cuda: {path} has {len(ids)} tokens, want at least {given.n}")
        reading = Reading(model, ids[-given.n:] if given.from_end else ids[:given.n], given.tail_tokens, yarn)
        for row in rows(model, reading, given):
            tell({"text": name, "n": given.n} | row)
    if given.svg:
        with open(given.svg, "w", encoding="utf-8") as file:
            file.write(head_maps(os.path.basename(given.model), maps))


if __name__ == "__main__":
    main()
