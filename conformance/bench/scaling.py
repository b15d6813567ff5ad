"""Measures how a run scales: wall time against families, examples, releases and cores, each with a fitted straight line.

For families, releases and cores, the gate runs without its reports. For examples, one process judges cases: the gate draws two
cases for each stratum, and here the number grows.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np

from ..cases.profiles import Profile
from ..cases.selection import Selection
from ..engine.session import Session
from ..results import records
from ..runner.plan import Plan
from ..runner.run import run as run_plan
from ..targets.target import parse_target, prepare
from .overhead import CORES
from .part import Cell, Part

_EXAMPLES = (1, 2, 4, 6, 8)
# With residuals below this share of the longest run, the growth counts as linear.
_STRAIGHT = 0.1


def measure(target: str, families: Sequence[str], releases: Sequence[str], quick: bool) -> list[Part]:
    """The part about all four; every second family where there are many, to keep it short."""
    profile = "smoke" if quick else "gate"
    half = families[::2] if len(families) > 8 else families
    few = half[::6] if len(half) > 8 else half
    specs = [f"timm=={v}" for v in releases]
    for spec in specs:
        prepare(parse_target(spec))

    def gate(targets: Sequence[str], judged: Sequence[str], jobs: int = CORES) -> Callable[[], float]:
        return lambda: _seconds(
            lambda: run_plan(Plan(tuple(targets), Selection(tuple(judged), profile=profile), jobs=jobs))
        )

    steps = sorted({max(1, len(half) * n // 4) for n in (1, 2, 3, 4)})
    found = {
        "families": [(n, gate([target], half[:n])()) for n in steps],
        "examples": _examples(target, few, _EXAMPLES[: 3 if quick else None]),
        "releases": [(n, gate(specs[:n], half)()) for n in range(1, len(specs) + 1)],
        "cores": [(n, gate([target], half, n)()) for n in range(1, CORES + 1)],
    }
    rows: list[dict[str, Cell]] = []
    findings = []
    for what, points in found.items():
        slope, base, residual, r2 = fitted(points)
        rows += [{"against": what, "number": n, "seconds": s, "the line": base + slope * n} for n, s in points]
        findings.append(_in_words(what, points, slope, base, residual, r2))
    return [Part("scaling", "How a run grows", rows, findings)]


def fitted(points: Sequence[tuple[int, float]]) -> tuple[float, float, float, float]:
    """Least squares of seconds on numbers: slope, seconds at 0, the largest residual as a share of the longest, and R²."""
    x, y = np.array(points, dtype=float).T
    if len(points) < 2:
        return 0.0, float(y[0]), 0.0, 1.0
    slope, base = np.polyfit(x, y, 1)
    off = y - (base + slope * x)
    around = ((y - y.mean()) ** 2).sum()
    r2 = 1 - (off**2).sum() / around if around else 1.0
    return float(slope), float(base), float(np.abs(off).max() / y.max()), float(r2)


def _in_words(
    what: str, points: Sequence[tuple[int, float]], slope: float, base: float, residual: float, r2: float
) -> str:
    if what == "cores":
        times = dict(points)
        return f"cores: {max(times)} take {times[max(times)] / times[1]:.2f} of the time of one"
    shape = "linear" if residual <= _STRAIGHT else "not linear as measured"
    line = f"{slope:.3g} s each and {base:.3g} s once"
    return f"{what}: {shape}: {line}; R² {r2:.4f}, no point further than {residual:.1%} of the longest from the line"


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _examples(target: str, families: Sequence[str], counts: Iterable[int]) -> list[tuple[int, float]]:
    """Numbers of cases with the seconds they took, in one process that has judged a warm-up round before."""
    with ProcessPoolExecutor(1, get_context("spawn"), os.dup2, (2, 1)) as process:  # timm prints
        process.submit(explored, target, families, 1).result()
        return [process.submit(explored, target, families, n).result() for n in counts]


def explored(target: str, families: Sequence[str], count: int) -> tuple[int, float]:
    """Judge ``count`` cases for each stratum in this process; returns the number of cases and the seconds."""
    cases: dict[str, int] = {}

    def note(record: records.Record) -> None:
        if isinstance(record, records.Progress):
            cases[record.family] = record.cases

    session = Session(parse_target(target), Selection(tuple(families)), record=note)
    session.drawing.profile = Profile("bench", count)
    session.start()
    seconds = _seconds(lambda: [session.explore(family) for family in session.families])
    return sum(cases.values()), seconds
