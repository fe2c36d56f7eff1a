"""Every example runs, and so does the command line."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

EXAMPLES = sorted((pathlib.Path(__file__).parents[2] / "examples/python").glob("*.py"))


def run(*command, cwd, ok=True):
    done = subprocess.run([sys.executable, *map(str, command)], cwd=cwd, capture_output=True, text=True,
                          timeout=120, env=os.environ | {"PYTHONPATH": _absolute_path()})
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done


def _absolute_path():
    return os.pathsep.join(map(os.path.abspath, filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example(example, tmp_path):
    if example.stem in ("llm", "vit"):
        pytest.importorskip("transformers")
    assert run(example, cwd=tmp_path).stdout


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    done = run("-m", "prescore", "plot", "--n", 2048, "--out", "a.png", cwd=tmp_path)
    row = json.loads(done.stdout)
    assert row["method"] == "routed" and row["keys_per_query"] <= 1280
    assert (tmp_path / "a.png").exists()


def test_bench(tmp_path):
    pytest.importorskip("torch")
    done = run("-m", "prescore", "bench", "--n", "512,1024", "--repeats", 1, cwd=tmp_path)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(r["keys_seen"], r["method"]) for r in rows] == [
        (n, m) for n in (512, 1024) for m in ("torch", "dense", "window", "routed")]
    assert all(r["ms"] > 0 and r["keys"] > 0 and r["kernel"] for r in rows)
    assert all(r["attend_ms"] > 0 and r["budget"] == 1280 for r in rows if r["method"] != "torch")


def test_errors_are_one_line(tmp_path):
    pytest.importorskip("torch")
    done = run("-m", "prescore", "bench", "--n", "64", "--methods", "magic", cwd=tmp_path, ok=False)
    assert done.stderr.startswith("prescore: [python] method") and done.stderr.count("\n") == 1
