"""Top-1 accuracy and latency of a Vision Transformer by method and keys a query, training-free.

MODEL is a folder or name of an image classifier of transformers, or timm:NAME. IMAGES has a folder for
each class, named as the model's labels are, or else by number; of images in no such folder only the
agreement with dense is told.
"""
from __future__ import annotations

import pathlib
import statistics
import time

from . import ints, names, print_row


def add_arguments(parser):
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, help="a folder of folders of images")
    parser.add_argument("--methods", type=names, default=["random", "leverage", "kmeans", "routed"])
    parser.add_argument("--keys", type=ints, default=[32, 64, 128], help="that a query reads, comma-separated")
    parser.add_argument("--clusters", type=int, default=5, help="of k-means")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int, default=0, help="images, 0: all")
    parser.add_argument("--device", default="cpu")


def run(given) -> int:
    from .. import vit

    model, prepare, classes = _load(given)
    paths = sorted(p for p in pathlib.Path(given.images).rglob("*") if p.suffix.lower() in
                   (".png", ".jpg", ".jpeg", ".webp", ".bmp"))[: given.limit or None]
    if not paths:
        raise ValueError(f"[vit] --images, got {given.images!r} without an image, want some .png or .jpg in folders")
    truth = [classes.get(p.parent.name) for p in paths]
    dense = None
    for method, keys in [("dense", 0)] + [(m, k) for m in given.methods for k in given.keys]:
        if method != "dense":
            vit.patch(model, method, keys=keys, clusters=given.clusters)
        said, seconds = _answers(model, prepare, paths, given)
        dense = said if dense is None else dense
        hits = [said[i] == t for i, t in enumerate(truth) if t is not None]
        print_row(command="vit", method=method, keys=keys or None, images=len(paths),
                  top1=100 * sum(hits) / len(hits) if hits else None,
                  as_dense=100 * sum(a == b for a, b in zip(said, dense)) / len(said),
                  ms_a_batch=1e3 * seconds, batch=given.batch, device=given.device)
    vit.unpatch(model)
    return 0


def _load(given):
    """The model, what makes tensors of images, and the class of each label."""
    import torch

    if given.model.startswith("timm:"):
        import timm

        model = timm.create_model(given.model[5:], pretrained=True)
        transform = timm.data.create_transform(**timm.data.resolve_data_config({}, model=model))
        prepare = lambda images: torch.stack([transform(x) for x in images])
        classes = {str(i): i for i in range(model.num_classes)}
    else:
        import transformers

        model = transformers.AutoModelForImageClassification.from_pretrained(given.model)
        processor = transformers.AutoImageProcessor.from_pretrained(given.model)
        prepare = lambda images: processor(images, return_tensors="pt").pixel_values
        labels = {int(i): name for i, name in model.config.id2label.items()}
        classes = {str(i): i for i in labels} | {name: i for i, name in labels.items()}
    return model.to(given.device).eval(), prepare, classes


def _answers(model, prepare, paths, given):
    """The likeliest class of every image, and the median seconds of a full batch."""
    import torch
    from PIL import Image

    wait = torch.cuda.synchronize if given.device.startswith("cuda") else lambda: None
    said, times = [], []
    for first in range(0, len(paths), given.batch):
        batch = [Image.open(p).convert("RGB") for p in paths[first : first + given.batch]]
        x = prepare(batch).to(given.device)
        with torch.inference_mode():
            wait()
            begin = time.perf_counter()
            logits = model(x)
            said += getattr(logits, "logits", logits).argmax(-1).tolist()
            times.append(time.perf_counter() - begin)
    return said, statistics.median(times[:-1] if len(paths) % given.batch and len(times) > 1 else times)
