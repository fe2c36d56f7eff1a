#!/usr/bin/env python3
"""k-means over 131,072 keys x 8 heads, d = 128: prescore beside faiss, alternating, same work.

Both cluster each head on its own: d + 1 clusters, 10 iterations over all keys, then the distance of
every key to its centroid, whose mean square, the objective a key, is told beside the time. Keys are Gaussian, f16 here and f32 there; prescore seeds with k-means++, faiss with
random keys (its default). Needs bench/requirements.txt.

    score_vs_faiss.py --program build/release/bench/score [--threads N] [--repeats 3] [--json FILE]
"""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

import faiss
import numpy as np


def ours(args):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "score.json")
        command = [args.program, "--only", "kmeans", "--repeats", "1", "--n", args.n, "--heads", args.heads,
                   "--d", args.d, "--threads", args.threads, "--json", path]
        subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
        with open(path) as file:
            row = json.load(file)["rows"][0]
            return row["seconds"], row["mean_square"]


def theirs(args, keys):
    begin, square = time.perf_counter(), 0
    for head in keys:
        kmeans = faiss.Kmeans(args.d, args.d + 1, niter=10, seed=1, max_points_per_centroid=1 << 30)
        kmeans.train(head)
        distances, _ = kmeans.index.search(head, 1)  # squares
        square += distances.mean(dtype=np.float64) / len(keys)
    return time.perf_counter() - begin, square


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True)
    parser.add_argument("--n", type=int, default=131072)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json")
    args = parser.parse_args()
    faiss.omp_set_num_threads(args.threads)
    keys = np.random.default_rng(1).standard_normal((args.heads, args.n, args.d), dtype=np.float32)
    theirs(args, keys[:1])  # warm up
    rows = [(*ours(args), *theirs(args, keys)) for _ in range(args.repeats)]
    a, our_square, b, their_square = (statistics.median(column) for column in zip(*rows))
    print(f"prescore {a:.2f} s, faiss {faiss.__version__} {b:.2f} s, ratio {b / a:.2f} (above 1: prescore is faster)")
    print(f"mean square of the distance: prescore {our_square:.3f}, faiss {their_square:.3f}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"prescore_s": a, "faiss_s": b, "ratio": b / a, "prescore_square": our_square,
                       "faiss_square": their_square, "rows": rows}, file)


if __name__ == "__main__":
    main()
