"""Times of the operator beside PyTorch's scaled_dot_product_attention, on random data.

Causal prompts [1, heads, n, d]. All take turns in one process; the median of the repeats counts.
Random keys have no structure to find: quality is measured by ppl, not here. Rows have the names of
`prescore bench attend --json` where they hold the same; stages are of one more run.
"""
from __future__ import annotations

import statistics
import time

from . import ints, names, print_row


def add_arguments(parser):
    parser.add_argument("--n", type=ints, default=[4096, 16384], help="keys, comma-separated")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--kv-heads", type=int, default=2)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="bfloat16")
    parser.add_argument("--methods", type=names, default=["dense", "window", "routed"])
    parser.add_argument("--budget", type=int, default=1280)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=0, help="0: all")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")


def run(given) -> int:
    import torch

    if given.threads:
        torch.set_num_threads(given.threads)
    for n in given.n:
        _one_length(given, n)
    return 0


def _one_length(given, n: int) -> None:
    import torch

    from .. import attention

    torch.manual_seed(0)
    q, k, v = (torch.randn(1, h, n, given.dim, device=given.device).to(getattr(torch, given.dtype))
               for h in (given.heads, given.kv_heads, given.kv_heads))

    grouped = {"enable_gqa": True} if given.heads != given.kv_heads else {}  # PyTorch 2.5

    def ours(method):
        return lambda **more: attention(
            q, k, v, method=method, budget=given.budget, threads=given.threads, **more)

    def sdpa():
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, **grouped)

    calls = {"torch": sdpa} | {method: ours(method) for method in given.methods}
    reports = {method: calls[method](return_report=True)[1] for method in given.methods}
    sdpa()
    ms: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(given.repeats):
        for name, call in calls.items():
            ms[name].append(1e3 * _seconds(call, given.device))
    base = statistics.median(ms["torch"])
    for name, times in ms.items():
        print_row(command="bench", method=name, keys_seen=n, heads=given.heads, kv_heads=given.kv_heads,
                  d=given.dim, dtype=given.dtype, device=given.device, ms=statistics.median(times),
                  ms_min=min(times), ms_max=max(times), speedup=base / statistics.median(times),
                  **({"kernel": "torch " + torch.__version__, "keys": (n + 1) / 2} if name == "torch" else
                     _of_report(reports[name], name, given.budget)))


def _of_report(report: dict, name: str, budget: int) -> dict:
    queries = max(report["queries"], 1)
    row = {"budget": budget, "kernel": report["isa"], "keys": report["keys"] / queries,
           "standins": report["standins"] / queries}
    row |= {f"{stage}_ms": 1e3 * report[f"{stage}_s"] for stage in ("index", "plan", "attend")}
    return row if report["method"] == name else row | {"took": report["method"]}


def _seconds(call, device: str) -> float:
    import torch

    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    wait()
    begin = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - begin
