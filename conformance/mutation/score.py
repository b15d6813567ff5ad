"""Mutants, their fates, and the score of the suite. Nothing here needs torch."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import msgspec

from ..results.records import UNREADABLE


class Mutant(msgspec.Struct, frozen=True):
    """One changed place of one function.

    ``line`` is the first line of the file that changed, ``lines`` how many; ``before`` and ``after`` are the changed lines,
    ``source`` the whole function as it becomes, ``under`` the line above the change.
    """

    function: str
    operator: str
    line: int
    lines: int
    before: str
    after: str
    source: str
    under: str = ""

    @property
    def where(self) -> str:
        """Function and line."""
        return f"{self.function}:{self.line}"


class Fate(msgspec.Struct, frozen=True):
    """What became of a mutant: the invariants that killed it on ``judged`` of the ``reached`` cases that run its lines.

    ``end`` is ``timeout`` or ``crash`` where judging it ended like that, which kills it as well. ``errors`` are invariants
    that could not be judged because of a mistake of the suite.
    """

    killers: list[str] = []
    judged: int = 0
    reached: int = 0
    end: str = ""
    errors: list[str] = []

    @property
    def killed(self) -> bool:
        """Whether anything detected it."""
        return bool(self.killers or self.end)


class Judged(msgspec.Struct, frozen=True):
    """A mutant, its fate, and why it is listed as equivalent, if it is."""

    mutant: Mutant
    fate: Fate
    equivalent: str = ""

    @property
    def outcome(self) -> str:
        """``killed`` or ``survived``; of those listed as equivalent ``equivalent``, or ``refuted`` by an invariant."""
        if self.equivalent:
            return "refuted" if self.fate.killed else "equivalent"
        return "killed" if self.fate.killed else "survived"


def read(path: Path) -> Iterator[Judged]:
    """The judged mutants of a file, one on each line. A line that was cut off is skipped."""
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(*UNREADABLE):
            yield msgspec.json.decode(line, type=Judged)


class Score:
    """The kill matrix of a target and its sums."""

    def __init__(self, target: str, functions: dict[str, int], judged: Iterable[Judged]) -> None:
        self.target = target
        self.functions = functions
        self.judged = sorted(judged, key=lambda j: (j.mutant.function, j.mutant.line))

    @cached_property
    def counts(self) -> Counter[str]:
        """Mutants by outcome."""
        return Counter(j.outcome for j in self.judged)

    def of(self, outcome: str) -> list[Judged]:
        """The mutants of an outcome."""
        return [j for j in self.judged if j.outcome == outcome]

    @property
    def share(self) -> float:
        """Killed among those not equivalent, 0 to 1; 1 where there are none."""
        dead, alive = self.counts["killed"] + self.counts["refuted"], self.counts["survived"]
        return dead / (dead + alive) if dead + alive else 1.0

    @cached_property
    def kills(self) -> dict[str, tuple[int, int]]:
        """For each invariant that killed: how many mutants, and how many that no other one kills."""
        many = Counter(name for j in self.judged for name in j.fate.killers)
        alone = Counter(j.fate.killers[0] for j in self.judged if len(j.fate.killers) == 1 and not j.fate.end)
        return {name: (count, alone[name]) for name, count in many.most_common()}

    @cached_property
    def by_function(self) -> dict[str, Counter[str]]:
        """Outcomes by function, those without mutants left out."""
        found: dict[str, Counter[str]] = {name: Counter() for name, count in self.functions.items() if count}
        for j in self.judged:
            found.setdefault(j.mutant.function, Counter())[j.outcome] += 1
        return found

    @property
    def complete(self) -> bool:
        """Whether every mutant was judged."""
        return len(self.judged) == sum(self.functions.values())

    @property
    def mistakes(self) -> Counter[str]:
        """Invariants that could not be judged on a mutant because of a mistake of the suite."""
        return Counter(name for j in self.judged for name in j.fate.errors)
