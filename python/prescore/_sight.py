"""What an attention mask of transformers lets each query see, where that is a run of keys."""
from __future__ import annotations

import weakref
from typing import NamedTuple

import torch


class Row(NamedTuple):
    """One batch entry: its queries see keys from `first` on; query i sees `ends[i] - first` of them."""

    first: int
    last: int
    positions: list[int] | None  #: in the keys [first, last); None: aligned bottom right


def rows_of(mask: torch.Tensor, batch: int, n_q: int, n_kv: int) -> list[Row] | None:
    """A Row for each batch entry; None where a query sees anything but keys [first, end) with one
    `first` a row and ends that do not fall: sliding windows, packed sequences, biases.

    mask: [b or 1, 1, n_q, n_kv or more]: bool (True is seen) or added to the scores (0 or very low).
    """
    if mask.dim() != 4 or mask.shape[1] != 1 or mask.shape[2] != n_q or mask.shape[3] < n_kv:
        return None
    mask = mask[:, 0, :, :n_kv]
    seen = mask if mask.dtype == torch.bool else mask == 0
    if mask.dtype != torch.bool and not (seen | (mask <= torch.finfo(mask.dtype).min / 2)).all():
        return None
    count = seen.sum(-1)
    begin = seen.byte().argmax(-1)
    end = n_kv - seen.flip(-1).byte().argmax(-1)
    some = count > 0
    first = torch.where(some, begin, n_kv).amin(-1, keepdim=True)
    end = torch.where(some, end, first)
    if not ((count == end - first) & ((begin == first) | ~some)).all() or (end.diff(dim=-1) < 0).any():
        return None
    rows = [_row(int(f), e) for f, e in zip(first, end.tolist())]
    return rows * batch if len(rows) == 1 else rows


_last: tuple = (lambda: None, None, None)  # the mask, weakly; its version and shape; rows


@torch.compiler.disable
def rows_of_last(mask: torch.Tensor, batch: int, n_q: int, n_kv: int) -> list[Row] | None:
    """rows_of, once for the layers of a model, which are given one mask."""
    global _last
    key = (None if mask.is_inference() else mask._version, batch, n_q, n_kv)
    seen, known, rows = _last
    if seen() is not mask or known != key:
        rows = rows_of(mask, batch, n_q, n_kv)
        _last = (weakref.ref(mask), key, rows)
    return rows


def is_plain(row: Row, n_kv: int) -> bool:
    """Sees as without a mask: all keys up to its own."""
    return row.positions is None and row.first == 0 and row.last == n_kv


def pieces(positions: list[int]) -> list[tuple[int, int, int, bool]]:
    """Calls without positions that see the same: (first query, end, keys, causal), in order.

    positions: non-decreasing, of each query; it sees the keys up to its own. Runs of one step a query are
    causal calls, aligned bottom right; runs without a step see the same keys.
    """
    found, at, n = [], 0, len(positions)
    while at < n:
        step = positions[at + 1] - positions[at] if at + 1 < n else 1
        step = step if step in (0, 1) else 1
        end = at + 1
        while end < n and positions[end] - positions[end - 1] == step:
            end += 1
        found.append((at, end, positions[end - 1] + 1, step == 1))
        at = end
    return found


def _row(first: int, ends: list[int]) -> Row:
    last, n_q = ends[-1], len(ends)
    aligned = all(end - first == max(0, last - first - n_q + i + 1) for i, end in enumerate(ends))
    return Row(first, last, None if aligned else [end - first - 1 for end in ends])
