"""The error of loaded patch kernels against the ratio of patch sides, as inline SVG: one panel for each target."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from math import ceil, floor, isfinite, log2, log10
from statistics import median
from typing import Any, NamedTuple

from ..results.records import LoadedCase

WIDTH, HEIGHT = 340, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 332, 34, 212
_LANE = 16  # the row of cases without a comparable kernel: the load raised or returned another shape
_DECADES = (-8, 9)  # limits of the error axis, in powers of ten; errors beyond are drawn on the edge
_PANELS = 4
_EDGES = (0.5, 1.0, 2.0, 4.0)
BINS = ("below 1/2", "1/2 to 1", "1 to 2", "2 to 4", "4 and above")

Loads = Mapping[str, Sequence[LoadedCase]]


class _Point(NamedTuple):
    """A case that changes its patch size: the ratio of the sizes, and the kernel's error within its bound."""

    ratio: float
    error: float | None


def _resized(cases: Sequence[LoadedCase]) -> list[_Point]:
    return [_Point(c.ratio, c.error) for c in cases if c.ratio is not None and c.ratio > 0]


def _beyond(case: _Point) -> bool:
    return case.error is None or not case.error <= 1


def select(targets: Sequence[str]) -> list[str]:
    """The targets to draw: all of a short list; of a long one the first, the last and two between at even distances."""
    if len(targets) <= _PANELS:
        return list(targets)
    return [targets[round(i * (len(targets) - 1) / (_PANELS - 1))] for i in range(_PANELS)]


def panels(loads: Loads) -> list[dict[str, Any]]:
    """The shapes and texts of each panel; empty if no case changes its patch size."""
    chosen = select([target for target, cases in loads.items() if _resized(cases)])
    shown = {target: _resized(loads[target]) for target in chosen}
    if not shown:
        return []
    every = [case for cases in shown.values() for case in cases]
    x_ends = _ends([log2(c.ratio) for c in every])
    decades = [log10(c.error) for c in every if c.error and isfinite(c.error)]
    low, high = _ends([*decades, -1.0, 1.0])
    y_ends = max(low, _DECADES[0]), min(high, _DECADES[1])

    def x(ratio: float) -> float:
        return _LEFT + (log2(ratio) - x_ends[0]) / (x_ends[1] - x_ends[0]) * (_RIGHT - _LEFT)

    def y(error: float) -> float:
        decade = y_ends[0] if error <= 0 else log10(error) if isfinite(error) else y_ends[1]
        share = (min(max(decade, y_ends[0]), y_ends[1]) - y_ends[0]) / (y_ends[1] - y_ends[0])
        return _BOTTOM - share * (_BOTTOM - _TOP)

    step = ceil((y_ends[1] - y_ends[0]) / 7)
    x_ticks = [(round(x(2.0**k), 1), f"{2**k}" if k >= 0 else f"1/{2**-k}") for k in range(x_ends[0], x_ends[1] + 1)]
    y_ticks = [(round(y(10.0**k), 1), k) for k in range(y_ends[0], y_ends[1] + 1) if k % step == 0]
    return [
        {
            "target": target,
            "words": _describe(target, cases),
            "within": _dots((x(c.ratio), y(c.error)) for c in cases if c.error is not None and not _beyond(c)),
            "beyond": _crosses((x(c.ratio), y(c.error)) for c in cases if c.error is not None and _beyond(c)),
            "none": _crosses((x(c.ratio), _LANE) for c in cases if c.error is None),
            "x_ticks": x_ticks,
            "y_ticks": y_ticks,
            "bound": round(y(1.0), 1),
            "box": (_LEFT, _TOP, _RIGHT, _BOTTOM),
            "lane": _LANE,
            "size": (WIDTH, HEIGHT),
        }
        for target, cases in shown.items()
    ]


def _ends(values: Sequence[float]) -> tuple[int, int]:
    low, high = floor(min(values)), ceil(max(values))
    return low, max(high, low + 1)


def _dots(points: Any) -> str:
    """Lines of length 0, which a round line cap draws as dots."""
    return "".join(f"M{a} {b}h0" for a, b in sorted({(round(x, 1), round(y, 1)) for x, y in points}))


def _crosses(points: Any) -> str:
    places = sorted({(round(x, 1), round(y, 1)) for x, y in points})
    return "".join(f"M{round(a - 3, 1)} {round(b - 3, 1)}l6 6m0-6l-6 6" for a, b in places)


def _describe(target: str, cases: Sequence[_Point]) -> str:
    errors = [c.error for c in cases if c.error is not None]
    beyond = sum(c.error is not None and _beyond(c) for c in cases)
    middle = f"; median error {median(errors):.2g} of its bound" if errors else ""
    return (
        f"{len(cases)} cases: {beyond} beyond the bound, {len(cases) - len(errors)} without a kernel to compare{middle}"
    )


def medians(loads: Loads) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """The numbers behind the plot, for every target and bin of ratios: median error, cases, cases beyond the bound."""
    table = []
    for target, cases in loads.items():
        bins: list[list[_Point]] = [[] for _ in BINS]
        for case in _resized(cases):
            bins[bisect_right(_EDGES, case.ratio)].append(case)
        if any(bins):
            table.append((target, [_bin_summary(cases) for cases in bins]))
    return table


def _bin_summary(cases: Sequence[_Point]) -> dict[str, Any] | None:
    if not cases:
        return None
    errors = [c.error for c in cases if c.error is not None]
    return {"median": median(errors) if errors else None, "cases": len(cases), "beyond": sum(map(_beyond, cases))}
