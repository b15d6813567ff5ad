"""Relative position biases: tables with a row for every offset between two tokens of a window, resized to another window.

A window of ``(h, w)`` tokens has offsets ``-(h-1)..h-1`` down and ``-(w-1)..w-1`` across. Near offsets matter most, so BEiT
does not stretch the table evenly. It places the old rows at distances ``0, 1, 1+q, 1+q+q^2, ...`` that reach the new window's
farthest offset, and interpolates at the new integer offsets. The nearest neighbours keep their bias.

Sources: ``microsoft/unilm`` ``beit/run_class_finetuning.py`` (which interpolates by cubic splines);
``huggingface/pytorch-image-models`` ``timm/layers/pos_embed_rel.py: resize_rel_pos_bias_table`` (piecewise linear, as here);
``facebookresearch/segment-anything`` ``segment_anything/modeling/image_encoder.py: get_rel_pos`` (one axis, stretched evenly).
"""

from __future__ import annotations

from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from .resize import BILINEAR, axis_matrix, resize_rows, working

Window = tuple[int, ...]


def offsets(window: Window) -> tuple[int, ...]:
    """Number of offsets on each axis of a window."""
    return tuple(2 * side - 1 for side in window)


def _distances(old: int, new: int) -> list[float]:
    """Distances of the positive offsets of an axis with ``old`` offsets, on an axis with ``new`` offsets.

    The steps between them are a geometric progression. Its ratio is found as in the source, by bisection of 1.01 to 1.5 until
    the interval is 1e-6 long.
    """
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio ** (old // 2)) / (1 - ratio) > new // 2:
            high = ratio
        else:
            low = ratio
    reached, out = 0.0, []
    for step in range(old // 2):
        reached += ratio**step
        out.append(reached)
    return out


@lru_cache(maxsize=4096)
def offset_matrix(old: int, new: int) -> Tensor:
    """Matrix ``(new, old)``, float64, that resizes one axis of ``old`` offsets to ``new``, both odd. Cached: do not modify it.

    It is not the identity for equal sizes, since the smallest ratio of steps is 1.01. As in the source, a window that changes
    on one axis is resized on both.
    """
    beyond = _distances(old, new)
    exact: Any = {"dtype": torch.float64, "device": "cpu"}  # whatever the defaults are
    at = torch.tensor([*(-d for d in reversed(beyond)), 0.0, *beyond], **exact)
    wanted = torch.arange(-(new // 2), new // 2 + 1, **exact).clamp(at[0], at[-1])
    matrix = torch.zeros(new, old, **exact)
    if old == 1:
        return matrix + 1
    right = torch.searchsorted(at, wanted).clamp(1, old - 1)
    share = (wanted - at[right - 1]) / (at[right] - at[right - 1])
    rows = torch.arange(new, device="cpu")
    matrix[rows, right - 1] = 1 - share
    matrix[rows, right] = share
    return matrix


@torch.no_grad()
def resize_bias_table(table: Tensor, old: Window, new: Window) -> Tensor:
    """Resize a table ``((2h-1) * (2w-1) + extra, num_heads)`` of window ``old`` ``(h, w)`` to window ``new``.

    The extra rows (the class token's) come last and are kept bit for bit. The matrices are float64, the products have the
    :func:`.resize.working` dtype, and the result has the table's dtype and device. Returns the same tensor if the window does
    not change. Raises ``ValueError`` for a table of another window.
    """
    if tuple(old) == tuple(new):
        return table
    sizes = offsets(old)
    if len(table) < prod(sizes):
        raise ValueError(f"{len(table)} rows do not hold the offsets of a {old[0]}x{old[1]} window")
    rows, cols = (offset_matrix(o, n).to(table.device) for o, n in zip(sizes, offsets(new)))
    grid = resize_rows(table[: prod(sizes)], rows, cols)
    return torch.cat([grid.to(table.dtype), table[prod(sizes) :]])


@torch.no_grad()
def resize_axis_table(table: Tensor, new: int) -> Tensor:
    """Resize SAM's decomposed table ``(2s-1, head_dim)`` of one axis to a window of ``new`` tokens, linearly.

    The matrix is float64, the product has the :func:`.resize.working` dtype, and the result has the table's dtype. Returns the
    same tensor if the window does not change.
    """
    rows = 2 * new - 1
    if len(table) == rows:
        return table
    dtype = working(table)
    return (axis_matrix(len(table), rows, BILINEAR).to(table.device, dtype) @ table.to(dtype)).to(table.dtype)


def attention_bias(table: Tensor, window: Window) -> Tensor:
    """Biases ``(num_heads, n, n)`` of ``n`` tokens, queries first, from a table of ``window`` ``(h, w)``.

    The tokens are the window's patches, row by row. The class token comes before them if the table has its three rows: class
    token to patches, patches to class token, class token to itself.
    """
    index = _pairs(tuple(window), len(table) > prod(offsets(window)))
    return table[index.to(table.device)].permute(2, 0, 1)


@lru_cache(maxsize=64)
def _pairs(window: tuple[int, int], class_token: bool) -> Tensor:
    """Index ``(n, n)`` of the table's row for each pair of tokens. Cached: do not modify it."""
    (h, w), (rows, cols) = window, offsets(window)
    y, x = (t.flatten() for t in torch.meshgrid(*(torch.arange(n, device="cpu") for n in window), indexing="ij"))
    index = (y[:, None] - y + h - 1) * cols + (x[:, None] - x + w - 1)
    if class_token:
        index = torch.nn.functional.pad(index, (1, 0, 1, 0))
        index[0, 1:], index[1:, 0], index[0, 0] = (rows * cols + n for n in range(3))
    return index


def transpose_bias_table(table: Tensor, window: Window) -> Tensor:
    """The table of ``window`` ``(h, w)`` with height and width exchanged."""
    rows, cols = offsets(window)
    grid = table[: rows * cols].reshape(rows, cols, -1).transpose(0, 1)
    return torch.cat([grid.flatten(0, 1), table[rows * cols :]])
