"""python -m prescore ppl on a tiny model in a folder: with a budget of all keys all methods agree."""
import json

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from prescore.__main__ import main  # noqa: E402

pytestmark = pytest.mark.hf


@pytest.fixture
def folder(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {word: i for i, word in enumerate(["<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    config = transformers.LlamaConfig(vocab_size=27, hidden_size=32, intermediate_size=32, num_hidden_layers=2,
                                      num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=512)
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "text.txt").write_text(" ".join("thequickbrownfoxjumpsoverthelazydog" * 10))
    return tmp_path


def test_ppl(folder, capsys):
    assert main(["ppl", "--model", str(folder), "--text", str(folder / "text.txt"), "--ctx", "300",
                 "--dtype", "float32", "--budget", "512", "--methods", "sdpa,dense,window,routed"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["method"] for r in rows] == ["sdpa", "dense", "window", "routed"]
    assert all(r["tail_tokens"] == 75 and r["protocol"] == "tail dense" for r in rows)
    assert all(r["ppl"] == pytest.approx(rows[0]["ppl"], rel=1e-4) for r in rows)
    assert rows[3]["keys_per_query"] == pytest.approx(113) and not rows[3]["left"]
    assert rows[3]["keys_share"] == 1 and rows[3]["standins_per_query"] == 0 and 0 < rows[0]["ppl_error"] < rows[0]["ppl"]


def test_a_tail_longer_than_the_text(folder, capsys):
    for tokens in ("9999", "0"):
        assert main(["ppl", "--model", str(folder), "--text", str(folder / "text.txt"), "--tail-tokens", tokens]) == 1
        assert f"--tail-tokens, got {tokens}, want 1 to" in capsys.readouterr().err


def rows_of(folder, capsys, *more):
    assert main(["ppl", "--model", str(folder), "--text", str(folder / "text.txt"), "--ctx", "300", "--dtype", "float32",
                 "--budget", "64", "--set", "tile=16,window=16,sinks=4", *more]) == 0
    return {row["method"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}


def test_a_tail_is_read_densely_or_strictly(folder, capsys):
    methods = ("--methods", "sdpa,dense,window")
    dense, strict = rows_of(folder, capsys, *methods), rows_of(folder, capsys, *methods, "--tail", "strict")
    assert dense["window"]["protocol"] == "tail dense" and strict["window"]["protocol"] == "tail strict"
    for method in ("sdpa", "dense"):  # nothing to choose
        assert dense[method]["ppl"] == pytest.approx(strict[method]["ppl"], rel=1e-5)
    # The prompt is the same, and what it left in the cache; the window's tail sees less.
    assert dense["window"]["keys_per_query"] == strict["window"]["keys_per_query"] < dense["dense"]["keys_per_query"]
    differ = lambda a, b: abs(a["ppl"] / b["ppl"] - 1) > 1e-6
    assert differ(dense["window"], strict["window"]) and differ(dense["window"], dense["dense"])


def test_from_the_end(folder, capsys):
    text = (folder / "text.txt").read_text()
    last = rows_of(folder, capsys, "--methods", "sdpa", "--from-end")["sdpa"]
    (folder / "text.txt").write_text(" ".join(text.split()[-300:]))
    first = rows_of(folder, capsys, "--methods", "sdpa")["sdpa"]
    assert last["from_end"] and not first["from_end"] and last["ppl"] == first["ppl"]


@pytest.mark.parametrize("tail", ["magic", "2048"])
def test_an_unknown_tail(folder, capsys, tail):
    assert main(["ppl", "--model", str(folder), "--text", str(folder / "text.txt"), "--tail", tail]) == 1
    err = capsys.readouterr().err
    assert f"--tail, got '{tail}', want one of dense, strict" in err and err.count("\n") == 1


def test_more_options(folder, capsys):
    arguments = ["ppl", "--model", str(folder), "--text", str(folder / "text.txt"), "--ctx", "300", "--methods", "window"]
    assert main([*arguments, "--budget", "64", "--set", "tile=16,index.group=64"]) == 0
    assert json.loads(capsys.readouterr().out)["set"] == "tile=16,index.group=64"
    assert main([*arguments, "--set", "tile"]) == 1
    assert "got 'tile', want NAME=VALUE" in capsys.readouterr().err
