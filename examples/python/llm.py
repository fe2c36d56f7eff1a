"""A language model of transformers with prescore as its attention.

    python llm.py HuggingFaceTB/SmolLM2-135M-Instruct    # or a folder; nothing: a tiny random Llama
"""
import sys

import torch
import transformers

import prescore.hf

prescore.hf.register(method="routed", budget=1280)
if len(sys.argv) > 1:
    model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1], attn_implementation="prescore")
    ids = transformers.AutoTokenizer.from_pretrained(sys.argv[1])(
        "Attention is " * 1000, return_tensors="pt").input_ids
else:
    config = transformers.LlamaConfig(vocab_size=256, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                                      num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=8192)
    config._attn_implementation = "prescore"
    model = transformers.AutoModelForCausalLM.from_config(config)
    ids = torch.randint(3, 256, (1, 3000))

text = model.eval().generate(ids, max_new_tokens=8, do_sample=False)
stats = prescore.hf.stats()
print(f"{text.shape[1] - ids.shape[1]} tokens after {ids.shape[1]}; "
      f"{stats.keys / stats.queries:.0f} of {stats.visible / stats.queries:.0f} keys a query were read")
