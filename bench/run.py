#!/usr/bin/env python3
"""All ratios that prescore must reach, measured in one run on one machine.

`make bench` calls it. A missed target is reported, never an error; only a part that could not run
is (exit code 1, after the others). Text on the way, then one table; --json gets
{"machine", "ratios": [{"name", "value", "must", "aim", "better"}], "rows": [every raw number]}.
"""
import argparse
import json
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
SMALL, LARGE = 32768, 131072
PARTS = ("dense", "routed", "memory", "llama")


class Bench:
    def __init__(self, args):
        self.args = args
        self.rows, self.ratios, self.failed = [], [], []
        self.out = pathlib.Path(args.json).parent
        self.out.mkdir(parents=True, exist_ok=True)

    # --- running ----------------------------------------------------------------------------------

    def part(self, title, command):
        """Runs a program that takes --json FILE; its document, or None where it failed."""
        say(title)
        begin = time.time()
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "part.json")
            code = subprocess.run([str(c) for c in command] + ["--json", path], check=False).returncode
            if code != 0:
                self.failed.append(title)
                say(f"failed with exit code {code}")
                return None
            with open(path) as file:
                document = json.load(file)
        print(f"  {time.time() - begin:.0f} s", flush=True)
        return document

    def ratio(self, name, value, must, aim, better="higher"):
        self.ratios.append(
            {"name": name, "value": value, "must": must, "aim": aim, "better": better}
        )

    # --- parts ------------------------------------------------------------------------------------

    def dense(self):
        python = pathlib.Path(self.args.torch_python)
        rows = []
        if self.args.skip_torch or not python.exists():
            say("dense against PyTorch: left out" + ("" if self.args.skip_torch else ", no PyTorch"))
        else:
            command = [python, ROOT / "bench/dense_vs_torch.py"]
            command += ["--library", self.program("libprescore.so")]
            if self.args.quick:
                command += ["--n", 4096, "--repeats", 3]
            document = self.part("dense against PyTorch's CPU attention", command)
            rows = document["rows"] if document else []
        self.rows += rows
        for dtype in ("f32", "bf16"):
            for d in (64, 128):
                row = find(rows, dtype=dtype, d=d)
                n = row["n"] if row else 16384
                self.ratio(f"dense causal {dtype} d = {d} n = {n}: speed relative to PyTorch",
                           row and row["ratio"], 0.9, 1.0)

    def routed(self):
        command = [self.program("routed"), "--n", f"{SMALL},{LARGE}"]
        if self.args.quick:
            command += ["--repeats", 1, "--dense-full", 1]
        document = self.part("routed against the own dense kernel", command)
        rows = document["rows"] if document else []
        self.rows += rows
        ours = [r for r in rows if r["name"] == "routed" and not r["packed"] and r["data"] == "topics"]
        for budget in sorted({r["budget"] for r in ours}) or [1024]:
            small, large = find(ours, n=SMALL, budget=budget), find(ours, n=LARGE, budget=budget)
            label = f"routed, budget {budget}"
            for row, n, must, aim in ((small, SMALL, 4, 7), (large, LARGE, 12, 20)):
                dense = find(rows, name="dense", n=n)
                note = " (dense scaled from a slice)" if dense and dense["scaled_from_slice"] else ""
                self.ratio(f"{label}: speed relative to dense at {n}{note}",
                           row and row["speedup"], must, aim)
            self.ratio(f"{label}: time at {LARGE} over time at {SMALL}",
                       small and large and large["seconds"] / small["seconds"], 6, 6, "lower")
            for row, n in ((small, SMALL), (large, LARGE)):
                self.ratio(f"{label}: index + plan, share of processor time at {n}",
                           row and row["selection_share"], 0.4, 0.4, "lower")

    def llama(self):
        rows, ctx = [], 2048 if self.args.quick else 8192
        if self.args.skip_llama or not (self.args.model and self.args.text_dir):
            say("SmolLM2 in llama.cpp: left out")
        else:
            text = self.out / "text.txt"
            files = sorted(pathlib.Path(self.args.text_dir).glob("*.cpp"), key=lambda p: p.name)
            text.write_bytes(b"".join(p.read_bytes() for p in files))  # as scripts/demo.sh
            methods = "stock,routed" if self.args.quick else "stock,dense,routed"
            command = [pathlib.Path(self.args.build) / "prescore", "ppl", "--model", self.args.model,
                       "--text", text, "--ctx", ctx, "--methods", methods]
            document = self.part(f"SmolLM2 at {ctx} tokens in llama.cpp", command)
            rows = document["rows"] if document else []
        stock, routed = find(rows, method="stock"), find(rows, method="routed")
        both = stock and routed
        for row in rows:
            row = {"part": "llama", "ctx": ctx, **row}
            if stock and row["method"] != "stock":
                row["attention_gain"] = stock["attention_s"] / row["attention_s"]
                row["prefill_gain"] = stock["prefill_s"] / row["prefill_s"]
            self.rows.append(row)
        self.ratio(f"SmolLM2 at {ctx} tokens in llama.cpp: attention, speed relative to stock",
                   both and stock["attention_s"] / routed["attention_s"], 10, 20)
        if both:
            print(f"  for information: whole prefill {stock['prefill_s'] / routed['prefill_s']:.2f}x "
                  f"as fast, perplexity {100 * (routed['ppl'] / stock['ppl'] - 1):+.2f} %")

    def memory(self):
        for packed, must in ((False, 0.25), (True, 1.30)):
            name = " with the packed copy" if packed else ""
            command = [self.program("memory"), "--n", LARGE] + (["--packed", 1] if packed else [])
            document = self.part(f"memory of a routed call{name}", command)
            row = document["rows"][0] if document else None
            self.rows += document["rows"] if document else []
            # What is promised or what was taken, whichever is more.
            value = row and max(row["workspace_share"], row["rss_growth_share"])
            self.ratio(f"memory beyond K, V, outputs at {LARGE}, of K + V{name}", value, must, must,
                       "lower")

    def program(self, name):
        return pathlib.Path(self.args.build) / "bench" / name

    # --- result -----------------------------------------------------------------------------------

    def table(self):
        lines = [("", "value", "must", "aim", "")]
        for r in self.ratios:
            sign = ">=" if r["better"] == "higher" else "<="
            value = "-" if r["value"] is None else f"{r['value']:.2f}"
            lines.append((r["name"], value, f"{sign} {r['must']:g}", f"{sign} {r['aim']:g}", verdict(r)))
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        for line in lines:
            print("  ".join(c.ljust(w) if i in (0, 4) else c.rjust(w)
                            for i, (c, w) in enumerate(zip(line, widths))).rstrip())

    def write(self, machine, load):
        document = {"machine": machine, "quick": self.args.quick, "load_average": load,
                    "ratios": self.ratios, "rows": self.rows}
        pathlib.Path(self.args.json).write_text(json.dumps(document, indent=1) + "\n")


