#!/usr/bin/env python3
"""Attention on one GPU: our methods against PyTorch's flash and cuDNN kernels, in one process.

Causal, batch 1, bf16. Keys lie around 256 centres a head and queries near keys, so that there is something to choose.
Every time is the median of --repeats runs between CUDA events and holds index, plan and attend; stage times and keys
read come from one more run. Methods are NAME[:OPTION=VALUE...] as in quality_cuda.py. Needs PyTorch with CUDA and
libprescore.so (target bench_c_api; PRESCORE_LIBRARY).

    bench/attend_cuda.py --keys 32768 131072 --method routed:budget=2048:index.cluster=16:index.group=64 dense
"""
import argparse
import json
import os
import statistics
import subprocess
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "support"))
import prescore_cuda  # noqa: E402

SHAPES = {"mha128": (32, 32, 128), "gqa128": (32, 8, 128), "gqa64": (14, 2, 64)}
GROUPS = "index.group=64"
METHODS = [f"routed:budget=2048:{GROUPS}", f"routed:budget=2048:index.cluster=16:{GROUPS}",
           f"routed:budget=1280:index.cluster=16:{GROUPS}", f"routed:budget=4096:{GROUPS}", "window:budget=2048", "dense"]
PEERS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def clustered(heads, n, d):
    centre = torch.randn(heads, 256, d, device="cuda")
    which = torch.randint(0, 256, (heads, n), device="cuda")[..., None].expand(-1, -1, d)
    return (centre.gather(1, which) + 0.5 * torch.randn(heads, n, d, device="cuda")).bfloat16()[None]


def median_ms(run, repeats):
    for _ in range(2):
        run()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record(), run(), end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def ours(q, k, v, method, repeats):
    name, options, index = prescore_cuda.parse(method)
    call = dict(method=name, index=index, out=torch.empty_like(q), **options)
    ms = median_ms(lambda: prescore_cuda.attention(q, k, v, **call), repeats)
    _, r = prescore_cuda.attention(q, k, v, count=True, **call)
    flops = 4.0 * q.shape[3] * (r.keys + r.standins)
    return dict(ms=ms, index_ms=1e3 * r.index_s, plan_ms=1e3 * r.plan_s, attend_ms=1e3 * r.attend_s,
                keys=r.keys / r.queries, standins=r.standins / r.queries,
                attend_tflops=flops / r.attend_s / 1e12, row_tbytes=flops / 128 / r.attend_s / 1e12)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, nargs="+", default=[4096, 8192, 16384, 32768, 65536, 131072])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--method", nargs="+", default=METHODS)
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--dense-until", type=int, default=131072, help="longest text for the dense peers")
    parser.add_argument("--json", help="file for the rows and the GPU with its clocks")
    a = parser.parse_args()
    torch.manual_seed(0)
    rows = []

    def add(shape, n, name, **row):
        rows.append(dict(shape=shape, keys_seen=n, method=name, **row))
        extra = "" if "keys" not in row else (
            "  index {index_ms:.2f} plan {plan_ms:.2f} attend {attend_ms:.2f} ms, {keys:.0f} keys, "
            "{standins:.1f} stand-ins, {attend_tflops:.0f} TFLOP/s".format(**row))
        print(f"{shape:8} {n:7} {name:52} {row['ms']:9.3f} ms{extra}", flush=True)

    for shape in a.shapes:
        h, h_kv, d = SHAPES[shape]
        for n in a.keys:
            k, v = clustered(h_kv, n, d), torch.randn(1, h_kv, n, d, device="cuda", dtype=torch.bfloat16)
            q = (k.repeat_interleave(h // h_kv, 1).roll(n // 8, 2) + torch.randn(1, h, n, d, device="cuda")).bfloat16()
            for method in a.method:
                if method != "dense" or n <= a.dense_until:
                    add(shape, n, method, **ours(q, k, v, method, a.repeats))
            for name in a.peers if n <= a.dense_until else []:
                kk, vv = (t.repeat_interleave(h // h_kv, 1) for t in (k, v))
                with sdpa_kernel(PEERS[name]):
                    add(shape, n, name, ms=median_ms(lambda: scaled_dot_product_attention(q, kk, vv, is_causal=True), a.repeats))
    if a.json:
        gpu = subprocess.check_output(["nvidia-smi", "-i", "0", "--format=csv,noheader",
                                       "--query-gpu=name,driver_version,clocks.sm,clocks.max.sm"], text=True).strip()
        with open(a.json, "w") as f:
            json.dump(dict(gpu=gpu, torch=torch.__version__, repeats=a.repeats, rows=rows), f, indent=1)


if __name__ == "__main__":
    main()
