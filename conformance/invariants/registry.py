"""The registry of invariants: named promises, each one function, with the regimes it must have met."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..families import Family
from ..trials.problems import Problem
from ..trials.trial import Trial

Check = Callable[[Trial], Iterator[Problem]]


@dataclass(frozen=True)
class Invariant:
    """A promise a loader keeps.

    ``promise`` and ``catches`` are for the documentation. ``regimes`` are classes of cases the invariant must have judged
    in a run, or the run is vacuous; ``concerns`` tells the families whose cases it can judge at all. ``applies`` says why a
    case is none of its business, or None. ``check`` yields the ways a case breaks the promise; it may raise
    :class:`timm_conformance.trials.trial.Blocked`.
    """

    name: str
    theme: str
    promise: str
    catches: str
    regimes: tuple[str, ...]
    applies: Callable[[Trial], str | None]
    check: Check
    concerns: Callable[[Family], bool] = lambda family: True


INVARIANTS: dict[str, Invariant] = {}


def invariant(
    *,
    promise: str,
    catches: str,
    regimes: tuple[str, ...] = (),
    applies: Callable[[Trial], str | None] = lambda trial: None,
    concerns: Callable[[Family], bool] = lambda family: True,
) -> Callable[[Check], Check]:
    """Register a check under its own name, hyphenated; its module is its theme. Refuses a name used twice."""

    def register(check: Check) -> Check:
        name = check.__name__.replace("_", "-")
        if name in INVARIANTS:
            raise ValueError(f"two invariants are named {name}")
        theme = check.__module__.rsplit(".", 1)[-1]
        INVARIANTS[name] = Invariant(name, theme, promise, catches, regimes, applies, check, concerns)
        return check

    return register


def unless(condition: Callable[[Trial], bool], reason: str) -> Callable[[Trial], str | None]:
    """An ``applies`` that holds only where ``condition`` does, with the reason where it does not."""
    return lambda trial: None if condition(trial) else reason
