"""Resampling by plain matrices, made in float64 from closed-form kernels.

All resampling of the loaders is separable: resizing an ``(h, w)`` image is ``A_h @ image @ A_w.T`` with one small matrix for
each axis. So the two-dimensional operator is ``kron(A_h, A_w)``, and its pseudo-inverse is ``kron(pinv(A_h), pinv(A_w))``.

This module does not use ``torch.nn.functional.interpolate``. Its antialiased CPU kernel is wrong if the other axis has length
1 (seen with torch 2.13), and the reference must not share a bug with the loaders that it judges.

Kernels: the triangle for bilinear; Keys' cubic (R. Keys, "Cubic Convolution Interpolation for Digital Image Processing",
1981) for bicubic, with a = -0.5 when antialiased (PIL's choice) and a = -0.75 when not (OpenCV's choice), as torch does
in ``aten/src/ATen/native/UpSample.h`` and ``aten/src/ATen/native/cpu/UpSampleKernel.cpp``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Mode = Literal["bilinear", "bicubic"]
MODES: tuple[Mode, ...] = ("bilinear", "bicubic")

# Relative cut-off of singular values. In any resampling matrix of one axis, the smallest value kept is >= 0.2 of the largest and
# the largest dropped is <= 1e-15 of it. The gap has fourteen decades, so the exact cut-off does not matter.
_RANK_CUTOFF = 1e-9

# NumPy makes these small matrices in half the time of torch's first few operations.
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Resampling:
    """How a format resamples: ``mode`` bilinear or bicubic, ``antialias``, ``align_corners`` (torch's meanings)."""

    mode: Mode = "bicubic"
    antialias: bool = True
    align_corners: bool = False

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown resampling mode {self.mode!r}: choose one of {', '.join(MODES)}")
        if self.antialias and self.align_corners:
            raise ValueError("antialias together with align_corners is not defined: no checkpoint format uses it")

    @property
    def of_kernels(self) -> Resampling:
        """How patch kernels are resized: always with half-pixel positions, since a patch has no corners to align."""
        return replace(self, align_corners=False)


BICUBIC_ANTIALIAS = Resampling()
BILINEAR = Resampling("bilinear", antialias=False)


def _triangle(x: Array) -> Array:
    return np.maximum(1 - np.abs(x), 0)


def _cubic(x: Array, a: float) -> Array:
    """Keys' two cubic pieces, written with ``max(2 - |x|, 0)`` and ``max(1 - |x|, 0)``, so that no case distinction is needed."""
    far = np.maximum(2 - np.abs(x), 0)
    near = np.maximum(far - 1, 0)
    return far * far * (a - a * far) + near * near * (4 * a + 3 - 2 * near)


@lru_cache(maxsize=4096)
def axis_matrix(old: int, new: int, how: Resampling = BICUBIC_ANTIALIAS) -> Tensor:
    """Matrix ``(new, old)``, float64, that resizes one axis of length ``old`` to length ``new``.

    Every row sums to 1. Without antialias, samples outside the axis repeat the edge sample; with antialias, the kernel
    is widened by ``old / new`` when shrinking, cut at the edges and renormalised. The result is cached: do not modify it.
    """
    if old < 1 or new < 1:
        raise ValueError(f"an axis has at least one sample, got {old} -> {new}")
    if old == new:
        return torch.from_numpy(np.eye(old))  # torch.eye would be on the default device
    return torch.from_numpy(_antialiased(old, new, how) if how.antialias else _interpolating(old, new, how))


def _antialiased(old: int, new: int, how: Resampling) -> Array:
    scale = old / new
    centre = (np.arange(new) + 0.5) * scale
    x = (np.arange(old) + 0.5 - centre[:, None]) / max(scale, 1.0)
    weight = _triangle(x) if how.mode == "bilinear" else _cubic(x, -0.5)
    return weight / weight.sum(axis=1, keepdims=True)


def _interpolating(old: int, new: int, how: Resampling) -> Array:
    i = np.arange(new)
    step = (old - 1) / max(new - 1, 1)
    position = i * step if how.align_corners else (i + 0.5) * (old / new) - 0.5
    index = np.floor(position)[:, None] + np.arange(-1, 3)
    x = index - position[:, None]
    weight = _triangle(x) if how.mode == "bilinear" else _cubic(x, -0.75)
    matrix = np.zeros((new, old))
    np.add.at(matrix, (i[:, None], index.clip(0, old - 1).astype(int)), weight)
    return matrix


@lru_cache(maxsize=4096)
def axis_pinv(old: int, new: int, how: Resampling = BICUBIC_ANTIALIAS) -> Tensor:
    """Pseudo-inverse ``(old, new)`` of :func:`axis_matrix`, float64. Cached: do not modify it."""
    return torch.from_numpy(np.linalg.pinv(axis_matrix(old, new, how).numpy(), rcond=_RANK_CUTOFF))


@lru_cache(maxsize=4096)
def axis_condition(old: int, new: int, how: Resampling = BICUBIC_ANTIALIAS) -> float:
    """Ratio of the largest to the smallest non-zero singular value of :func:`axis_matrix`."""
    s = torch.linalg.svdvals(axis_matrix(old, new, how))
    return float(s[0] / s[s > s[0] * _RANK_CUTOFF][-1])


def resize_matrix(old: tuple[int, int], new: tuple[int, int], how: Resampling = BICUBIC_ANTIALIAS) -> Tensor:
    """The two-dimensional operator ``(new_h * new_w, old_h * old_w)`` on row-major flattened images, float64."""
    return torch.kron(axis_matrix(old[0], new[0], how), axis_matrix(old[1], new[1], how))


def working(tensor: Tensor) -> torch.dtype:
    """The dtype in which a tensor is multiplied by these matrices: its own, but at least float32.

    Pass float64 to get the exact result. In float32, the rounding of the products is a hundredth of the error bound of a
    float32 loader, and they take half of the memory and time.
    """
    return torch.promote_types(tensor.dtype, torch.float32)


def resize_rows(table: Tensor, rows: Tensor, cols: Tensor, out: Tensor | None = None) -> Tensor:
    """Resize a grid whose cells are the rows of a table ``(h * w, channels)``, by a matrix ``(new, old)`` for each axis.

    Returns ``(new_h * new_w, channels)`` in :func:`working` dtype: ``rows @ image @ cols.T`` of each channel, without a
    transposition. ``out``, contiguous and of that dtype, receives the result if given.
    """
    dtype = working(table)
    rows, cols = rows.to(dtype), cols.to(dtype)
    grid = cols @ table.to(dtype).unflatten(0, (rows.shape[1], cols.shape[1]))
    if out is None:
        out = grid.new_empty(len(rows) * len(cols), table.shape[1])
    torch.mm(rows, grid.flatten(1), out=out.view(len(rows), -1))
    return out
