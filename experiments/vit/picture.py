#!/usr/bin/env python3
"""Draws docs/experiments/vit.svg: accuracy against what a query reads, from rows of evaluate.py.

    experiments/vit/picture.py vit_gpu.jsonl vit_cpu.jsonl --out docs/experiments/vit.svg
"""
import argparse
import json

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt  # noqa: E402

NAMES = {"routed": "routed (keys and stand-ins)", "tome": "token merging", "kmeans": "k-means, drawn (the paper)",
         "kmeans_top": "k-means, farthest", "leverage": "leverage", "random": "random"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--out", default="vit.svg")
    args = parser.parse_args()
    rows = [json.loads(line) for path in args.rows for line in open(path, encoding="utf-8")]
    plt.rcParams.update({"svg.hashsalt": "prescore", "font.size": 9})
    figure, axes = plt.subplots(figsize=(6.4, 4))
    dense = next(r["accuracy"] for r in rows if r["method"] == "dense")
    axes.axhline(dense, color="black", linewidth=1)
    axes.annotate(f"dense, 257 keys: {dense:.1f} %", (16, dense), xytext=(0, 3), textcoords="offset points")
    for method, name in NAMES.items():
        points = sorted({(r["read"] + r["standins"], r["accuracy"]) for r in rows if r["method"] == method})
        if points:
            axes.plot(*zip(*points), marker="o", markersize=4, label=name)
    axes.set(xscale="log", xlabel="rows that a query reads, mean over layers", ylabel="top-1 accuracy, %", ylim=(50, 93))
    axes.set_xticks([16, 32, 64, 96, 128], ["16", "32", "64", "96", "128"])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(args.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
