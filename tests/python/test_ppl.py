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
    assert all(r["tail"] == 75 and r["ppl"] == pytest.approx(rows[0]["ppl"], rel=1e-4) for r in rows)
    assert rows[3]["keys_per_query"] == pytest.approx(113) and not rows[3]["left"]
    assert rows[3]["keys_share"] == 1 and rows[3]["standins_per_query"] == 0 and 0 < rows[0]["ppl_error"] < rows[0]["ppl"]


def test_a_tail_longer_than_the_text(folder, capsys):
    assert main(["ppl", "--model", str(folder), "--text", str(folder / "text.txt"), "--tail", "9999"]) == 1
    assert "--tail, got 9999" in capsys.readouterr().err


def test_more_options(folder, capsys):
    arguments = ["ppl", "--model", str(folder), "--text", str(folder / "text.txt"), "--ctx", "300", "--methods", "window"]
    assert main([*arguments, "--budget", "64", "--set", "tile=16,index.group=64"]) == 0
    assert json.loads(capsys.readouterr().out)["set"] == "tile=16,index.group=64"
    assert main([*arguments, "--set", "tile"]) == 1
    assert "got 'tile', want NAME=VALUE" in capsys.readouterr().err
