"""Diagnosis: the one transformation of the expected tensor that gives what a loader made of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from . import bounds
from .expectation import Expectation
from .problems import Problem
from .transformations import TRANSFORMATIONS

# A transformation explains a difference if it leaves no more than this share of it, or no more than rounding allows.
_SHARE = 1e-3


def diagnose(problem: Problem, about: Expectation, loaded: Mapping[str, Tensor] | None = None) -> str:
    """Which transformation reproduces the tensor of a problem, in words; empty where none of them does.

    ``loaded`` is the whole state dict that the loader returned, if it did: a missing tensor may be in it by another name.
    """
    if problem.kind in ("missing-key", "size-mismatch", "shape", "not-resampled") and loaded is not None:
        return _misplaced(problem, about, loaded)
    if problem.got is None or problem.want is None or problem.got.shape != problem.want.shape:
        return ""
    return _transformed(problem.name, problem.got, problem.want, about)


def _transformed(name: str, got: Tensor, want: Tensor, about: Expectation) -> str:
    got = got.to(torch.float64)
    deviation, finite = _largest(got - want.to(torch.float64)), got.isfinite()
    allowed = _allowed(name, want, about)
    for lead, transformation in TRANSFORMATIONS:
        for words, made in transformation(about, name, want):
            if made.shape != want.shape:
                continue
            made = made.to(torch.float64)
            if not torch.equal(made.isfinite(), finite):
                continue
            if not finite.any():
                return lead + words
            left = (got - made).abs().nan_to_num(0.0)
            # What it changes must be the difference, not a part that rounding covers anyway.
            if _largest(left) > 0.1 * deviation:
                continue
            if _largest(left) <= _SHARE * deviation or bounds.fraction(left, allowed) <= 1:
                return lead + words
    return ""


def _allowed(name: str, want: Tensor, about: Expectation) -> Tensor:
    """What rounding allows for a tensor of this size."""
    own = bounds.rounding(want, torch.float32) * 4
    if name in about.geometric and want.shape == about.expected[name].shape:
        return own + about.bound(name)
    return own


def _misplaced(problem: Problem, about: Expectation, loaded: Mapping[str, Tensor]) -> str:
    """Where the right tensor is by another name, or what axis makes the shape wrong."""
    want = about.expected.get(problem.name)
    if want is None:
        return ""
    for other, tensor in loaded.items():
        if other not in about.expected and tensor.shape == want.shape and torch.equal(tensor.cpu(), want):
            return f"the tensor is there by the name {other}"
    got = loaded.get(problem.name)
    if got is None:
        return ""
    truth = about.truth.get(problem.name)
    if truth is not None and got.shape == truth.shape and torch.equal(got.cpu(), truth):
        return "the checkpoint's tensor, not resampled"
    for first in range(want.ndim):
        for second in range(first):
            turned = want.transpose(first, second)
            if turned.shape == got.shape and torch.equal(turned, got.cpu()):
                return f"the dimensions {second} and {first} exchanged"
    return ""


def _largest(difference: Tensor) -> float:
    """The largest finite entry, without its sign."""
    return float(difference.abs().nan_to_num(0.0, posinf=0.0).max()) if difference.numel() else 0.0
