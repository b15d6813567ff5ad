"""What a faulty library makes of a tensor, to tell a failure of the library from one of the function under test.

A function meets a library's fault only where it calls the library. Whether it did shows in the tensor that it returned: it is the
library's wrong result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.base import KERNEL
from .expectation import GRID
from .trial import Trial

# A result is the library's if it is this much closer to the library's wrong result than that is to the right one.
_SHARE = 0.05


def _torch_resized(trial: Trial, name: str) -> Tensor | None:
    """Patch kernel or positions, resampled by torch's antialiased resize of contiguous tensors; None where it plays no part."""
    how = trial.resampling.of_kernels if name == KERNEL else trial.resampling
    if not how.antialias or name not in (KERNEL, GRID) or trial.format.windowed:
        return None
    tensor = trial.truth[name].to(trial.device, torch.float32)
    if name == KERNEL:
        old, new = tensor.shape[-2:], trial.case.destination.patch_size
        basis = torch.eye(old.numel(), device=tensor.device).reshape(-1, 1, *old)
        matrix = F.interpolate(basis, size=new, mode=how.mode, antialias=True).flatten(1).T
        return (tensor.flatten(-2) @ torch.linalg.pinv(matrix)).unflatten(-1, new)
    rows, source = trial.prefix_rows, trial.case.source.grid_size
    image = tensor[:, rows:].transpose(1, 2).unflatten(-1, source).contiguous()
    resized = F.interpolate(image, size=trial.case.destination.grid_size, mode=how.mode, antialias=True)
    return torch.cat([tensor[:, :rows], resized.flatten(2).transpose(1, 2)], dim=1)


# By the name of the probe that finds the fault.
LIBRARY_RESULTS: dict[str, Callable[[Trial, str], Tensor | None]] = {"torch-antialias-width-one": _torch_resized}


def has_library_result(trial: Trial, probe: str, name: str) -> bool:
    """Whether the tensor, as loaded in this case or with height and width exchanged, is the wrong result of a faulty library."""
    return any(_is_library_result(one, probe, name) for one in (trial, trial.flipped))


def _is_library_result(trial: Trial, probe: str, name: str) -> bool:
    if name not in trial.geometric or not trial.changed(name) or not trial.base.ok:
        return False
    got, right, wrong = trial.base.state.get(name), trial.expected[name], LIBRARY_RESULTS[probe](trial, name)
    if got is None or wrong is None or not got.shape == right.shape == wrong.shape:
        return False
    fault = (wrong.cpu().double() - right.double()).abs()
    error = (got.cpu().double() - wrong.cpu().double()).abs()
    bound = trial.bound(name).expand(right.shape)
    return bool((fault > bound).any()) and bool((error <= bound + _SHARE * fault.max()).all())
