"""CIFAR-10 (Krizhevsky 2009) as one uint8 tensor, from JPEG archives or from torchvision's folder.

JPEG archive: an .npz with `jpeg` (all files back to back), `offset` [n + 1] and `label` [n].
"""
import io
import os
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def load(folder, part):
    """Images [n, 3, 32, 32] uint8 and labels [n]; part: train or test."""
    archive = os.path.join(folder, f"cifar10_{part}.npz")
    if os.path.exists(archive):
        return _from_jpegs(archive)
    batches = os.path.join(folder, "cifar-10-batches-py")
    if os.path.isdir(batches):
        return _from_batches(batches, part)
    raise FileNotFoundError(f"{folder} has neither cifar10_{part}.npz nor cifar-10-batches-py")


def _from_jpegs(path):
    from PIL import Image
    data = np.load(path)
    jpeg, offset = data["jpeg"], data["offset"]
    decode = lambda i: np.asarray(Image.open(io.BytesIO(jpeg[offset[i]:offset[i + 1]].tobytes())).convert("RGB"))
    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(decode, range(len(offset) - 1), chunksize=512)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(data["label"].astype(np.int64))


def _from_batches(folder, part):
    images, labels = [], []
    for name in [f"data_batch_{i}" for i in range(1, 6)] if part == "train" else ["test_batch"]:
        with open(os.path.join(folder, name), "rb") as file:
            batch = pickle.load(file, encoding="latin1")
        images.append(batch["data"].reshape(-1, 3, 32, 32))
        labels += batch["labels"]
    return torch.from_numpy(np.concatenate(images)), torch.tensor(labels)


def normalise(images):
    """uint8 or float in [0, 255] to zero mean and unit variance over CIFAR-10."""
    mean, std = (torch.tensor(x, device=images.device).view(1, 3, 1, 1) for x in (MEAN, STD))
    return (images.float() / 255 - mean) / std