def verdict(r):
    if r["value"] is None:
        return "not measured"
    def reaches(goal):
        return r["value"] >= goal if r["better"] == "higher" else r["value"] <= goal
    return "aim reached" if reaches(r["aim"]) else "reached" if reaches(r["must"]) else "MISSED"


def find(rows, **wanted):
    return next((r for r in rows if all(r.get(k) == v for k, v in wanted.items())), None)


def machine_name(build):
    """Processor, cores, instruction sets chosen."""
    facts = {}
    try:
        text = subprocess.run([os.path.join(build, "prescore"), "info"], capture_output=True, text=True,
                              check=False).stdout
        for line in text.splitlines():
            name, _, value = line.partition("  ")
            facts.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = facts.get("machine") or processor() or platform.machine()
    return f"{name}, {cores} cores" + (f", {facts['chosen']}" if "chosen" in facts else "")


def processor():
    try:
        with open("/proc/cpuinfo") as file:
            return next((x.partition(":")[2].strip() for x in file if x.startswith("model name")), "")
    except OSError:
        return platform.processor()


def say(text):
    print(f"[bench] {text}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", default=ROOT / "build/release", help="build folder")
    parser.add_argument("--json", default=ROOT / "build/bench/result.json")
    parser.add_argument("--model", help="SmolLM2, a GGUF file")
    parser.add_argument("--text-dir", help="folder with the *.cpp that are read")
    parser.add_argument("--torch-python", default=ROOT / ".venv/bench/bin/python",
                        help="a Python that has PyTorch")
    parser.add_argument("--quick", action="store_true",
                        help="about a minute: shorter inputs, fewer repeats; no figures to publish")
    parser.add_argument("--skip-torch", action="store_true")
    parser.add_argument("--skip-llama", action="store_true")
    parser.add_argument("--only", default=",".join(PARTS), help="some of " + ", ".join(PARTS))
    args = parser.parse_args()
    for name in args.only.split(","):
        if name not in PARTS:
            parser.error(f"--only, got {name}, want some of {', '.join(PARTS)}")

    machine, load = machine_name(args.build), os.getloadavg()
    say(machine)
    if load[0] > 0.5:
        say(f"the machine is busy (load {load[0]:.1f}): times will be worse and wider than they are")
    bench = Bench(args)
    for name in args.only.split(","):
        getattr(bench, name)()
    bench.write(machine, {"before": load, "after": os.getloadavg()})
    print()
    bench.table()
    say(f"every number: {os.path.relpath(args.json)}" + (" (quick run)" if args.quick else ""))
    if bench.failed:
        say("did not run: " + "; ".join(bench.failed))
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
