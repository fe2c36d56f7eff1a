"""The tokenizer of a GGUF file: byte-level BPE (Qwen2, SmolLM2) from its own vocabulary and merges."""

QWEN_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
              r"|\s*[\r\n]+|\s+(?!\S)|\s+")
GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def tokenizer(fields):
    """Of the fields of a gguf.GGUFReader."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    field = lambda name: fields[name].contents()
    if field("tokenizer.ggml.model") != "gpt2":
        raise ValueError(f"[tokenizer] kind, got {field('tokenizer.ggml.model')}, want gpt2, byte-level BPE")
    vocabulary = {token: i for i, token in enumerate(field("tokenizer.ggml.tokens"))}
    merges = [tuple(m.split(" ")) for m in field("tokenizer.ggml.merges")]
    t = Tokenizer(models.BPE(vocabulary, merges))
    words = [pre_tokenizers.Split(Regex(QWEN_WORDS), "isolated")]
    if field("tokenizer.ggml.pre") == "smollm":
        words = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Split(Regex(GPT2_WORDS), "isolated")]
    t.pre_tokenizer = pre_tokenizers.Sequence([*words, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    return t
