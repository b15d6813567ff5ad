"""Images resized by the reference's matrices, one axis at a time: what its kernels, grids and tables are compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from timm_conformance.reference.resize import BICUBIC_ANTIALIAS, Resampling, axis_matrix


def resize(image: Tensor, new: tuple[int, int], how: Resampling = BICUBIC_ANTIALIAS) -> Tensor:
    """Resize the last two axes of ``image`` ``(..., h, w)`` to ``new``; computed and returned in float64."""
    rows, cols = (axis_matrix(o, n, how) for o, n in zip(image.shape[-2:], new))
    return rows @ image.to(torch.float64).contiguous() @ cols.T
