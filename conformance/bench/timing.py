"""Comparable times on a machine that does other work as well: medians of alternating measurements, with their spread.

Every round times each subject once, so that other work slows all of them alike. A ratio is the median of the ratios of the
rounds.
"""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from math import inf
from statistics import median
from tempfile import TemporaryFile
from typing import TypeVar

import msgspec

from ..errors import UserError
from ..targets.subprocess_call import environment, exit_reason

Taken = TypeVar("Taken")


class Timed(msgspec.Struct, frozen=True):
    """Seconds: the median of a number of rounds, the smallest and the largest.

    ``ratio`` is the time as a multiple of another subject's time; None without a comparison.
    """

    median: float
    low: float
    high: float
    rounds: int
    ratio: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float], against: Sequence[float] | None = None) -> Timed:
        """From the seconds of each round, and those of another subject in the same rounds."""
        ratio = median(mine / theirs for mine, theirs in zip(seconds, against)) if against else None
        return cls(median(seconds), min(seconds), max(seconds), len(seconds), ratio)


def in_turn(subjects: Mapping[str, Callable[[], Taken]], rounds: int, seconds: float = inf) -> dict[str, list[Taken]]:
    """Time the subjects in turn, ``rounds`` times, or at least twice if ``seconds`` are over. Returns the times by name."""
    taken: dict[str, list[Taken]] = {name: [] for name in subjects}
    started = time.perf_counter()
    for done in range(rounds):
        if done >= 2 and time.perf_counter() - started > seconds:
            break
        for name, subject in subjects.items():
            taken[name].append(subject())
    return taken


class Spent(msgspec.Struct, frozen=True):
    """Seconds from start to end, and seconds of all processors."""

    wall: float
    cpu: float

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.wall - other.wall, self.cpu - other.cpu)

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.wall + other.wall, self.cpu + other.cpu)

    @classmethod
    def now(cls) -> Spent:
        """The time of this process now; the difference of two values is the time between them."""
        return cls(time.perf_counter(), time.process_time())


def run(arguments: Sequence[str], codes: Sequence[int] = (0,)) -> Spent:
    """Run a process of the suite to its end, with those it starts. Raises :class:`UserError` for exit codes not in ``codes``."""
    with TemporaryFile("w+") as said:
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        code = subprocess.call(arguments, env=environment(), stdout=said, stderr=subprocess.STDOUT)
        wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        if code not in codes:
            said.seek(0)
            raise UserError(f"cannot measure: {exit_reason(said.read(), code, 'the process under measurement')}")
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
