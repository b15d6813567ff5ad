"""Error bounds: how far a correct loader may be from the exact result. They follow from dtype and conditioning alone.

A loader may work in float32 for a checkpoint of any dtype, float64 too. So the unit is float32's, plus one rounding to the
checkpoint's dtype, or to float32 if that is coarser. ``fraction`` gives an error in units of its bound: above 1.0 it is a
mistake, at any size or dtype.

The kernel's bound follows Wedin's perturbation theory of least squares (Björck, "Numerical Methods for Least Squares
Problems", 1996, section 1.4): a relative error ``u`` of the resize matrix ``B`` moves ``w @ pinv(B)`` by up to about
``cond(B) * u * |pinv(B)| * |w|``. ``B`` itself is known to a loader only as well as float32 places its sample positions,
which grow with the longest axis; accumulating ``n`` products adds ``sqrt(n)`` units (Higham and Mary, "A New Approach to
Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41, 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import prod, sqrt

import torch
from torch import Tensor

from ..cases.case import Size
from ..reference.relative import offsets
from ..reference.resize import Resampling, axis_condition, axis_matrix, axis_pinv

_UNIT = torch.finfo(torch.float32).eps


def rounding(value: Tensor, dtype: torch.dtype) -> Tensor:
    """One unit in the last place of ``dtype`` at each element of ``value``, float64."""
    info = torch.finfo(dtype)
    return value.abs().to(torch.float64) * info.eps + info.smallest_normal * info.eps


def rounded_once(exact: Tensor, dtype: torch.dtype) -> Tensor:
    """:func:`rounding` of a result that a loader computes in float32 and returns in ``dtype``: to the coarser of the two."""
    return rounding(exact, torch.float32 if dtype == torch.float64 else dtype)


@lru_cache(maxsize=4096)
def _spectral(old: Size, new: Size, how: Resampling, of: Callable[[int, int, Resampling], Tensor]) -> float:
    return float(prod(torch.linalg.matrix_norm(of(o, n, how), 2) for o, n in zip(old, new)))


def _rounding_steps(old: tuple[int, ...], new: tuple[int, ...]) -> float:
    """Units of rounding in a resize: the longest axis for the sample positions, a square root for the accumulated products."""
    return max(*old, *new) + sqrt(max(prod(old), prod(new)))


def kernel(source: Tensor, new: Size, how: Resampling) -> Tensor:
    """Bound ``(..., 1, 1)``, float64, for the norm of the error of each resampled kernel of ``source`` ``(..., h, w)``.

    It includes the rounding to the checkpoint's dtype, by the norm of the exact result.
    """
    old, how = (source.shape[-2], source.shape[-1]), how.of_kernels
    weight = source.to(torch.float64)
    condition = prod(axis_condition(o, n, how) for o, n in zip(old, new))
    pinv_norm = _spectral(old, new, how, axis_pinv)
    norm = torch.linalg.vector_norm(weight, dim=(-2, -1), keepdim=True)
    exact = axis_pinv(old[0], new[0], how).T @ weight @ axis_pinv(old[1], new[1], how)
    stored = torch.linalg.vector_norm(rounded_once(exact, source.dtype), dim=(-2, -1), keepdim=True)
    return _UNIT * _rounding_steps(old, new) * condition * pinv_norm * norm + stored


def matrix_norm(old: Size, new: Size, how: Resampling) -> float:
    """Spectral norm of the resize operator."""
    return _spectral(old, new, how, axis_matrix)


def grid(exact: Tensor, source: Tensor, old: Size, new: Size, how: Resampling) -> Tensor:
    """Element-wise bound for resampled grid rows: ``exact`` ``(1, new, dim)`` from ``source`` ``(1, old, dim)``, float64."""
    rows = prod(float(axis_matrix(o, n, how).abs().sum(dim=1).max()) for o, n in zip(old, new))
    largest = source.to(torch.float64).abs().amax(dim=1, keepdim=True)
    return _UNIT * _rounding_steps(old, new) * rows * largest + rounded_once(exact, source.dtype)


def table(exact: Tensor, source: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Element-wise bound for a resized relative position table ``exact`` ``(rows, heads)`` of ``source``, float64.

    A row is interpolated between rows, with weights that sum to 1. The weights are as exact as offsets in float32, which are as
    large as the window's side. The extra rows at the end do not change, so their bound is 0.
    """
    sizes = offsets(old), offsets(new)
    largest = source.to(torch.float64).abs().amax(dim=0, keepdim=True)
    bound = _UNIT * _rounding_steps(*sizes) * largest + rounded_once(exact, source.dtype)
    bound[prod(sizes[1]) :] = 0
    return bound


def forward(reference_output: Tensor, operations: int, sensitivity: float, turns: float = 0.0) -> float:
    """Bound for a float64 forward pass of ``operations`` accumulated products, amplified by the network's own sensitivity.

    Upstream and timm compute rotary embeddings in float32. An angle of up to ``turns`` radians takes four operations, each with
    an error of half a unit.
    """
    unit = torch.finfo(torch.float64).eps * operations + 2 * _UNIT * turns
    return unit * max(1.0, sensitivity) * float(reference_output.abs().max() + 1)


def fraction(error: Tensor, bound: Tensor | float) -> float:
    """Largest ``error / bound``: 0 without any error; infinity for an error that is not finite or whose bound is 0."""
    if error.numel() == 0:
        return 0.0
    error = error.to(torch.float64).abs()
    ratio = torch.where(error == 0, 0.0, error / bound)
    return float(ratio.nan_to_num(nan=float("inf"), posinf=float("inf")).max())
