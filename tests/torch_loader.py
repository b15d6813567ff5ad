"""A loader that is right but for torch: it resamples by ``interpolate``, as loaders of one's own do."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from tests.fakes_resampling import loader_with
from timm_conformance.reference.resize import Resampling


def _interpolated(image, new, how):
    """Resize ``image`` ``(n, c, h, w)``, contiguous, as a loader does that leaves it to torch."""
    align = {"align_corners": True} if how.align_corners else {}
    return F.interpolate(image.contiguous(), size=tuple(new), mode=how.mode, antialias=how.antialias, **align)


def resamples_by_torch(checkpoint, model, interpolation=None, antialias=None, align_corners=False):
    """The corrected loader that resizes grids and the basis of patch kernels by ``interpolate``, and so has torch's faults."""

    def kernel(weight, size, how):
        old, new = tuple(weight.shape[-2:]), tuple(size)
        if old == new:
            return weight
        basis = torch.eye(old[0] * old[1], dtype=torch.float64, device=weight.device).reshape(-1, 1, *old)
        matrix = _interpolated(basis, new, how.of_kernels).flatten(1)
        return (
            (weight.double().flatten(-2) @ torch.linalg.pinv(matrix).T)
            .reshape(*weight.shape[:-2], *new)
            .to(weight.dtype)
        )

    def grid(pos, old, new, rows, how):
        if old == new:
            return pos
        image = pos[:, rows:].double().unflatten(1, old).permute(0, 3, 1, 2)
        tokens = _interpolated(image, new, how).flatten(2).mT.to(pos.dtype)
        return torch.cat([pos[:, :rows], tokens], dim=1)

    how = Resampling(interpolation, antialias, align_corners) if interpolation else None
    return loader_with(checkpoint, model, how, resample_patch_kernel=kernel, resample_position_grid=grid)
