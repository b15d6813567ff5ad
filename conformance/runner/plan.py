"""A plan: what a run judges, and how; and the part of it that one worker does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from ..cases.selection import Selection
from ..families import FAMILIES

# The reason of what an interrupt kept from being judged.
INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Plan:
    """What to run.

    targets    their names in the target language
    selection  families, invariants and draws
    witnesses  replay only these, and draw nothing; None to draw cases
    jobs       workers side by side
    timeout    seconds a worker may give no sign of life
    shares     families of some targets, in place of the selection's: those of a shard, or those still to be judged
    parts      folder for what workers report; by default a temporary one
    examples   gives the folder of further witnesses to replay on a target
    replay     whether the stored witnesses are replayed first
    until      ``time.time()`` after which workers that have judged something begin nothing more, and no further worker
               starts; what was not begun is no error
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
