"""A sketch of a loaded state dict: small enough to store, and precise enough to compare two releases.

The sketch leaves out every tensor that agrees with the reference's within its bound. For another tensor it holds a few words,
or the difference from the reference's tensor: each entry in units of its bound, projected on a few random directions (Johnson
and Lindenstrauss 1984). The difference of two such projections estimates the root mean square difference of the two tensors.
"""

from __future__ import annotations

from hashlib import sha1
from math import prod, sqrt
from zlib import crc32

import torch
from torch import Tensor

from ..cases.case import Case
from ..families.base import KERNEL
from ..results.records import LoadedCase
from ..targets.models import Unsupported
from . import bounds
from .problems import star_block_numbers
from .trial import Trial

DIRECTIONS = 4


def case_id(case: Case) -> str:
    """A short name for a case. Equal cases have equal names."""
    return sha1(case.to_json().encode()).hexdigest()[:10]


def loaded_case(trial: Trial) -> LoadedCase | None:
    """The sketch of what the trial's loader makes of its case; None if no loader or this release cannot load the case."""
    if trial.undecidable:
        return None
    try:
        base = trial.base
    except Unsupported:
        return None
    name, patches = case_id(trial.case), (trial.case.source.patch_size, trial.case.destination.patch_size)
    ratio = sqrt(prod(patches[1]) / prod(patches[0])) if patches[0] != patches[1] else None
    if not base.ok:
        return LoadedCase(name, ratio, deviations={"": f"raises {type(base.error).__name__}"})
    deviations: dict[str, str | list[float]] = {
        star_block_numbers(k): "appears" for k in base.state if k not in trial.expected
    }
    error = None
    for tensor, want in trial.expected.items():
        units = _bound_units(base.state.get(tensor), want, trial.bound(tensor))
        if isinstance(units, str):
            deviations[star_block_numbers(tensor)] = units
            continue
        worst = float(units.abs().max()) if units is not None else 0.0
        if units is not None and worst > 1:
            deviations[tensor] = _projected(units, tensor)
        if tensor == KERNEL and ratio is not None:
            error = worst
    return LoadedCase(name, ratio, error, deviations)


def _bound_units(got: Tensor | None, want: Tensor, bound: Tensor) -> Tensor | str | None:
    """The difference in units of the bound; words if no difference can be taken; None for equal tensors.

    A tensor that a load must not change has a bound of 0. One rounding of its own largest entry replaces it.
    """
    if got is None:
        return "is missing"
    if got.shape != want.shape:
        return f"is {'x'.join(map(str, got.shape))}"
    got = got.cpu()
    if torch.equal(got, want):
        return None
    if not bool(got.isfinite().all()):
        return "is not finite"
    got, want = got.to(torch.float64), want.to(torch.float64)
    least = bounds.rounding(want, torch.float32).max().clamp(min=1e-30)
    return (got - want) / bound.clamp(min=least)


def _projected(units: Tensor, name: str) -> list[float]:
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    signs = torch.randint(0, 2, (DIRECTIONS, units.numel()), generator=generator, dtype=torch.float64) * 2 - 1
    return [round(value, 1) for value in (signs @ units.reshape(-1) / sqrt(units.numel())).tolist()]
