"""A Vision Transformer whose queries read some of their patches, method by method.

    python vit.py google/vit-base-patch16-224    # or a folder; nothing: a tiny random one
"""
import sys

import torch
import transformers

import prescore.vit

if len(sys.argv) > 1:
    model = transformers.ViTModel.from_pretrained(sys.argv[1])
else:
    torch.manual_seed(0)
    model = transformers.ViTModel(transformers.ViTConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=2))
size = model.config.image_size
images = torch.randn(4, 3, size, size)

with torch.no_grad():
    dense = model.eval()(images).last_hidden_state[:, 0]
    for method in prescore.vit.METHODS:
        prescore.vit.patch(model, method, keys=64)
        found = model(images).last_hidden_state[:, 0]
        print(f"{method:12} class token at cosine {torch.cosine_similarity(found, dense).mean():.4f} from that of all keys")
    prescore.vit.unpatch(model)
