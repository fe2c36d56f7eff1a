#!/usr/bin/env python3
"""The dense kernel against PyTorch's CPU scaled_dot_product_attention, in one process.

Causal, batch 1, 8 heads, f32 and bf16, all cores. Both read and write the same buffers, contiguous
[b, h, n, d], and take turns. PyTorch gets what suits it best: the flash kernel, and of every thread
count and memory layout tried at a shorter length the fastest.
"""
import argparse
import ctypes
import itertools
import json
import os
import statistics
import sys
import time

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

DTYPES = {"f32": (torch.float32, 0), "bf16": (torch.bfloat16, 2)}


class Tensor(ctypes.Structure):
    """prescore_tensor of include/prescore/c_api.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("dtype", ctypes.c_int32),
        ("shape", ctypes.c_int64 * 4),
        ("stride", ctypes.c_int64 * 4),
    ]


class Output(ctypes.Structure):
    """prescore_output."""

    _fields_ = Tensor._fields_ + [("lse", ctypes.c_void_p)]


class Options(ctypes.Structure):
    """The first fields of prescore_options, which is all that is set here."""

    _fields_ = [("struct_size", ctypes.c_size_t)] + [
        (name, ctypes.c_int32)
        for name in ("method", "routing", "standins", "score", "compute", "causal", "threads")
    ]


METHOD_DENSE = 1


class Prescore:
    def __init__(self, path):
        self.lib = ctypes.CDLL(path)
        self.lib.prescore_last_error.restype = ctypes.c_char_p
        self.lib.prescore_isa_name.restype = ctypes.c_char_p
        self.options = Options()
        self.lib.prescore_options_init(
            ctypes.byref(self.options), ctypes.c_size_t(ctypes.sizeof(Options))
        )
        self.options.method = METHOD_DENSE
        self.options.causal = 1

    def isa(self, dtype):
        return self.lib.prescore_isa_name(0, DTYPES[dtype][1]).decode()

    def call(self, q, k, v, out, dtype):
        """A function of no arguments that attends."""
        kind = DTYPES[dtype][1]
        args = [self._describe(Tensor, x, kind) for x in (q, k, v)]
        args += [self._describe(Output, out, kind), self.options]

        def run():
            status = self.lib.prescore_attention(*map(ctypes.byref, args), None)
            if status != 0:
                raise RuntimeError(self.lib.prescore_last_error().decode())

        return run

    @staticmethod
    def _describe(struct, x, kind):
        four = ctypes.c_int64 * 4
        return struct(x.data_ptr(), kind, four(*x.shape), four(*x.stride()))


def torch_call(q, k, v):
    def run():
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return scaled_dot_product_attention(q, k, v, is_causal=True)

    return run


def seconds(run):
    begin, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - begin, time.process_time() - cpu


def make(heads, n, d, dtype, layout="bhnd"):
    torch.manual_seed(0)
    shape = (1, heads, n, d) if layout == "bhnd" else (1, n, heads, d)
    made = [torch.randn(shape).to(DTYPES[dtype][0]) for _ in range(3)]
    return made if layout == "bhnd" else [x.transpose(1, 2) for x in made]


def best_setting(heads, n, d, dtype):
    """The thread count and layout that PyTorch is fastest with, and the seconds of each."""
    counts = sorted({torch.get_num_threads(), os.cpu_count() or 1})
    tried = []
    for threads, layout in itertools.product(counts, ("bhnd", "bnhd")):
        torch.set_num_threads(threads)
        run = torch_call(*make(heads, n, d, dtype, layout))
        run()
        tried.append((min(seconds(run)[0] for _ in range(3)), threads, layout))
    torch.set_num_threads(counts[0])
    return min(tried), tried


def compare(prescore, heads, n, d, dtype, repeats):
    best, tried = best_setting(heads, min(n, 4096), d, dtype)
    _, threads, layout = best
    torch.set_num_threads(threads)
    q, k, v = make(heads, n, d, dtype, layout)
    out = torch.empty_like(q)
    ours, theirs = prescore.call(q, k, v, out, dtype), torch_call(q, k, v)

    ours()
    expected = theirs().float()
    difference = ((out.float() - expected).norm() / expected.norm()).item()
    if not difference < 0.02:
        raise RuntimeError(f"the two disagree: relative difference {difference:.3g}")
    del expected

    times = {"prescore": [], "torch": []}
    for r in range(repeats):
        turn = [("prescore", ours), ("torch", theirs)]
        for name, run in turn if r % 2 == 0 else reversed(turn):
            if sys.stdout.isatty():
                print(f"\r  {dtype} d = {d}: {r + 1} of {repeats}  ", end="", flush=True)
            times[name].append(seconds(run))
    wall = {name: [t[0] for t in x] for name, x in times.items()}
    cpu = {name: statistics.median(t[1] for t in x) for name, x in times.items()}
    median = {name: statistics.median(x) for name, x in wall.items()}
    flop = 4 * d * heads * n * (n + 1) / 2
    gains = [b / a for a, b in zip(wall["prescore"], wall["torch"])]
    row = {
        "part": "dense_vs_torch", "name": "dense", "n": n, "d": d, "heads": heads, "dtype": dtype,
        "isa": prescore.isa(dtype), "torch": torch.__version__, "torch_threads": threads,
        "layout": layout, "repeats": repeats,
        "ratio": median["torch"] / median["prescore"],
        "ratio_min": min(gains), "ratio_max": max(gains),
        "cpu_ratio": cpu["torch"] / cpu["prescore"],
        "difference": difference,
        "torch_settings": [
            {"seconds": s, "threads": t, "layout": kind} for s, t, kind in tried
        ],
    }
    for name in wall:
        row |= {
            f"{name}_seconds": median[name],
            f"{name}_seconds_min": min(wall[name]),
            f"{name}_seconds_max": max(wall[name]),
            f"{name}_cpu_seconds": cpu[name],
            f"{name}_gflops": flop / median[name] * 1e-9,
        }
    print(
        ("\r" if sys.stdout.isatty() else "") + f"  {dtype:4} d = {d:3}: prescore {median['prescore']:.3f} s "
        f"({row['prescore_gflops']:.0f} GFLOP/s, {row['isa']}), torch {median['torch']:.3f} s "
        f"({row['torch_gflops']:.0f} GFLOP/s, {threads} threads, {layout}), "
        f"{row['ratio']:.2f}x its speed ({row['ratio_min']:.2f} .. {row['ratio_max']:.2f})",
        flush=True,
    )
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--library", required=True, help="libprescore.so of the target bench_c_api")
    parser.add_argument("--n", type=int, default=16384)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--dims", default="64,128")
    parser.add_argument("--dtypes", default="f32,bf16")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    prescore = Prescore(args.library)
    print(f"dense causal, n = {args.n}, {args.heads} heads, PyTorch {torch.__version__}", flush=True)
    rows = [
        compare(prescore, args.heads, args.n, int(d), dtype, args.repeats)
        for dtype in args.dtypes.split(",")
        for d in args.dims.split(",")
    ]
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"rows": rows}, file, indent=1)


if __name__ == "__main__":
    sys.exit(main())
