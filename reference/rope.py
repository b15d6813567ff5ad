"""Rotary position embedding in two dimensions: pairs of a head's channels rotate by angles of the token's row and column.

Sources: Su et al. 2021 (arXiv:2104.09864); ``baaivision/EVA`` ``EVA-02/asuka/rope.py``; ``facebookresearch/perception_models``
``core/vision_encoder/rope.py``; ``facebookresearch/dinov3`` ``dinov3/layers/rope_position_encoding.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor


def interleaved_angles(
    grid_size: tuple[int, int],
    head_dim: int,
    *,
    reference_grid: tuple[int, int] | None = None,
    offset: float = 0.0,
    column_first: bool = False,
    temperature: float = 10000.0,
) -> Tensor:
    """Angles ``(tokens, head_dim)`` for :func:`rotate_pairs`, float64. Each axis has half of the channels, each angle two.

    A token's position is its row and column plus ``offset``, scaled to ``reference_grid`` if given (EVA-02). Rows come first
    (EVA-02), or columns with ``column_first`` (Perception Encoder).
    """
    exponents = torch.arange(0, head_dim // 2, 2, dtype=torch.float64) / (head_dim // 2)
    frequencies = temperature**-exponents
    axes = []
    for side, reference in zip(grid_size, reference_grid or grid_size):
        axes.append((torch.arange(side, dtype=torch.float64) + offset) / side * reference)
    rows, cols = (t.flatten() for t in torch.meshgrid(*axes, indexing="ij"))
    first, second = (cols, rows) if column_first else (rows, cols)
    return torch.cat([(p[:, None] * frequencies).repeat_interleave(2, dim=1) for p in (first, second)], dim=1)


def half_periods(head_dim: int) -> Tensor:
    """Periods ``(head_dim / 4,)`` of :func:`half_angles`, float64: powers of a hundred."""
    return 100.0 ** (2 * torch.arange(head_dim // 4, dtype=torch.float64) / (head_dim // 2))


def half_angles(grid_size: tuple[int, int], head_dim: int) -> Tensor:
    """DINOv3's angles ``(tokens, head_dim)`` for :func:`rotate_halves`, float64, from patch centres between -1 and 1."""
    periods = half_periods(head_dim)
    centres = [(torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1 for side in grid_size]
    places = torch.stack(torch.meshgrid(*centres, indexing="ij"), dim=-1).flatten(0, 1)
    return (2 * pi * places[:, :, None] / periods).flatten(1).repeat(1, 2)


def rotate_pairs(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate channels ``(0, 1), (2, 3), ...`` of ``x`` ``(..., tokens, head_dim)``."""
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * angles.cos().to(x) + turned * angles.sin().to(x)


def rotate_halves(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate channels ``j`` and ``j + head_dim / 2`` of ``x`` ``(..., tokens, head_dim)``."""
    low, high = x.chunk(2, dim=-1)
    return x * angles.cos().to(x) + torch.cat([-high, low], dim=-1) * angles.sin().to(x)


def attend_rotated(
    q: Tensor, k: Tensor, v: Tensor, angles: Tensor, rotate: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Attention of heads ``(batch, heads, tokens, head_dim)``, joined in order: ``(batch, tokens, heads * head_dim)``.

    The last ``len(angles)`` tokens are rotated. The class and register tokens before them are not. If ``k`` and ``v`` have
    fewer heads than ``q``, each of theirs serves several consecutive heads of ``q``.
    """
    prefix = q.shape[2] - len(angles)
    q, k = (torch.cat([t[:, :, :prefix], rotate(t[:, :, prefix:], angles)], dim=2) for t in (q, k))
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    weight = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(dim=-1)
    return (weight @ v).transpose(1, 2).flatten(2)
