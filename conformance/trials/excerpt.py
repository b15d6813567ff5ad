"""An excerpt of two tensors around the element where they differ most."""

from __future__ import annotations

from torch import Tensor

from .problems import Problem

_AROUND = 2


def excerpt(problem: Problem) -> list[str]:
    """Two lines, what was expected and what was got: shape, index, and up to five neighbours along the last dimension.

    Empty for a problem without tensors.
    """
    if problem.got is None or problem.want is None or not problem.want.ndim or not problem.want.numel():
        return []
    *outer, last = problem.at or (0,) * problem.want.ndim
    start = max(0, min(last - _AROUND, problem.want.shape[-1] - 2 * _AROUND - 1))
    stop = min(start + 2 * _AROUND + 1, problem.want.shape[-1])
    index = ", ".join([*map(str, outer), f"{start}:{stop}"])
    rows = [[_number(x) for x in t[tuple(outer)][start:stop].tolist()] for t in (problem.want, problem.got)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    shown = ["  ".join(f"{x:>{w}}" for x, w in zip(row, widths)) for row in rows]
    where = f"{problem.name}[{index}] of {_shape(problem.want)}"
    return [f"expected  {where}:  {shown[0]}", f"got       {where}:  {shown[1]}"]


def _number(value: float) -> str:
    return f"{value:.4g}"


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))
