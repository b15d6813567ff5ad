"""What a loader made of a case, small enough to keep and precise enough to compare releases by.

A tensor that agrees with the reference's within its bound is not mentioned. Any other is told in words, or by its
difference from the reference's, each entry in units of its bound, projected on a few random directions (Johnson and
Lindenstrauss 1984): the difference of two such projections estimates the root mean square difference of the two
tensors without either of them.
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
from ..targets.loader import Unsupported
from . import bounds
from .problems import starred
from .trial import Trial

DIRECTIONS = 4


def case_id(case: Case) -> str:
    """A name for a case: equal for equal cases, whatever drew them."""
    return sha1(case.to_json().encode()).hexdigest()[:10]


def observe(trial: Trial) -> LoadedCase | None:
    """What the trial's loader made of its case, or None where it cannot be asked."""
    if trial.undecidable:
        return None
    try:
        base = trial.base
    except Unsupported:
        return None
    name, patches = case_id(trial.case), (trial.case.source.patch_size, trial.case.destination.patch_size)
    ratio = sqrt(prod(patches[1]) / prod(patches[0])) if patches[0] != patches[1] else None
    if base.state is None:
        return LoadedCase(name, ratio, deviations={"": f"raises {type(base.error).__name__}"})
    deviations: dict[str, str | list[float]] = {starred(k): "appears" for k in base.state if k not in trial.expected}
    error = None
    for tensor, want in trial.expected.items():
        units = _units(base.state.get(tensor), want, trial.bound(tensor))
        if isinstance(units, str):
            deviations[starred(tensor)] = units
            continue
        worst = float(units.abs().max()) if units is not None else 0.0
        if worst > 1:
            deviations[tensor] = _projected(units, tensor)
        if tensor == KERNEL and ratio is not None:
            error = worst
    return LoadedCase(name, ratio, error, deviations)


def _units(got: Tensor | None, want: Tensor, bound: Tensor) -> Tensor | str | None:
    """The difference in units of the bound; in words where there is none to take; None for equal tensors.

    A tensor that a load has to keep has a bound of nothing: one rounding of its own largest entry stands for it.
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
