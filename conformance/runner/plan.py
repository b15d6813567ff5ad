"""A plan (what a run judges, and how), and the work of one worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ..cases.selection import Selection
from ..families import FAMILIES

# The reason in the error verdicts of families that were not judged because of an interrupt.
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Plan:
    """What to run.

    targets    their names in the target language
    selection  families, invariants and draws
    witnesses  replay only these, and draw nothing; None to draw cases
    jobs       worker processes at the same time
    timeout    seconds without a record after which a worker is stopped
    shares     families by target that replace the selection's: those of a shard, or those still to be judged
    parts      folder for the workers' reports; by default a temporary one
    examples   returns the folder of further witnesses to replay on a target
    replay     whether the stored witnesses are replayed first
    until      ``time.time()`` after which no worker starts, and workers that have judged something start nothing more;
               what was not started is no error
    cases      folder of the drawn cases, by default a temporary one; a family that has cases there is not drawn
    """

    targets: tuple[str, ...]
    selection: Selection = Selection()
    witnesses: tuple[str, ...] | None = None
    jobs: int = 2
    timeout: float = 300.0
    shares: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Path | None = None
    examples: Callable[[str], Path] | None = None
    replay: bool = True
    until: float | None = None
    cases: Path | None = None

    @property
    def over(self) -> bool:
        """Whether the time given to this plan is over."""
        return self.until is not None and time.time() >= self.until

    def families_of(self, target: str) -> tuple[str, ...]:
        """The families to judge on a target."""
        return self.shares.get(target, self.selection.families or tuple(FAMILIES))


class Work(msgspec.Struct, frozen=True):
    """What one worker does.

    report     file to append records to
    target     its name in the target language
    selection  the families of this worker, and the plan's invariants and draws
    cases      folder in which the workers of a run share the cases they draw
    witnesses  replay only these, see :class:`Plan`
    replay     families whose stored witnesses are replayed first
    examples   folder of further witnesses to replay
    until      see :class:`Plan`
    """

    report: str
    target: str
    selection: Selection
    cases: str | None = None
    witnesses: tuple[str, ...] | None = None
    replay: tuple[str, ...] = ()
    examples: str | None = None
    until: float | None = None
